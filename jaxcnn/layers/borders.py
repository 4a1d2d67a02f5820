r"""Rows and columns cut off, or zeros put around: each the transpose of the other. NHWC; no weights.

Shapes:  crop2d  x (N,H,W,C) to y (N, H-top-bottom, W-left-right, C);   pad2d  with + for -

(1)  cut(x)[n,a,b,c]  = x[n, a+top, b+left, c]
(2)  zeros(x)[n,a,b,c] = x[n, a-top, b-left, c] where that is an entry of x, else 0
(3)  crop2d   y = cut(x)      dx = zeros(dy)                                                         [N26]
(4)  pad2d    y = zeros(x)    dx = cut(dy)                                                           [N26]

Loops: reference/borders.py. Tests: tests/layers/test_borders.py.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from ..errors import InputError, check_floating, check_shape, is_int, shown
from ..geometry import LIMIT, Pads, Pair, fixed_pads
from ..operation import Static, operation
from .base import OperationLayer

__all__ = ["Crop2d", "Pad2d", "crop2d", "pad2d"]


@operation
def crop2d(x, *, rows: Pair, columns: Pair):
    """x without its outermost rows and columns [N26].

    Args:
        x: (N, H, W, C), float32, bfloat16 or float64.
        rows: how many to cut at the (top, bottom).
        columns: how many to cut at the (left, right).

    Returns:
        (N, H - top - bottom, W - left - right, C) of x's dtype. Its derivative is `crop2d.backward`.

    Raises:
        InputError: x has another shape or dtype, or nothing is left of it.

    >>> x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    >>> y, residuals = crop2d.forward(x, rows=(0, 1), columns=(1, 0))
    >>> print(y[0, :, :, 0], crop2d.backward(residuals, y, rows=(0, 1), columns=(1, 0))[0][0, :, :, 0])
    [[1. 2. 3.]] [[0. 1. 2. 3.]
     [0. 0. 0. 0.]]
    """
    check_floating("crop2d", 4, x=x)
    for name, cut, n in zip(("rows", "columns"), _checked_cuts(rows, columns), x.shape[1:3], strict=True):
        if sum(cut) >= n:
            raise InputError(f"crop2d: {name} is {cut} but must leave at least 1 of the {n} {name} of x")
    return _cut(x, (rows, columns)), Static(x.shape)  # (3)


@crop2d.rule
def _(residuals, dy, *, rows, columns):
    """(3): `(dx,)` from the residual shape and dy of y's shape."""
    cuts = rows, columns
    check_shape("crop2d.backward", "dy", dy, _grown(residuals.value, cuts, -1))
    return (_zeros(dy, cuts),)  # (3)


@operation
def pad2d(x, *, padding: int | Pads):
    """x with zeros around [N26].

    Args:
        x: (N, H, W, C), float32, bfloat16 or float64.
        padding: rows and columns of zeros, an int >= 0 or ((top, bottom), (left, right)).

    Returns:
        (N, H + top + bottom, W + left + right, C) of x's dtype. Its derivative is `pad2d.backward`.

    Raises:
        InputError: x has another shape or dtype, or the padding another form or 2**31 entries in a map.

    >>> y, residuals = pad2d.forward(jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1), padding=((1, 0), (0, 1)))
    >>> print(y[0, :, :, 0], pad2d.backward(residuals, y + 5, padding=((1, 0), (0, 1)))[0][0, :, :, 0])
    [[0. 0. 0.]
     [1. 2. 0.]] [[6. 7.]]
    """
    check_floating("pad2d", 4, x=x)
    pads = fixed_pads("pad2d", padding)
    _, P, Q, _ = _grown(x.shape, pads, 1)
    if P * Q >= LIMIT:
        raise InputError(f"pad2d: the output is {P}x{Q} but must have fewer than 2**31 entries in a map")
    return _zeros(x, pads), Static(x.shape)  # (4)


@pad2d.rule
def _(residuals, dy, *, padding):
    """(4): `(dx,)` from the residual shape and dy of y's shape."""
    pads = fixed_pads("pad2d", padding)
    check_shape("pad2d.backward", "dy", dy, _grown(residuals.value, pads, 1))
    return (_cut(dy, pads),)  # (4)


def _cut(x, borders):
    """(1)."""
    (top, bottom), (left, right) = borders
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]


def _zeros(x, borders):
    """(2); not by lax.pad, whose transpose, a negative padding, XLA on CPU refuses unless it simplifies it away."""
    for axis, border in enumerate(borders, 1):
        before, after = (jnp.zeros((*x.shape[:axis], n, *x.shape[axis + 1 :]), x.dtype) for n in border)
        x = jnp.concatenate([before, x, after], axis)
    return x


def _grown(shape, borders, sign):
    (N, H, W, C), (rows, columns) = shape, borders
    return N, H + sign * sum(rows), W + sign * sum(columns), C


def _checked_cuts(rows, columns):
    for name, cut in (("rows", rows), ("columns", columns)):
        if not (isinstance(cut, tuple) and len(cut) == 2 and all(is_int(n) and n >= 0 for n in cut)):
            raise InputError(f"crop2d: {name} is {shown(cut)} but must be a pair of ints, each at least 0")
    return rows, columns


@dataclass(frozen=True)
class Crop2d(OperationLayer):
    """Spec of `crop2d`.

    >>> Crop2d((1, 1), (2, 0)).output_shape((8, 8, 3))
    (6, 6, 3)
    """

    rows: Pair
    columns: Pair

    op = crop2d

    def __post_init__(self):
        _checked_cuts(self.rows, self.columns)


@dataclass(frozen=True)
class Pad2d(OperationLayer):
    """Spec of `pad2d`.

    >>> Pad2d(((1, 1), (2, 0))).output_shape((8, 8, 3))
    (10, 10, 3)
    """

    padding: int | Pads

    op = pad2d

    def __post_init__(self):
        fixed_pads("pad2d", self.padding)
