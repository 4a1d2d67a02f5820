r"""Stochastic pooling, which draws entries in proportion to their size, and its expectation. NHWC; f' = 1.

Shapes:  x (N,H,W,C) >= 0   y, dy (N,P,Q,C)   window (U,V), moved by s

(1)  p_k           = a_k / sum_j a_j        a_k = x[n, ps+u, qs+v, c] with k = u V + v                [F6]
(2)  drawn         y = a_k                  one k for each window, with probability p_k               [F6]
(3)                dx[n, ps+u, qs+v, c] += dy[n,p,q,c] 1[k = u V + v]      the k of the forward pass  [B4]
(4)  expected      y = sum_k p_k a_k = sum_k a_k^2 / sum_k a_k                                        [F6]
(5)                dx[n, ps+u, qs+v, c] += dy[n,p,q,c] (2 a_k - y) / sum_j a_j                        [B4]

A window of zeros has no p: y is 0 and its first position owns all of dy, in (3) and in (5). (3) is the gradient for
the draw held fixed, not that of the expectation. Sums run in float32 at least.
Loops: reference/stochastic_pool.py. Tests: tests/layers/test_stochastic_pool.py.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, check_floating, check_key, check_shape
from ..geometry import Pair, check_pool, resolve_pool
from ..operation import Static, operation
from ..spread import own_rows
from .base import Layer, required
from .pool import _entries_at, _placed_at

__all__ = ["StochasticPool2d", "expected_pool2d", "stochastic_pool2d"]


@operation
def stochastic_pool2d(
    x, key, window_size: int | Pair, *, stride: int | Pair | None = None, batch_axis: str | None = None
):
    """One entry of each window, drawn with probability a_i / sum a: for training [F6].

    Zeiler & Fergus, *Stochastic pooling for regularization of deep convolutional neural networks* (2013), eq. 4-5.

    Args:
        x: (N, H, W, C), float32, bfloat16 or float64, not negative, as behind a ReLU or a sigmoid.
        key: of `jax.random.key`; the same key draws the same entries.
        window_size: an int or (height, width).
        stride: step of the window, an int or (height, width); None is the window's size.
        batch_axis: the mesh axis of `jax.shard_map` over which the batch is spread; None: all of it is here.

    Returns:
        (N, P, Q, C) of x's dtype, P and Q by `geometry.output_size`. A window of zeros gives 0. Its derivative is
        `stochastic_pool2d.backward`, which replays the draw.

    Raises:
        InputError: a shape, the dtype or the geometry does not fit, or x has a negative entry. Inside `jit`, `grad`
            and `vmap` values cannot be seen: there a window with a negative entry gives NaN.

    >>> x = jnp.array([[1.0, 0.0, 0.0], [3.0, 0.0, 5.0]]).reshape(1, 2, 3, 1)
    >>> print(stochastic_pool2d(x, jax.random.key(0), (2, 2), stride=1)[0, :, :, 0])
    [[3. 5.]]

    >>> x = jnp.array([[1.0, 0.0, 0.0], [3.0, 0.0, 5.0]]).reshape(1, 2, 3, 1)
    >>> y, residuals = stochastic_pool2d.forward(x, jax.random.key(0), 2, stride=1)
    >>> print(stochastic_pool2d.backward(residuals, 10 * y, window_size=2, stride=1)[0][0, :, :, 0])
    [[ 0.  0.  0.]
     [30.  0. 50.]]
    """
    entries = _windows("stochastic_pool2d", x, window_size, stride)
    check_key("stochastic_pool2d", key)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    totals = [entries[0].astype(dtype)]
    for entry in entries[1:]:
        totals.append(totals[-1] + entry)
    # always float32, so that the draw does not depend on the dtype; below 1 - 2^-24, so the product is below the total
    share = own_rows(lambda shape: jax.random.uniform(key, shape, jnp.float32), entries[0].shape, batch_axis)
    threshold = share.astype(dtype) * totals[-1]
    y, k = entries[0], jnp.zeros(entries[0].shape, jnp.int16 if len(entries) > 127 else jnp.int8)
    for tap in range(1, len(entries)):
        reached = (totals[tap - 1] <= threshold) & (threshold < totals[tap])
        y, k = jnp.where(reached, entries[tap], y), jnp.where(reached, jnp.array(tap, k.dtype), k)  # (2)
    return jnp.where(_none_negative(entries), y, jnp.nan), (k, Static(x.shape))


@stochastic_pool2d.rule
def _(residuals, dy, *, window_size, stride, batch_axis):
    """(3): `(dx, None)` from `stochastic_pool2d.forward`'s residuals and dy (N, P, Q, C); the key has no gradient."""
    k, in_shape = residuals
    check_shape("stochastic_pool2d.backward", "dy", dy, k.shape)
    window = resolve_pool("stochastic_pool2d", in_shape.value[1:3], window_size, stride=stride)
    wide = dy.astype(jnp.promote_types(dy.dtype, jnp.float32))
    dx = jnp.zeros(in_shape.value, wide.dtype)
    for tap, position in enumerate(window.taps):
        dx += _placed_at(jnp.where(k == tap, wide, jnp.zeros((), wide.dtype)), window, position)  # (3)
    return dx.astype(dy.dtype), None


@operation
def expected_pool2d(x, window_size: int | Pair, *, stride: int | Pair | None = None):
    """The expectation of `stochastic_pool2d`, sum p_i a_i: for evaluation [F6].

    Zeiler & Fergus (2013), eq. 6.

    Args:
        x: (N, H, W, C), float32, bfloat16 or float64, not negative.
        window_size: an int or (height, width).
        stride: step of the window, an int or (height, width); None is the window's size.

    Returns:
        (N, P, Q, C) of x's dtype. A window of zeros gives 0. Its derivative is `expected_pool2d.backward`.

    Raises:
        InputError: a shape, the dtype or the geometry does not fit, or x has a negative entry. Inside `jit`, `grad`
            and `vmap` values cannot be seen: there a window with a negative entry gives NaN.

    >>> x = jnp.array([[1.0, 0.0, 0.0], [3.0, 0.0, 5.0]]).reshape(1, 2, 3, 1)
    >>> print(expected_pool2d(x, (2, 2), stride=1)[0, :, :, 0])
    [[2.5 5. ]]

    >>> y, residuals = expected_pool2d.forward(jnp.array([1.0, 3.0]).reshape(1, 1, 2, 1), (1, 2))
    >>> print(expected_pool2d.backward(residuals, jnp.ones((1, 1, 1, 1)), window_size=(1, 2))[0][0, :, :, 0])
    [[-0.125  0.875]]
    """
    entries = _windows("expected_pool2d", x, window_size, stride)
    wide = [entry.astype(jnp.promote_types(x.dtype, jnp.float32)) for entry in entries]
    total = sum(wide[1:], wide[0])
    squares = sum((a * a for a in wide[1:]), wide[0] * wide[0])
    empty = total == 0
    y = jnp.where(empty, wide[0], squares / jnp.where(empty, jnp.ones_like(total), total))  # (4)
    return jnp.where(_none_negative(entries), y, jnp.nan).astype(x.dtype), (x, y, total)


@expected_pool2d.rule
def _(residuals, dy, *, window_size, stride):
    """(5): `(dx,)` from `expected_pool2d.forward`'s residuals and dy (N, P, Q, C)."""
    x, y, total = residuals
    check_shape("expected_pool2d.backward", "dy", dy, y.shape)
    window = resolve_pool("expected_pool2d", x.shape[1:3], window_size, stride=stride)
    empty = total == 0
    share = dy / jnp.where(empty, jnp.ones_like(total), total)
    dx = jnp.zeros(x.shape, share.dtype)
    for tap, position in enumerate(window.taps):
        of_empty = share if tap == 0 else jnp.zeros_like(share)
        a = _entries_at(x, window, position)
        dx += _placed_at(jnp.where(empty, of_empty, share * (2 * a - y)), window, position)  # (5)
    return (dx.astype(x.dtype),)


def _windows(op, x, window_size, stride):
    """The entries of every window, one array (N, P, Q, C) for each tap."""
    check_floating(op, 4, x=x)
    window = resolve_pool(op, x.shape[1:3], window_size, stride=stride)
    return [_entries_at(x, window, position) for position in window.taps]


def _refuse_negative(name):
    def refuse(x, *others, **more):
        if (least := np.asarray(x).min(initial=0)) < 0:
            raise InputError(f"{name}: x has the entry {least} but must have none below 0; put a ReLU before it")

    return refuse


stochastic_pool2d.refuse(_refuse_negative("stochastic_pool2d"))
expected_pool2d.refuse(_refuse_negative("expected_pool2d"))


def _none_negative(entries):
    least = entries[0]
    for entry in entries[1:]:
        least = jnp.minimum(least, entry)
    return least >= 0


@dataclass(frozen=True)
class StochasticPool2d(Layer):
    """Spec of `stochastic_pool2d` where `train=True`, which then needs a key; of `expected_pool2d` otherwise.

    >>> StochasticPool2d(2).output_shape((28, 28, 6))
    (14, 14, 6)
    """

    window_size: int | Pair
    stride: int | Pair | None = None
    batch_axis: str | None = None

    def __post_init__(self):
        check_pool("stochastic_pool2d", self.window_size, self.stride)

    def apply(self, params, x, *, train=False, key=None):
        if train:
            return stochastic_pool2d(x, required("stochastic_pool2d", key), **vars(self))
        return expected_pool2d(x, **self._window)

    def forward(self, params, x, *, train=False, key=None):
        if train:
            y, residuals = stochastic_pool2d.forward(x, required("stochastic_pool2d", key), **vars(self))
        else:
            y, residuals = expected_pool2d.forward(x, **self._window)
        return y, (residuals, Static(train))

    def backward(self, residuals, dy):
        kept, train = residuals
        if train.value:
            return stochastic_pool2d.backward(kept, dy, **vars(self))[0], {}
        return expected_pool2d.backward(kept, dy, **self._window)[0], {}

    @property
    def _window(self):
        return {"window_size": self.window_size, "stride": self.stride}
