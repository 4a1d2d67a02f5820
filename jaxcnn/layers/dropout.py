r"""Inverted dropout, for training only: evaluation leaves x alone.

Shapes:  x, keep, y, dy of one shape

(1)  y  = x keep / (1 - rate)      keep is 1 with probability 1 - rate, drawn anew for every entry    [T6]
(2)  dx = dy keep / (1 - rate)     the keep of the forward pass, never a new draw

Loops: reference/dropout.py. Tests: tests/layers/test_dropout.py.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ..errors import InputError, check_floating, check_key, check_shape, is_number, shown
from ..operation import operation
from ..spread import own_rows
from .base import Layer, required

__all__ = ["Dropout", "dropout"]


@operation
def dropout(x, key, *, rate: float, batch_axis: str | None = None):
    """x with each entry set to zero with probability `rate` and the others divided by 1 - rate [T6].

    Srivastava et al., *Dropout* (2014), in the inverted form that keeps the expectation.

    Args:
        x: any shape, any floating dtype.
        key: of `jax.random.key`; the same key draws the same entries.
        rate: probability of dropping an entry, 0 <= rate < 1.
        batch_axis: the mesh axis of `jax.shard_map` over which the batch is spread; None: all of it is here.

    Raises:
        InputError: x is not floating point, or the rate is out of range.

    >>> print(dropout(jnp.ones(8), jax.random.key(0), rate=0.5))
    [0. 0. 2. 2. 0. 2. 2. 0.]
    """
    check_floating("dropout", x=x)
    check_key("dropout", key)
    _check_rate(rate)
    keep = own_rows(lambda shape: jax.random.bernoulli(key, 1 - rate, shape), x.shape, batch_axis)
    return _kept(x, keep, rate), keep


@dropout.rule
def _(residuals, dy, *, rate, batch_axis):
    """(2): `(dx, None)` from the residual keep and dy; the key has no gradient."""
    check_shape("dropout.backward", "dy", dy, residuals.shape)
    return _kept(dy, residuals, rate), None


def _kept(x, keep, rate):
    return jnp.where(keep, x / (1 - float(rate)), jnp.zeros_like(x))


def _check_rate(rate):
    if not (is_number(rate) and 0 <= rate < 1):
        raise InputError(f"dropout: rate is {shown(rate)} but must be at least 0 and below 1")


@dataclass(frozen=True)
class Dropout(Layer):
    """Spec of `dropout`: at work where `train=True`, which then needs a key; the identity otherwise.

    >>> Dropout(0.5).apply({}, jnp.ones((1, 2)))
    Array([[1., 1.]], dtype=float32)
    """

    rate: float
    batch_axis: str | None = None

    def __post_init__(self):
        _check_rate(self.rate)

    def apply(self, params, x, *, train=False, key=None):
        return dropout(x, required("dropout", key), **vars(self)) if train else x

    def forward(self, params, x, *, train=False, key=None):
        return dropout.forward(x, required("dropout", key), **vars(self)) if train else (x, None)

    def backward(self, residuals, dy):
        return (dy if residuals is None else dropout.backward(residuals, dy, **vars(self))[0]), {}
