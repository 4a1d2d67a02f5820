"""Window arithmetic [G1, G3], written apart from jaxcnn's."""

import math


def output_size(n, k, s, lo, hi, d):
    """[G1]: how many windows of k taps, dilated by d and moved by s, fit n entries padded by lo and hi.

    >>> output_size(200, 5, 2, 1, 1, 1)
    99
    """
    return math.floor((n + lo + hi - (d * (k - 1) + 1)) / s) + 1


def axes(size, kernel, stride, padding, dilation):
    """For height and width: (output size, stride, padding before, dilation)."""
    result = []
    for axis in (0, 1):
        n, k, s, d = size[axis], pair(kernel)[axis], pair(stride)[axis], pair(dilation)[axis]
        if padding == "VALID":
            lo, hi = 0, 0
        elif padding == "SAME":
            total = max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
            lo, hi = total // 2, total - total // 2
        elif isinstance(padding, int):
            lo, hi = padding, padding
        else:
            lo, hi = padding[axis]
        result.append((output_size(n, k, s, lo, hi, d), s, lo, d))
    return result


def pair(value):
    """An int as (int, int)."""
    return (value, value) if isinstance(value, int) else value
