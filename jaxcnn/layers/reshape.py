r"""Unrolling feature maps into one vector per sample.

Shapes:  x (N, ...)   y, dy (N, product of the rest)

(1)  y[n, :] = the entries of x[n] in row-major order: for NHWC by row, column, channel               [F9]
(2)  dx      = dy folded back into x's shape

The documents unroll map by map, which is a permutation of (1).
Loops: reference/reshape.py. Tests: tests/layers/test_reshape.py.
"""

import math
from dataclasses import dataclass

from ..errors import InputError, check_floating, check_shape
from ..operation import Static, operation
from .base import OperationLayer

__all__ = ["Flatten", "flatten"]


@operation
def flatten(x):
    """x (N, ...) as (N, features), row-major [F9].

    Raises:
        InputError: x is not a floating-point array of at least one dimension.

    >>> flatten(jnp.ones((2, 3, 3, 4))).shape
    (2, 36)
    """
    check_floating("flatten", x=x)
    if x.ndim < 1:
        raise InputError("flatten: x has shape () but must have shape (batch, ...)")
    return x.reshape(x.shape[0], math.prod(x.shape[1:])), Static(x.shape)


@flatten.rule
def _(residuals, dy):
    """(2): `(dx,)` from the residual shape and dy (N, features)."""
    N, *rest = residuals.value
    check_shape("flatten.backward", "dy", dy, (N, math.prod(rest)))
    return (dy.reshape(residuals.value),)


@dataclass(frozen=True)
class Flatten(OperationLayer):
    """Spec of `flatten`.

    >>> Flatten().output_shape((4, 4, 16))
    (256,)
    """

    op = flatten
