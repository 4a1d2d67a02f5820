"""Global pooling and its backward [N20, N21]."""

import numpy as np


def global_avg_pool2d_forward(x):
    """y[n,c] = 1/(HW) sum_{a,b} x[n,a,b,c]."""
    N, H, W, C = x.shape
    y = np.zeros((N, C))
    for n, a, b, c in np.ndindex(x.shape):
        y[n, c] += x[n, a, b, c] / (H * W)
    return y, x.shape


def global_avg_pool2d_backward(shape, dy):
    """Every entry of the map receives dy / (HW)."""
    _, H, W, _ = shape
    dx = np.zeros(shape)
    for n, a, b, c in np.ndindex(shape):
        dx[n, a, b, c] = dy[n, c] / (H * W)
    return (dx,)


def global_max_pool2d_forward(x):
    """y[n,c] = the largest entry of the map, NaN above all; the residual is its first position, row by row."""
    N, H, W, C = x.shape
    y, where = np.zeros((N, C)), np.zeros((N, C, 2), int)
    for n, c in np.ndindex(N, C):
        best = None
        for a, b in np.ndindex(H, W):
            entry = x[n, a, b, c]
            if best is None or entry > best or (np.isnan(entry) and not np.isnan(best)):
                best = entry
                where[n, c] = a, b
        y[n, c] = best
    return y, (x.shape, where)


def global_max_pool2d_backward(residuals, dy):
    """dy goes to the position of the maximum."""
    shape, where = residuals
    dx = np.zeros(shape)
    for n, c in np.ndindex(dy.shape):
        a, b = where[n, c]
        dx[n, a, b, c] = dy[n, c]
    return (dx,)
