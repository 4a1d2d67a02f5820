"""Upsampling by copies [T5, N22] or by straight lines between the entries [N23], and the backward of each."""

import math

import numpy as np

from .geometry import pair


def upsample2d_nearest_forward(x, *, factor):
    """y[n,p,q,c] = x[n, p // U, q // V, c]."""
    (N, H, W, C), (U, V) = x.shape, pair(factor)
    y = np.zeros((N, H * U, W * V, C))
    for n, p, q, c in np.ndindex(y.shape):
        y[n, p, q, c] = x[n, p // U, q // V, c]
    return y, x.shape


def upsample2d_nearest_backward(shape, dy, *, factor):
    """Every copy hands its dy to the entry that it is of."""
    U, V = pair(factor)
    dx = np.zeros(shape)
    for n, p, q, c in np.ndindex(dy.shape):
        dx[n, p // U, q // V, c] += dy[n, p, q, c]
    return (dx,)


def upsample2d_bilinear_forward(x, *, factor):
    """y[n,p,q,c] = the sum of up to four neighbours of its place in x, each times its shares along both axes."""
    (N, H, W, C), (U, V) = x.shape, pair(factor)
    y = np.zeros((N, H * U, W * V, C))
    for n, p, q, c in np.ndindex(y.shape):
        for i, of_row in _neighbours(p, U, H):
            for j, of_column in _neighbours(q, V, W):
                y[n, p, q, c] += of_row * of_column * x[n, i, j, c]
    return y, x.shape


def upsample2d_bilinear_backward(shape, dy, *, factor):
    """Every neighbour receives its share of dy."""
    (_, H, W, _), (U, V) = shape, pair(factor)
    dx = np.zeros(shape)
    for n, p, q, c in np.ndindex(dy.shape):
        for i, of_row in _neighbours(p, U, H):
            for j, of_column in _neighbours(q, V, W):
                dx[n, i, j, c] += of_row * of_column * dy[n, p, q, c]
    return (dx,)


def _neighbours(p, factor, size):
    """The entries before and after the centre of p, each with its share; one beyond the edge is the edge."""
    place = (p + 0.5) / factor - 0.5
    before = math.floor(place)
    share = place - before
    return [(min(max(i, 0), size - 1), s) for i, s in ((before, 1 - share), (before + 1, share))]
