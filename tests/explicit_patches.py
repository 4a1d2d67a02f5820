"""What the taps of a convolution see, place by place with NumPy."""

import numpy as np


def seen(x, window, groups):
    """What the taps see at each place, (groups, N P Q, U V I / groups)."""
    (s, t), (d, e), (U, V) = window.stride, window.dilation, window.kernel
    x = np.pad(x, ((0, 0), *window.padding, (0, 0)))
    places = []
    for p in range(window.output[0]):
        for q in range(window.output[1]):
            patch = x[:, p * s : p * s + (U - 1) * d + 1 : d, q * t : q * t + (V - 1) * e + 1 : e]
            places.append(patch.reshape(len(x), U * V, groups, -1).transpose(2, 0, 1, 3).reshape(groups, len(x), -1))
    return np.concatenate(places, axis=1)
