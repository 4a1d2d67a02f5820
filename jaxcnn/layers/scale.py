r"""A factor for each map.

Shapes:  x, y, dy (..., C)   factor (C,)

(1)  y[...,c]   = factor[c] x[...,c]                                                                 [N25]
(2)  dx[...,c]  = factor[c] dy[...,c]                                                                [N25]
(3)  dfactor[c] = sum dy[...,c] x[...,c]   over all but the last axis, in float32 at least           [N25]

Loops: reference/scale.py. Tests: tests/layers/test_scale.py.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp

from ..errors import InputError, check_floating, check_shape
from ..operation import operation
from .base import OperationLayer

__all__ = ["Scale", "scale"]


@operation
def scale(x, factor):
    """x times a factor for each map, its last axis [N25].

    Args:
        x: (..., C), any floating dtype.
        factor: (C,), the same dtype.

    Returns:
        x's shape and dtype. Its derivative is `scale.backward`.

    Raises:
        InputError: a shape or a dtype does not fit.

    >>> y, residuals = scale.forward(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([10.0, -1.0]))
    >>> print(y)
    [[10. -2.]
     [30. -4.]]
    >>> dx, dfactor = scale.backward(residuals, jnp.ones((2, 2)))
    >>> print(dx, dfactor)
    [[10. -1.]
     [10. -1.]] [4. 6.]
    """
    check_floating("scale", x=x, factor=factor)
    if x.ndim < 1:
        raise InputError("scale: x has shape () but must have at least one dimension")
    check_shape("scale", "factor", factor, x.shape[-1:])
    return factor * x, (x, factor)  # (1)


@scale.rule
def _(residuals, dy):
    """(2), (3): `(dx, dfactor)` from `scale.forward`'s residuals and dy of x's shape."""
    x, factor = residuals
    check_shape("scale.backward", "dy", dy, x.shape)
    wide = dy.astype(jnp.promote_types(dy.dtype, jnp.float32))
    dfactor = (wide * x).sum(axis=tuple(range(x.ndim - 1)))  # (3)
    return factor * dy, dfactor.astype(factor.dtype)  # (2)


@dataclass(frozen=True)
class Scale(OperationLayer):
    """Spec of `scale`: its factors start at 1.

    >>> Scale().init(jax.random.key(0), (7, 7, 2))
    {'factor': Array([1., 1.], dtype=float32)}
    """

    op = scale

    def init(self, key, in_shape):
        if not in_shape:
            raise InputError("scale: the input has shape () but must have at least one dimension")
        return {"factor": jnp.ones(in_shape[-1])}

    def multiply_adds(self, in_shape):
        return math.prod(in_shape)
