"""Fixed pooling [F3, F4] and its backward [B4]."""

import numpy as np

from .geometry import axes, pair


def max_pool2d_forward(x, window_size, *, stride=None, padding=0):
    """y[n,p,q,c] = the largest entry of the window, NaN above all; the residual is its first position, row by row."""
    (P, s, top, _), (Q, t, left, _) = axes(x.shape[1:3], window_size, stride or window_size, padding, 1)
    y = np.zeros((x.shape[0], P, Q, x.shape[3]))
    where = np.zeros((*y.shape, 2), int)
    for n, p, q, c in np.ndindex(y.shape):
        best = None
        for u, v in np.ndindex(*pair(window_size)):
            row, column = p * s + u - top, q * t + v - left
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                entry = x[n, row, column, c]
                if best is None or entry > best or (np.isnan(entry) and not np.isnan(best)):
                    best = entry
                    where[n, p, q, c] = row, column
        y[n, p, q, c] = best
    return y, (x.shape, where)


def max_pool2d_backward(residuals, dy, *, window_size, stride=None, padding=0):
    """dy goes to the position of the maximum."""
    shape, where = residuals
    dx = np.zeros(shape)
    for n, p, q, c in np.ndindex(dy.shape):
        row, column = where[n, p, q, c]
        dx[n, row, column, c] += dy[n, p, q, c]
    return (dx,)


def avg_pool2d_forward(x, window_size, *, stride=None, padding=0):
    """y[n,p,q,c] = 1/(UV) sum of the window, padded zeros included."""
    (P, s, top, _), (Q, t, left, _) = axes(x.shape[1:3], window_size, stride or window_size, padding, 1)
    U, V = pair(window_size)
    y = np.zeros((x.shape[0], P, Q, x.shape[3]))
    for n, p, q, c in np.ndindex(y.shape):
        for u, v in np.ndindex(U, V):
            row, column = p * s + u - top, q * t + v - left
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                y[n, p, q, c] += x[n, row, column, c] / (U * V)
    return y, x.shape


def avg_pool2d_backward(residuals, dy, *, window_size, stride=None, padding=0):
    """Every entry of the window receives dy / (UV)."""
    (_, s, top, _), (_, t, left, _) = axes(residuals[1:3], window_size, stride or window_size, padding, 1)
    U, V = pair(window_size)
    _, H, W, _ = residuals
    dx = np.zeros(residuals)
    for n, p, q, c in np.ndindex(dy.shape):
        for u, v in np.ndindex(U, V):
            row, column = p * s + u - top, q * t + v - left
            if 0 <= row < H and 0 <= column < W:
                dx[n, row, column, c] += dy[n, p, q, c] / (U * V)
    return (dx,)
