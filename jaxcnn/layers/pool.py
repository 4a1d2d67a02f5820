r"""Fixed pooling: the maximum or the mean of each window. NHWC; no activation of its own, f' = 1.

Shapes:  x (N,H,W,C)   y, dy (N,P,Q,C)   window (U,V), moved by s

(1)  max   y[n,p,q,c] = max_{u,v} x~[n, ps+u, qs+v, c]              x~ is x padded with -inf           [F3]
(2)        k[n,p,q,c] = u V + v of the first position, row by row, that holds the maximum
(3)        dx~[n, ps+u, qs+v, c] += dy[n,p,q,c] 1[k = u V + v]                                        [B4]
(4)  mean  y[n,p,q,c] = 1/(UV) sum_{u,v} x~[n, ps+u, qs+v, c]       x~ is x padded with 0              [F4]
(5)        dx~[n, ps+u, qs+v, c] += dy[n,p,q,c] / (UV)               that is up(dy) / (UV)            [B4]

Windows may overlap: then an entry of x receives from each, summed in float32 at least. Where they stand side by side,
up(dy) = dy ⊗ 1_{U x V}, the Kronecker product, is a broadcast. In (4) the padded zeros count, and the divisor is always
the size UV of the window. In (1) the first NaN wins.
Loops: reference/pool.py. Tests: tests/layers/test_pool.py.
"""

import functools
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import check_floating, check_shape
from ..geometry import Padding, Pair, check_pool, resolve_pool
from ..kernels import materialized
from ..operation import Static, operation
from .base import OperationLayer

__all__ = ["AvgPool2d", "MaxPool2d", "avg_pool2d", "max_pool2d"]


@operation
def max_pool2d(x, window_size: int | Pair, *, stride: int | Pair | None = None, padding: Padding = 0):
    """Maximum of each window [F3].

    Args:
        x: (N, H, W, C), float32, bfloat16 or float64.
        window_size: an int or (height, width).
        stride: step of the window, an int or (height, width); None is the window's size.
        padding: entries of -inf around x: an int, ((top, bottom), (left, right)), "SAME" or "VALID".

    Returns:
        (N, P, Q, C) of x's dtype, P and Q by `geometry.output_size`. Its derivative is `max_pool2d.backward`: where
        several entries tie, the first in row-major order owns all of dy.

    Raises:
        InputError: a shape, the dtype or the geometry does not fit, or a window lies wholly in the padding.

    >>> x = jnp.array([[1.0, 5.0, 2.0], [4.0, 3.0, 9.0]]).reshape(1, 2, 3, 1)
    >>> print(max_pool2d(x, (2, 2), stride=1)[0, :, :, 0])
    [[5. 9.]]

    >>> x = jnp.array([[1.0, 5.0, 2.0], [4.0, 3.0, 9.0]]).reshape(1, 2, 3, 1)
    >>> y, residuals = max_pool2d.forward(x, 2, stride=1)
    >>> print(max_pool2d.backward(residuals, 10 * y, window_size=2, stride=1)[0][0, :, :, 0])
    [[ 0. 50.  0.]
     [ 0.  0. 90.]]
    """
    check_floating("max_pool2d", 4, x=x)
    window = resolve_pool("max_pool2d", x.shape[1:3], window_size, stride=stride, padding=padding)
    padded = _padded(materialized(x), window, -jnp.inf)  # else y and (2) may see it rounded otherwise
    entries = [_entries_at(padded, window, position) for position in window.taps]
    y = entries[0]
    for entry in entries[1:]:  # not jnp.maximum: its derivative shares out a tie
        y = jnp.where((entry > y) | (entry != entry), entry, y)  # (1)
    y = materialized(y)
    k = jnp.zeros(y.shape, np.min_scalar_type(-len(entries)))
    for tap, (entry, position) in reversed(list(enumerate(zip(entries, window.taps, strict=True)))):
        holds = (entry == y) | (entry != entry)  # the maximum, or NaN
        k = jnp.where(holds & _inside(window, position), jnp.array(tap, k.dtype), k)  # (2)
    return y, (materialized(k), Static(x.shape))


@max_pool2d.rule
def _(residuals, dy, *, window_size, stride, padding):
    """(3): `(dx,)` from `max_pool2d.forward`'s residuals and dy (N, P, Q, C)."""
    k, in_shape = residuals
    window = resolve_pool("max_pool2d", in_shape.value[1:3], window_size, stride=stride, padding=padding)
    check_shape("max_pool2d.backward", "dy", dy, k.shape)
    U, V = window.kernel
    if window.tiles:
        taps = np.arange(U * V, dtype=k.dtype).reshape(U, 1, V, 1)
        return (materialized(_untiled(jnp.where(_up(k) == taps, _up(dy), jnp.zeros((), dy.dtype)), window)),)  # (3)
    wide = dy.astype(jnp.promote_types(dy.dtype, jnp.float32))
    dx = jnp.zeros(in_shape.value, wide.dtype)
    for tap, position in enumerate(window.taps):
        dx += _placed_at(jnp.where(k == tap, wide, jnp.zeros((), wide.dtype)), window, position)  # (3)
    return (materialized(dx.astype(dy.dtype)),)


@operation
def avg_pool2d(x, window_size: int | Pair, *, stride: int | Pair | None = None, padding: Padding = 0):
    """Mean of each window [F4]. Padded zeros count: the divisor is always the window's size.

    Args:
        x: (N, H, W, C), float32, bfloat16 or float64.
        window_size: an int or (height, width).
        stride: step of the window, an int or (height, width); None is the window's size.
        padding: zeros around x: an int, ((top, bottom), (left, right)), "SAME" or "VALID".

    Returns:
        (N, P, Q, C) of x's dtype, P and Q by `geometry.output_size`. Its derivative is `avg_pool2d.backward`.

    Raises:
        InputError: a shape, the dtype or the geometry does not fit, or a window lies wholly in the padding.

    >>> x = jnp.array([[1.0, 5.0, 2.0], [4.0, 2.0, 9.0]]).reshape(1, 2, 3, 1)
    >>> print(avg_pool2d(x, (2, 2), stride=1)[0, :, :, 0])
    [[3.  4.5]]

    >>> y, residuals = avg_pool2d.forward(jnp.ones((1, 2, 3, 1)), 2, stride=1)
    >>> print(avg_pool2d.backward(residuals, 4 * y, window_size=2, stride=1)[0][0, :, :, 0])
    [[1. 2. 1.]
     [1. 2. 1.]]
    """
    check_floating("avg_pool2d", 4, x=x)
    window = resolve_pool("avg_pool2d", x.shape[1:3], window_size, stride=stride, padding=padding)
    U, V = window.kernel
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if window.tiles:
        total = _sum_over_tiles(wide, window)
    else:
        padded = _padded(wide, window, 0)
        total = functools.reduce(jnp.add, [_entries_at(padded, window, position) for position in window.taps])
    return (total / (U * V)).astype(x.dtype), Static(x.shape)  # (4)


@avg_pool2d.rule
def _(residuals, dy, *, window_size, stride, padding):
    """(5): `(dx,)` from `avg_pool2d.forward`'s residuals and dy (N, P, Q, C)."""
    N, H, W, C = residuals.value
    window = resolve_pool("avg_pool2d", (H, W), window_size, stride=stride, padding=padding)
    check_shape("avg_pool2d.backward", "dy", dy, (N, *window.output, C))
    U, V = window.kernel
    share = dy.astype(jnp.promote_types(dy.dtype, jnp.float32)) / (U * V)
    if window.tiles:
        dx = _untiled(jnp.broadcast_to(_up(share), (N, window.output[0], U, window.output[1], V, C)), window)  # (5)
    else:
        dx = functools.reduce(jnp.add, [_placed_at(share, window, position) for position in window.taps])  # (5)
    return (dx.astype(dy.dtype),)


def _padded(x, window, value):
    return lax.pad(x, jnp.array(value, x.dtype), ((0, 0, 0), *((*pad, 0) for pad in window.padding), (0, 0, 0)))


def _entries_at(padded, window, position):
    """Entry `position` = (u, v) of every window of the padded input: (N, P, Q, C)."""
    N, _, _, C = padded.shape
    (u, v), (p, q), (s, t) = position, window.output, window.stride
    return lax.slice(padded, (0, u, v, 0), (N, u + (p - 1) * s + 1, v + (q - 1) * t + 1, C), (1, s, t, 1))


def _placed_at(values, window, position):
    """The adjoint of `_entries_at`: `values` at entry (u, v) of every window, zeros elsewhere, the padding cropped."""
    spans = [
        (tap - lo, n - (tap - lo) - ((p - 1) * s + 1), s - 1)
        for n, (lo, _), tap, p, s in zip(
            window.size, window.padding, position, window.output, window.stride, strict=True
        )
    ]
    return lax.pad(values, jnp.zeros((), values.dtype), ((0, 0, 0), *spans, (0, 0, 0)))


def _tiles(x, window):
    """x without what no window reaches, as windows side by side: (N, P, U, Q, V, C)."""
    N, _, _, C = x.shape
    (P, Q), (U, V) = window.output, window.kernel
    return x[:, : P * U, : Q * V].reshape(N, P, U, Q, V, C)


def _sum_over_tiles(x, window):
    """The rows of each window added one to another, then its columns: several times as fast as a sum on CPU."""
    tiles = _tiles(x, window)
    rows = functools.reduce(jnp.add, [tiles[:, :, u] for u in range(window.kernel[0])])
    return functools.reduce(jnp.add, [rows[:, :, :, v] for v in range(window.kernel[1])])


def _untiled(tiles, window):
    """The adjoint of `_tiles`: zero where no window reaches."""
    N, P, U, Q, V, C = tiles.shape
    (H, W) = window.size
    return lax.pad(
        tiles.reshape(N, P * U, Q * V, C),
        jnp.zeros((), tiles.dtype),
        ((0, 0, 0), (0, H - P * U, 0), (0, W - Q * V, 0), (0, 0, 0)),
    )


def _up(values):
    """What belongs to each window, (N, P, Q, C), as one that broadcasts over its entries: (N, P, 1, Q, 1, C)."""
    return values[:, :, None, :, None]


def _inside(window, position):
    """For which windows entry (u, v) is not padding: (P, Q, 1)."""
    rows, columns = (
        (lo <= np.arange(p) * s + tap) & (np.arange(p) * s + tap < lo + n)
        for n, (lo, _), tap, p, s in zip(
            window.size, window.padding, position, window.output, window.stride, strict=True
        )
    )
    return (rows[:, None] & columns)[:, :, None]


@dataclass(frozen=True)
class PaddedPool(OperationLayer, abstract=True):
    """What the specs of pooling with padding have in common."""

    window_size: int | Pair
    stride: int | Pair | None = None
    padding: Padding = 0

    def __post_init__(self):
        check_pool(self.op.name, self.window_size, self.stride, self.padding)


@dataclass(frozen=True)
class MaxPool2d(PaddedPool):
    """Spec of `max_pool2d`.

    >>> MaxPool2d(2).output_shape((28, 28, 6))
    (14, 14, 6)
    """

    op = max_pool2d


@dataclass(frozen=True)
class AvgPool2d(PaddedPool):
    """Spec of `avg_pool2d`.

    >>> AvgPool2d((2, 1)).output_shape((28, 28, 6))
    (14, 28, 6)
    """

    op = avg_pool2d
