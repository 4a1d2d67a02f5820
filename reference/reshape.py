"""Unrolling feature maps into vectors [F9]."""

import numpy as np


def flatten_forward(x):
    """Row by row, column by column, channel by channel."""
    y = np.zeros((x.shape[0], x[0].size))
    for n in range(x.shape[0]):
        for position, index in enumerate(np.ndindex(x.shape[1:])):
            y[n, position] = x[(n, *index)]
    return y, x.shape


def flatten_backward(shape, dy):
    """The same positions, backwards."""
    dx = np.zeros(shape)
    for n in range(shape[0]):
        for position, index in enumerate(np.ndindex(*shape[1:])):
            dx[(n, *index)] = dy[n, position]
    return (dx,)
