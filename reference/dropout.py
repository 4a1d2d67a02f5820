"""Inverted dropout [T6]. The draw is an argument here: NumPy has not JAX's random numbers."""

import numpy as np


def dropout_forward(x, keep, *, rate):
    """x / (1 - rate) where the entry is kept, 0 elsewhere."""
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        if keep[index]:
            y[index] = x[index] / (1 - rate)
    return y, keep


def dropout_backward(keep, dy, *, rate):
    """dy / (1 - rate) where the entry was kept."""
    dx = np.zeros(dy.shape)
    for index in np.ndindex(dy.shape):
        if keep[index]:
            dx[index] = dy[index] / (1 - rate)
    return dx, None
