"""Transposed convolution and its gradients [N24]."""

import numpy as np

from .geometry import pair


def conv_transpose2d_forward(x, weight, bias=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """Every entry of x lays down the kernel, times itself: y~[n, as+ud, bs+vd, o] += x[n,a,b,i] weight[u,v,o,i]."""
    shape = _output_shape(x, weight, stride, padding, output_padding, dilation, groups)
    y = np.zeros(shape)
    for target, source, tap in _products(x, weight, shape, stride, padding, dilation, groups):
        y[target] += x[source] * weight[tap]
    for n, p, q, o in np.ndindex(shape):
        if bias is not None:
            y[n, p, q, o] += bias[o]
    return y, (x, weight, bias)


def conv_transpose2d_backward(residuals, dy, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """Every product x w of the forward pass hands dy w to x and dy x to w; the bias takes dy."""
    x, weight, bias = residuals
    dx, dweight, dbias = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(dy.shape[3])
    for target, source, tap in _products(x, weight, dy.shape, stride, padding, dilation, groups):
        dx[source] += dy[target] * weight[tap]
        dweight[tap] += dy[target] * x[source]
    for n, p, q, o in np.ndindex(dy.shape):
        dbias[o] += dy[n, p, q, o]
    return dx, dweight, None if bias is None else dbias


def _products(x, weight, shape, stride, padding, dilation, groups):
    """Where in y, of what in x, with which weight: all that is not cut off."""
    (s, t), (d, e), ((top, _), (left, _)) = pair(stride), pair(dilation), _pads(padding)
    for n, a, b, i in np.ndindex(x.shape):
        for u, v, k in np.ndindex(weight.shape[:3]):
            p, q = a * s + u * d - top, b * t + v * e - left
            if 0 <= p < shape[1] and 0 <= q < shape[2]:
                group = i // (x.shape[3] // groups)
                yield (n, p, q, group * weight.shape[2] + k), (n, a, b, i), (u, v, k, i)


def _output_shape(x, weight, stride, padding, output_padding, dilation, groups):
    """(n - 1) s - lo - hi + d (k - 1) + 1 + extra along each axis."""
    sizes = [
        (n - 1) * s - lo - hi + d * (k - 1) + 1 + extra
        for n, k, s, (lo, hi), d, extra in zip(
            x.shape[1:3], weight.shape[:2], pair(stride), _pads(padding), pair(dilation), pair(output_padding),
            strict=True,
        )
    ]  # fmt: skip
    return (x.shape[0], *sizes, weight.shape[2] * groups)


def _pads(padding):
    return ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding
