r"""Trainable sub-sampling: the sum of each block, with a multiplicative and an additive bias for each map. NHWC.

Shapes:  x (N,H,W,C)   beta, bias (C,)   y, dy (N,P,Q,C)   window (U,V), moved by its own size

(1)  down(x)[n,p,q,c] = sum_{u,v} x[n, pU+u, qV+v, c]
(2)  y[n,p,q,c]       = beta[c] down(x)[n,p,q,c] + bias[c]                                            [F7]
(3)  dbias[c]         = sum_{n,p,q} dy[n,p,q,c]                                                       [B9]
(4)  dbeta[c]         = sum_{n,p,q} dy[n,p,q,c] down(x)[n,p,q,c]                                      [B9]
(5)  dx               = up(beta dy),   up(d) = d ⊗ 1_{U x V}, zero where no window reaches            [B4]

up and down are those of upsample.py. y is the documents' pre-activation u; an activation layer follows. Sums run in
float32 at least.
Loops: reference/subsample.py. Tests: tests/layers/test_subsample.py.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax

from ..errors import check_floating, check_shape
from ..geometry import Pair, pair, resolve_pool
from ..operation import Static, operation
from .base import OperationLayer, check_image
from .upsample import downsample, upsample

__all__ = ["Subsample2d", "subsample2d"]


@operation
def subsample2d(x, beta, bias, window_size: int | Pair):
    """Sum of each block times beta plus bias, a pair of them for each map [F7].

    Args:
        x: (N, H, W, C), float32, bfloat16 or float64. Rows and columns beyond the last whole block do not count.
        beta: (C,), the same dtype: the multiplicative bias.
        bias: (C,), the same dtype: the additive bias.
        window_size: of the block, an int or (height, width).

    Returns:
        (N, H // height, W // width, C) of x's dtype. Its derivative is `subsample2d.backward`.

    Raises:
        InputError: a shape, a dtype or the geometry does not fit.

    >>> x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    >>> print(subsample2d(x, jnp.array([0.5]), jnp.array([1.0]), 2)[0, :, :, 0])
    [[ 6. 10.]]

    >>> x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    >>> y, residuals = subsample2d.forward(x, jnp.array([0.5]), jnp.array([1.0]), 2)
    >>> dx, dbeta, dbias = subsample2d.backward(residuals, jnp.array([2.0, 4.0]).reshape(1, 1, 2, 1), window_size=2)
    >>> print(dx[0, :, :, 0])
    [[1. 1. 2. 2.]
     [1. 1. 2. 2.]]
    >>> print(dbeta, dbias)
    [92.] [6.]
    """
    check_floating("subsample2d", 4, x=x, beta=beta, bias=bias)
    check_shape("subsample2d", "beta", beta, x.shape[3:])
    check_shape("subsample2d", "bias", bias, x.shape[3:])
    window = resolve_pool("subsample2d", x.shape[1:3], window_size)
    down = downsample(x, window.kernel)  # (1)
    return beta * down + bias, (down, beta, Static(x.shape))  # (2)


@subsample2d.rule
def _(residuals, dy, *, window_size):
    """(3)-(5): `(dx, dbeta, dbias)` from `subsample2d.forward`'s residuals and dy (N, P, Q, C)."""
    down, beta, in_shape = residuals
    check_shape("subsample2d.backward", "dy", dy, down.shape)
    wide = dy.astype(jnp.promote_types(dy.dtype, jnp.float32))
    dbias = wide.sum(axis=(0, 1, 2)).astype(dy.dtype)  # (3)
    dbeta = (wide * down).sum(axis=(0, 1, 2)).astype(dy.dtype)  # (4)
    up = upsample(beta * dy, pair("subsample2d", "window_size", window_size))
    ends = [(0, n - m, 0) for n, m in zip(in_shape.value, up.shape, strict=True)]
    return lax.pad(up, jnp.zeros((), up.dtype), ends), dbeta, dbias  # (5)


@dataclass(frozen=True)
class Subsample2d(OperationLayer):
    """Spec of `subsample2d`. It starts as mean pooling: beta = 1 / (height width), bias = 0.

    >>> Subsample2d(2).output_shape((28, 28, 6))
    (14, 14, 6)
    """

    window_size: int | Pair

    op = subsample2d

    def __post_init__(self):
        pair("subsample2d", "window_size", self.window_size)

    def init(self, key, in_shape):
        check_image("subsample2d", in_shape)
        U, V = pair("subsample2d", "window_size", self.window_size)
        return {"beta": jnp.full(in_shape[2], 1 / (U * V)), "bias": jnp.zeros(in_shape[2])}

    def multiply_adds(self, in_shape):
        P, Q, C = self.output_shape(in_shape)
        return P * Q * C
