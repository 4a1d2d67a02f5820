"""Outputs of branches joined: added, set side by side, multiplied [N30, N31, N32]."""

import numpy as np


def add_forward(a, b):
    """Entry by entry."""
    y = np.zeros(a.shape)
    for index in np.ndindex(a.shape):
        y[index] = a[index] + b[index]
    return y, None


def add_backward(_, dy):
    """All of dy to both."""
    da, db = np.zeros(dy.shape), np.zeros(dy.shape)
    for index in np.ndindex(dy.shape):
        da[index] = db[index] = dy[index]
    return da, db


def concatenate_forward(a, b):
    """Channel c of y is a's while there are such, then b's."""
    A, B = a.shape[-1], b.shape[-1]
    y = np.zeros((*a.shape[:-1], A + B))
    for *place, c in np.ndindex(y.shape):
        y[(*place, c)] = a[(*place, c)] if c < A else b[(*place, c - A)]
    return y, (a.shape, b.shape)


def concatenate_backward(shapes, dy):
    """To the one that it came from."""
    da, db = (np.zeros(shape) for shape in shapes)
    A = da.shape[-1]
    for *place, c in np.ndindex(dy.shape):
        if c < A:
            da[(*place, c)] = dy[(*place, c)]
        else:
            db[(*place, c - A)] = dy[(*place, c)]
    return da, db


def multiply_forward(a, b):
    """Entry by entry; a gate has one entry for a whole map."""
    y = np.zeros(max(a.shape, b.shape, key=lambda shape: (len(shape), np.prod(shape))))
    for index in np.ndindex(y.shape):
        y[index] = a[_entry(index, a.shape)] * b[_entry(index, b.shape)]
    return y, (a, b)


def multiply_backward(residuals, dy):
    """Each entry of dy to both factors of its product."""
    a, b = residuals
    da, db = np.zeros(a.shape), np.zeros(b.shape)
    for index in np.ndindex(dy.shape):
        i, j = _entry(index, a.shape), _entry(index, b.shape)
        da[i] += dy[index] * b[j]
        db[j] += dy[index] * a[i]
    return da, db


def _entry(index, shape):
    """The place in an array of this shape of what is at `index` of the product."""
    if len(shape) < len(index):
        return index[0], index[-1]
    return tuple(min(i, size - 1) for i, size in zip(index, shape, strict=True))
