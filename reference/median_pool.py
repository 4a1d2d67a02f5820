"""Median pooling [F5] and its backward [B4]."""

import numpy as np

from .geometry import axes, pair


def median_pool2d_forward(x, window_size, *, stride=None):
    """y[n,p,q,c] = the mean of the two middle values; the residual is their positions, one and the same if odd."""
    (P, s, _, _), (Q, t, _, _) = axes(x.shape[1:3], window_size, stride or window_size, 0, 1)
    y = np.zeros((x.shape[0], P, Q, x.shape[3]))
    where = np.zeros((*y.shape, 2, 2), int)
    for n, p, q, c in np.ndindex(y.shape):
        window = [(x[n, p * s + u, q * t + v, c], p * s + u, q * t + v) for u, v in np.ndindex(*pair(window_size))]
        window.sort()  # by value, then by row, then by column
        for half, (a, row, column) in enumerate((window[(len(window) - 1) // 2], window[len(window) // 2])):
            y[n, p, q, c] += a / 2
            where[n, p, q, c, half] = row, column
    return y, (x.shape, where)


def median_pool2d_backward(residuals, dy, *, window_size, stride=None):
    """Half of dy goes to each of the two middle positions."""
    shape, where = residuals
    dx = np.zeros(shape)
    for n, p, q, c in np.ndindex(dy.shape):
        for row, column in where[n, p, q, c]:
            dx[n, row, column, c] += dy[n, p, q, c] / 2
    return (dx,)
