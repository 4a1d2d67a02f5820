"""A factor for each map, and its gradients [N25]."""

import numpy as np


def scale_forward(x, factor):
    """y[...,c] = factor[c] x[...,c]."""
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        y[index] = factor[index[-1]] * x[index]
    return y, (x, factor)


def scale_backward(residuals, dy):
    """Every product hands dy times the factor to x and dy x to the factor."""
    x, factor = residuals
    dx, dfactor = np.zeros(x.shape), np.zeros(factor.shape)
    for index in np.ndindex(x.shape):
        dx[index] = factor[index[-1]] * dy[index]
        dfactor[index[-1]] += x[index] * dy[index]
    return dx, dfactor
