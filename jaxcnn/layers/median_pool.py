r"""Median pooling: the middle value of each window. NHWC; no activation of its own, f' = 1.

Shapes:  x (N,H,W,C)   y, dy (N,P,Q,C)   window (U,V), moved by s

(1)  a_0 <= a_1 <= ... <= a_{UV-1}     the window sorted; equal entries stay in row-major order
(2)  y = (a_l + a_h) / 2               l = floor((UV - 1) / 2), h = floor(UV / 2); l = h where UV is odd          [F5]
(3)  dx[the entry that is a_l] += dy / 2 ;  dx[the entry that is a_h] += dy / 2                                 [B4]

So of tied values that row-major order owns dy that puts it in the middle. A window with a NaN gives NaN. Windows may
overlap: then an entry of x receives from each, summed in float32 at least.
Loops: reference/median_pool.py. Tests: tests/layers/test_median_pool.py.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from ..errors import check_floating, check_shape
from ..geometry import Pair, check_pool, resolve_pool
from ..operation import Static, operation
from .base import OperationLayer
from .pool import _entries_at, _placed_at

__all__ = ["MedianPool2d", "median_pool2d"]


@operation
def median_pool2d(x, window_size: int | Pair, *, stride: int | Pair | None = None):
    """Median of each window; for an even window the mean of the two middle values [F5].

    Args:
        x: (N, H, W, C), float32, bfloat16 or float64.
        window_size: an int or (height, width).
        stride: step of the window, an int or (height, width); None is the window's size.

    Returns:
        (N, P, Q, C) of x's dtype, P and Q by `geometry.output_size`. Its derivative is `median_pool2d.backward`: each
        of the two middle entries owns half of dy; equal values are ordered as they stand, row by row.

    Raises:
        InputError: a shape, the dtype or the geometry does not fit.

    >>> x = jnp.array([[1.0, 5.0, 2.0], [4.0, 3.0, 9.0]]).reshape(1, 2, 3, 1)
    >>> print(median_pool2d(x, 2, stride=1)[0, :, :, 0])
    [[3.5 4. ]]

    >>> x = jnp.array([[1.0, 5.0, 2.0], [4.0, 3.0, 9.0]]).reshape(1, 2, 3, 1)
    >>> y, residuals = median_pool2d.forward(x, 2, stride=1)
    >>> print(median_pool2d.backward(residuals, 2 * jnp.ones_like(y), window_size=2, stride=1)[0][0, :, :, 0])
    [[0. 1. 0.]
     [1. 2. 0.]]
    """
    check_floating("median_pool2d", 4, x=x)
    window = resolve_pool("median_pool2d", x.shape[1:3], window_size, stride=stride)
    entries = jnp.stack([_entries_at(x, window, position) for position in window.taps])
    order = jnp.argsort(entries, axis=0, stable=True)  # (1)
    middle = order[jnp.array(_middle(len(entries)))]
    halves = jnp.take_along_axis(entries / 2, middle, axis=0)  # halved first: XLA turns a / 2 + b / 2 into (a + b) / 2
    y = jnp.where(jnp.isnan(entries).any(axis=0), jnp.nan, halves[0] + halves[1])  # (2)
    return y, (middle.astype(jnp.int16 if len(entries) > 127 else jnp.int8), Static(x.shape))


@median_pool2d.rule
def _(residuals, dy, *, window_size, stride):
    """(3): `(dx,)` from `median_pool2d.forward`'s residuals and dy (N, P, Q, C)."""
    middle, in_shape = residuals
    check_shape("median_pool2d.backward", "dy", dy, middle.shape[1:])
    window = resolve_pool("median_pool2d", in_shape.value[1:3], window_size, stride=stride)
    half = dy.astype(jnp.promote_types(dy.dtype, jnp.float32)) / 2
    dx = jnp.zeros(in_shape.value, half.dtype)
    for tap, position in enumerate(window.taps):
        dx += _placed_at(half * (middle == tap).sum(axis=0), window, position)  # (3)
    return (dx.astype(dy.dtype),)


def _middle(count):
    return (count - 1) // 2, count // 2


@dataclass(frozen=True)
class MedianPool2d(OperationLayer):
    """Spec of `median_pool2d`.

    >>> MedianPool2d(3, stride=2).output_shape((29, 29, 6))
    (14, 14, 6)
    """

    window_size: int | Pair
    stride: int | Pair | None = None

    def __post_init__(self):
        check_pool("median_pool2d", self.window_size, self.stride)

    op = median_pool2d
