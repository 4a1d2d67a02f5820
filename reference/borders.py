"""Rows and columns cut off, or zeros put around, and the backward of each [N26]."""

import numpy as np


def crop2d_forward(x, *, rows, columns):
    """y[n,a,b,c] = x[n, a+top, b+left, c]."""
    N, H, W, C = x.shape
    y = np.zeros((N, H - rows[0] - rows[1], W - columns[0] - columns[1], C))
    for n, a, b, c in np.ndindex(y.shape):
        y[n, a, b, c] = x[n, a + rows[0], b + columns[0], c]
    return y, x.shape


def crop2d_backward(shape, dy, *, rows, columns):
    """dy goes back to where its entry was; what was cut off receives nothing."""
    dx = np.zeros(shape)
    for n, a, b, c in np.ndindex(dy.shape):
        dx[n, a + rows[0], b + columns[0], c] = dy[n, a, b, c]
    return (dx,)


def pad2d_forward(x, *, padding):
    """y[n, a+top, b+left, c] = x[n,a,b,c], and zero elsewhere."""
    (top, bottom), (left, right) = _sides(padding)
    N, H, W, C = x.shape
    y = np.zeros((N, top + H + bottom, left + W + right, C))
    for n, a, b, c in np.ndindex(x.shape):
        y[n, a + top, b + left, c] = x[n, a, b, c]
    return y, x.shape


def pad2d_backward(shape, dy, *, padding):
    """An entry receives the dy of its place; that of the zeros is lost."""
    (top, _), (left, _) = _sides(padding)
    dx = np.zeros(shape)
    for n, a, b, c in np.ndindex(shape):
        dx[n, a, b, c] = dy[n, a + top, b + left, c]
    return (dx,)


def _sides(padding):
    return ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding
