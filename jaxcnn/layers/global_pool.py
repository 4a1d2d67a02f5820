r"""Global pooling: the mean or the maximum of each whole map. NHWC; no activation of its own, f' = 1.

Shapes:  x (N,H,W,C)   y, dy (N,C)

(1)  mean  y[n,c]      = 1/(HW) sum_{a,b} x[n,a,b,c]                                                 [N20]
(2)        dx[n,a,b,c] = dy[n,c] / (HW)                                                              [N20]
(3)  max   k[n,c]      = a W + b of the first position, row by row, that holds the maximum; NaN wins
(4)        y[n,c]      = x[n,a,b,c] with k = a W + b                                                 [N21]
(5)        dx[n,a,b,c] = dy[n,c] 1[k = a W + b]                                                      [N21]

The mean of each map in place of fully connected layers: Lin, Chen & Yan, *Network in network* (2014), section 3.2. Its
sum runs in float32 at least.
Loops: reference/global_pool.py. Tests: tests/layers/test_global_pool.py.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from ..errors import InputError, check_floating, check_shape
from ..kernels import materialized
from ..operation import Static, operation
from .base import OperationLayer

__all__ = ["GlobalAvgPool2d", "GlobalMaxPool2d", "global_avg_pool2d", "global_max_pool2d"]


@operation
def global_avg_pool2d(x):
    """Mean of each map [N20]: Lin, Chen & Yan, *Network in network* (2014).

    Args:
        x: (N, H, W, C), float32, bfloat16 or float64.

    Returns:
        (N, C) of x's dtype. Its derivative is `global_avg_pool2d.backward`.

    Raises:
        InputError: x has another shape or dtype, or no entry in a map.

    >>> x = jnp.array([[1.0, 5.0, 3.0], [4.0, 2.0, 9.0]]).reshape(1, 2, 3, 1)
    >>> y, residuals = global_avg_pool2d.forward(x)
    >>> print(y, global_avg_pool2d.backward(residuals, 3 * y)[0][0, :, :, 0])
    [[4.]] [[2. 2. 2.]
     [2. 2. 2.]]
    """
    _check("global_avg_pool2d", x)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return wide.mean(axis=(1, 2)).astype(x.dtype), Static(x.shape)  # (1)


@global_avg_pool2d.rule
def _(residuals, dy):
    """(2): `(dx,)` from the residual shape and dy (N, C)."""
    N, H, W, C = residuals.value
    check_shape("global_avg_pool2d.backward", "dy", dy, (N, C))
    share = dy.astype(jnp.promote_types(dy.dtype, jnp.float32)) / (H * W)
    return (jnp.broadcast_to(share.astype(dy.dtype)[:, None, None], (N, H, W, C)),)  # (2)


@operation
def global_max_pool2d(x):
    """Maximum of each map [N21].

    Args:
        x: (N, H, W, C), float32, bfloat16 or float64.

    Returns:
        (N, C) of x's dtype. Its derivative is `global_max_pool2d.backward`: where several entries tie, the first in
        row-major order owns all of dy. The first NaN, where there is one, is the maximum.

    Raises:
        InputError: x has another shape or dtype, or no entry in a map.

    >>> x = jnp.array([[1.0, 9.0, 3.0], [4.0, 2.0, 9.0]]).reshape(1, 2, 3, 1)
    >>> y, residuals = global_max_pool2d.forward(x)
    >>> print(y, global_max_pool2d.backward(residuals, 3 * y)[0][0, :, :, 0])
    [[9.]] [[ 0. 27.  0.]
     [ 0.  0.  0.]]
    """
    _check("global_max_pool2d", x)
    N, H, W, C = x.shape
    entries = materialized(x).reshape(N, H * W, C)  # else y and k may see it rounded otherwise
    holds = (entries == entries.max(axis=1, keepdims=True)) | (entries != entries)  # the maximum, or NaN
    positions = _positions(H * W)
    k = jnp.where(holds, positions, positions[-1]).min(axis=1)  # (3); jnp.argmax takes eight times as long on CPU
    y = jnp.take_along_axis(entries, k[:, None].astype(jnp.int32), axis=1)[:, 0]  # (4)
    return y, (k, Static(x.shape))


@global_max_pool2d.rule
def _(residuals, dy):
    """(5): `(dx,)` from `global_max_pool2d.forward`'s residuals and dy (N, C)."""
    k, in_shape = residuals
    check_shape("global_max_pool2d.backward", "dy", dy, k.shape)
    _, H, W, _ = in_shape.value
    dx = jnp.where(_positions(H * W) == k[:, None], dy[:, None], jnp.zeros((), dy.dtype))  # (5)
    return (dx.reshape(in_shape.value),)


def _check(op, x):
    check_floating(op, 4, x=x)
    if 0 in x.shape[1:3]:
        raise InputError(f"{op}: x has shape {x.shape} but must have at least one row and one column")


def _positions(count):
    """(count, 1), in the smallest integers that hold them."""
    return np.arange(count, dtype=np.min_scalar_type(-count))[:, None]


@dataclass(frozen=True)
class GlobalAvgPool2d(OperationLayer):
    """Spec of `global_avg_pool2d`.

    >>> GlobalAvgPool2d().output_shape((7, 7, 512))
    (512,)
    """

    op = global_avg_pool2d


@dataclass(frozen=True)
class GlobalMaxPool2d(OperationLayer):
    """Spec of `global_max_pool2d`.

    >>> GlobalMaxPool2d().output_shape((7, 7, 512))
    (512,)
    """

    op = global_max_pool2d
