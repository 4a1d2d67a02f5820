"""Trainable sub-sampling [F7] and its gradients [B4, B9]."""

import numpy as np

from .geometry import pair


def subsample2d_forward(x, beta, bias, window_size):
    """y[n,p,q,c] = beta[c] sum_{u,v} x[n, pU+u, qV+v, c] + bias[c]."""
    U, V = pair(window_size)
    down = np.zeros((x.shape[0], x.shape[1] // U, x.shape[2] // V, x.shape[3]))
    y = np.zeros(down.shape)
    for n, p, q, c in np.ndindex(down.shape):
        for u, v in np.ndindex(U, V):
            down[n, p, q, c] += x[n, p * U + u, q * V + v, c]
        y[n, p, q, c] = beta[c] * down[n, p, q, c] + bias[c]
    return y, (x.shape, down, beta)


def subsample2d_backward(residuals, dy, *, window_size):
    """Every entry of the block receives beta dy ; dbeta[c] = sum dy down ; dbias[c] = sum dy."""
    shape, down, beta = residuals
    U, V = pair(window_size)
    dx, dbeta, dbias = np.zeros(shape), np.zeros(beta.shape), np.zeros(beta.shape)
    for n, p, q, c in np.ndindex(dy.shape):
        dbias[c] += dy[n, p, q, c]
        dbeta[c] += dy[n, p, q, c] * down[n, p, q, c]
        for u, v in np.ndindex(U, V):
            dx[n, p * U + u, q * V + v, c] += beta[c] * dy[n, p, q, c]
    return dx, dbeta, dbias
