"""Fully connected layer [F9] and its gradients [B1, B2, B6]."""

import numpy as np


def dense_forward(x, weight, bias=None):
    """y[n,o] = bias[o] + sum_i x[n,i] weight[i,o]."""
    y = np.zeros((x.shape[0], weight.shape[1]))
    for n, o in np.ndindex(y.shape):
        if bias is not None:
            y[n, o] = bias[o]
        for i in range(x.shape[1]):
            y[n, o] += x[n, i] * weight[i, o]
    return y, (x, weight, bias)


def dense_backward(residuals, dy):
    """dx[n,i] = sum_o dy[n,o] weight[i,o] ; dweight[i,o] = sum_n x[n,i] dy[n,o] ; dbias[o] = sum_n dy[n,o]."""
    x, weight, bias = residuals
    dx, dweight, dbias = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(weight.shape[1])
    for n, o in np.ndindex(dy.shape):
        dbias[o] += dy[n, o]
        for i in range(x.shape[1]):
            dx[n, i] += dy[n, o] * weight[i, o]
            dweight[i, o] += x[n, i] * dy[n, o]
    return dx, dweight, None if bias is None else dbias
