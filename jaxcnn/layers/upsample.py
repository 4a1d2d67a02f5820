r"""Upsampling by a whole factor: copies of each entry, or straight lines between the entries. NHWC; no weights.

Shapes:  x (N,H,W,C)   factor (U,V)   y, dy (N,P,Q,C), P = U H, Q = V W

(1)  nearest   y  = up(x) = x ⊗ 1_{U x V}, the Kronecker product: y[n,p,q,c] = x[n, p // U, q // V, c]  [T5, N22]
(2)            dx = down(dy),  down(d)[n,i,j,c] = sum_{u,v} d[n, iU+u, jV+v, c], the transpose of up    [T5, N22]
(3)  bilinear  y  = A_h x A_w^T for each map                                                                [N23]
(4)            dx = A_h^T dy A_w                                                                            [N23]
(5)            A_h[p,i] = max(0, 1 - |s_p - i|),  s_p = (p + 1/2) / U - 1/2, moved to the nearest of 0 to H - 1

s_p is where the centre of row p of y lies among the rows of x, whose centres are whole numbers ("half-pixel centres",
PyTorch's align_corners=False); beyond the outermost centres the edge is repeated. Each row of A_h, P x H, adds up to 1;
A_w, Q x W, is the same of V and W. Sums run in float32 at least.
Loops: reference/upsample.py. Tests: tests/layers/test_upsample.py.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import InputError, check_floating, check_shape, find
from ..geometry import LIMIT, Pair, pair, resolve_pool
from ..operation import Static, operation
from .base import Layer
from .pool import _sum_over_tiles

__all__ = ["Upsample2d", "upsample2d_bilinear", "upsample2d_nearest"]


@operation
def upsample2d_nearest(x, *, factor: int | Pair):
    """Every entry becomes a block of its copies [T5, N22].

    Args:
        x: (N, H, W, C), float32, bfloat16 or float64.
        factor: height and width of a block, an int or (height, width).

    Returns:
        (N, height H, width W, C) of x's dtype. Its derivative is `upsample2d_nearest.backward`, the sum of each block.

    Raises:
        InputError: a shape, the dtype or the factor does not fit.

    >>> y, residuals = upsample2d_nearest.forward(jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1), factor=(2, 3))
    >>> print(y[0, :, :, 0])
    [[1. 1. 1. 2. 2. 2.]
     [1. 1. 1. 2. 2. 2.]]
    >>> print(upsample2d_nearest.backward(residuals, y, factor=(2, 3))[0][0, :, :, 0])
    [[ 6. 12.]]
    """
    return upsample(x, _factors("upsample2d_nearest", x, factor)), Static(x.shape)  # (1)


@upsample2d_nearest.rule
def _(residuals, dy, *, factor):
    """(2): `(dx,)` from the residual shape and dy (N, P, Q, C)."""
    factors = pair("upsample2d_nearest", "factor", factor)
    check_shape("upsample2d_nearest.backward", "dy", dy, _enlarged(residuals.value, factors))
    return (downsample(dy, factors),)  # (2)


def upsample(x, factor: Pair) -> jax.Array:
    """`up` of (1): x (N, H, W, C) ⊗ 1_{U x V}, every entry a block of its copies [T5].

    Equal to `jnp.kron(x, jnp.ones((1, U, V, 1)))`, without its multiplications.

    >>> print(upsample(jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1), (1, 2))[0, :, :, 0])
    [[1. 1. 2. 2.]]
    """
    (N, H, W, C), (U, V) = x.shape, factor
    return jnp.broadcast_to(x[:, :, None, :, None], (N, H, U, W, V, C)).reshape(_enlarged(x.shape, factor))


def downsample(x, factor: Pair) -> jax.Array:
    """`down` of (2): the sum of each block, by correlating with ones and taking every n-th sample [T5].

    What lies beyond the last whole block does not count.

    >>> print(downsample(jnp.ones((1, 2, 5, 1)), (2, 2))[0, :, :, 0])
    [[4. 4.]]
    """
    window = resolve_pool("downsample", x.shape[1:3], factor)
    return _sum_over_tiles(x.astype(jnp.promote_types(x.dtype, jnp.float32)), window).astype(x.dtype)


@operation
def upsample2d_bilinear(x, *, factor: int | Pair):
    """Bilinear interpolation between the entries of each map, half-pixel centres, the edge repeated [N23].

    `torch.nn.functional.interpolate(..., mode="bilinear", align_corners=False)`, and `jax.image.resize` to a whole
    multiple of the size. A product with a whole matrix for each axis: one NaN or infinity in a map spreads over it.

    Args:
        x: (N, H, W, C), float32, bfloat16 or float64.
        factor: an int or (height, width).

    Returns:
        (N, height H, width W, C) of x's dtype. Its derivative is `upsample2d_bilinear.backward`.

    Raises:
        InputError: a shape, the dtype or the factor does not fit.

    >>> y, residuals = upsample2d_bilinear.forward(jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1), factor=(1, 2))
    >>> print(y[0, :, :, 0])
    [[0. 1. 3. 4.]]
    >>> print(upsample2d_bilinear.backward(residuals, y, factor=(1, 2))[0][0, :, :, 0])
    [[1.5 6.5]]
    """
    U, V = _factors("upsample2d_bilinear", x, factor)
    A_h, A_w = _interpolation(x.shape[1], U), _interpolation(x.shape[2], V)
    return _products("ph,nhwc->npwc", "qw,npwc->npqc", A_h, A_w, x), Static(x.shape)  # (3)


@upsample2d_bilinear.rule
def _(residuals, dy, *, factor):
    """(4): `(dx,)` from the residual shape and dy (N, P, Q, C)."""
    U, V = pair("upsample2d_bilinear", "factor", factor)
    check_shape("upsample2d_bilinear.backward", "dy", dy, _enlarged(residuals.value, (U, V)))
    A_h, A_w = _interpolation(residuals.value[1], U), _interpolation(residuals.value[2], V)
    return (_products("qw,npqc->npwc", "ph,npwc->nhwc", A_w, A_h, dy),)  # (4)


def _interpolation(size, factor):
    """(5): (factor size, size)."""
    s = np.clip((np.arange(factor * size) + 0.5) / factor - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(s[:, None] - np.arange(size)))


def _products(first, second, A, B, x):
    """x times A, then times B, summed as written; in full precision, which a GPU must be asked for."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axes, matrix in ((first, A), (second, B)):
        wide = jnp.einsum(axes, jnp.asarray(matrix, wide.dtype), wide, precision=lax.Precision.HIGHEST)
    return wide.astype(x.dtype)


def _factors(op, x, factor):
    check_floating(op, 4, x=x)
    factors = pair(op, "factor", factor)
    _, P, Q, _ = _enlarged(x.shape, factors)
    if not 0 < P * Q < LIMIT:
        raise InputError(f"{op}: the output is {P}x{Q} but must have at least 1 and fewer than 2**31 entries in a map")
    return factors


def _enlarged(shape, factor):
    (N, H, W, C), (U, V) = shape, factor
    return N, H * U, W * V, C


METHODS = {"nearest": upsample2d_nearest, "bilinear": upsample2d_bilinear}


@dataclass(frozen=True)
class Upsample2d(Layer):
    """Spec of `upsample2d_nearest` or, by `method="bilinear"`, of `upsample2d_bilinear`.

    >>> Upsample2d(2).output_shape((7, 7, 16))
    (14, 14, 16)
    """

    factor: int | Pair
    method: str = "nearest"

    def __post_init__(self):
        pair("upsample2d", "factor", self.factor)
        find("upsample2d: method", self.method, METHODS)

    def apply(self, params, x, *, train=False, key=None):
        return METHODS[self.method](x, factor=self.factor)

    def forward(self, params, x, *, train=False, key=None):
        return METHODS[self.method].forward(x, factor=self.factor)

    def backward(self, residuals, dy):
        return METHODS[self.method].backward(residuals, dy, factor=self.factor)[0], {}
