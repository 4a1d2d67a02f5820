r"""Smooth relatives of the rectifier, applied entry by entry.

s(v) = 1 / (1 + e^-v);  Phi(u) = erfc(-u / sqrt 2) / 2, the share of a normal distribution below u; phi = Phi'

(1)  elu        y = u where u > 0, else a (e^u - 1)    du = dy where u > 0, else dy (y + a), so f'(0) = a      [N11]
(2)  gelu       y = u Phi(u)                           du = dy (Phi(u) + u phi(u)), phi = e^{-u^2/2} / sqrt(2 pi)
                                                                                                              [N12]
(3)  gelu_tanh  y = u (1 + tanh(v/2)) / 2 = u s(v),    v = 2 sqrt(2/pi) (u + c u^3), c = 0.044715             [N13]
(4)                                                    du = dy s(v) (1 + u s(-v) v'), v' = 2 sqrt(2/pi) (1 + 3 c u^2)
(5)  silu       y = u s(u)                             du = dy s(u) (1 + u s(-u))                             [N14]
(6)  softplus   y = log(1 + e^u)                       du = dy s(u) = dy (1 - e^-y)                           [N15]

(1) and (6) keep y, the others u. At +-inf values and gradients are the limits, 0 inf nowhere: where e^-|u| is 0, u is
replaced by +-FAR in the products with it.
Loops: reference/smooth.py. Tests: tests/layers/test_smooth.py.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.scipy.special import erfc

from ..errors import check_floating, check_shape
from ..operation import operation
from .activation import above_zero
from .base import OperationLayer

__all__ = ["ELU", "GELU", "GELUTanh", "SiLU", "Softplus", "elu", "gelu", "gelu_tanh", "silu", "softplus"]

FAR = 1000.0  # e^-1000 is 0 in float64, too


@operation
def elu(u, *, alpha=1.0):
    """Exponential linear unit, u where u > 0 and alpha (e^u - 1) elsewhere [N11]; the derivative at 0 is alpha.

    Clevert, Unterthiner & Hochreiter, *Fast and accurate deep network learning by exponential linear units* (2016).

    Args:
        u: any shape, any floating dtype; NaN stays NaN.
        alpha: a finite number above 0, so that the sign of y is that of u. Unless it is 1 there is a kink at 0.

    Raises:
        InputError: u is not a floating-point array, or alpha is out of range.

    >>> print(elu(jnp.array([-1.0, 0.0, 2.0])).round(4), jax.grad(elu)(0.0))
    [-0.6321  0.      2.    ] 1.0
    """
    check_floating("elu", u=u)
    # e^u of a large u, though not chosen, would make its second derivative 0 inf
    y = jnp.where(u > 0, u, above_zero("elu", "alpha", alpha) * jnp.expm1(jnp.where(u > 0, jnp.zeros_like(u), u)))
    return y, y


@elu.rule
def _(y, dy, *, alpha):
    """(1): `(du,)` from the residual y, whose sign is u's, and dy of y's shape."""
    check_shape("elu.backward", "dy", dy, y.shape)
    return (jnp.where(y > 0, dy, dy * (y + float(alpha))),)


@operation
def gelu(u):
    """Gaussian error linear unit, u Phi(u) [N12]: any shape, any floating dtype; NaN stays NaN.

    Hendrycks & Gimpel, *Gaussian error linear units* (2016). `gelu_tanh` is its approximation.

    Raises:
        InputError: u is not a floating-point array.

    >>> print(gelu(jnp.array([-1e4, 0.0, 1e4])), f"{gelu(1.0):.4f}", jax.grad(gelu)(0.0))
    [   -0.     0. 10000.] 0.8413 0.5
    """
    check_floating("gelu", u=u)
    return jnp.maximum(u, -FAR) * _normal_share(u), u


@gelu.rule
def _(u, dy):
    """(2): `(du,)` from the residual u and dy of u's shape."""
    check_shape("gelu.backward", "dy", dy, u.shape)
    near = jnp.clip(u, -FAR, FAR)
    density = jnp.exp(-near * near / 2) / math.sqrt(2 * math.pi)
    return (dy * (_normal_share(u) + near * density),)


def _normal_share(u):
    return erfc(-u / math.sqrt(2)) / 2


@operation
def gelu_tanh(u):
    """`gelu` with Phi(u) approximated by a tanh, u (1 + tanh(sqrt(2/pi) (u + 0.044715 u^3))) / 2 [N13].

    Hendrycks & Gimpel (2016), section 2; GPT-2's unit, and what `jax.nn.gelu` computes unless told otherwise.
    Any shape, any floating dtype; NaN stays NaN.

    Raises:
        InputError: u is not a floating-point array.

    >>> print(gelu_tanh(jnp.array([-1e4, 0.0, 1e4])), f"{gelu_tanh(1.0):.4f}", jax.grad(gelu_tanh)(0.0))
    [   -0.     0. 10000.] 0.8412 0.5
    """
    check_floating("gelu_tanh", u=u)
    return jnp.maximum(u, -FAR) * jax.nn.sigmoid(_inner(u)[0]), u  # (3)


@gelu_tanh.rule
def _(u, dy):
    """(4): `(du,)` from the residual u and dy of u's shape."""
    check_shape("gelu_tanh.backward", "dy", dy, u.shape)
    v, slope = _inner(u)
    near = jnp.clip(u, -FAR, FAR)
    return (dy * jax.nn.sigmoid(v) * (1 + near * jax.nn.sigmoid(-v) * slope),)


def _inner(u):
    """v of (3) and v' of (4)."""
    u, twice, c = jnp.clip(u, -FAR, FAR), 2 * math.sqrt(2 / math.pi), 0.044715
    return twice * (u + c * u * u * u), twice * (1 + 3 * c * u * u)


@operation
def silu(u):
    """Sigmoid-weighted linear unit, u / (1 + e^-u) [N14]: any shape, any floating dtype; NaN stays NaN.

    Elfwing, Uchibe & Doya, *Sigmoid-weighted linear units* (2018); swish with beta = 1.

    Raises:
        InputError: u is not a floating-point array.

    >>> print(silu(jnp.array([-1e4, 0.0, 1e4])), f"{silu(1.0):.4f}", jax.grad(silu)(0.0))
    [   -0.     0. 10000.] 0.7311 0.5
    """
    check_floating("silu", u=u)
    return jnp.maximum(u, -FAR) * jax.nn.sigmoid(u), u


@silu.rule
def _(u, dy):
    """(5): `(du,)` from the residual u and dy of u's shape."""
    check_shape("silu.backward", "dy", dy, u.shape)
    near = jnp.clip(u, -FAR, FAR)
    return (dy * jax.nn.sigmoid(u) * (1 + near * jax.nn.sigmoid(-u)),)


@operation
def softplus(u):
    """Smooth rectifier, log(1 + e^u) [N15], without overflow: any shape, any floating dtype; NaN stays NaN.

    Dugas et al., *Incorporating second-order functional knowledge for better option pricing* (2001).

    Raises:
        InputError: u is not a floating-point array.

    >>> print(softplus(jnp.array([-1e4, 1e4])), f"{softplus(0.0):.4f}", jax.grad(softplus)(0.0))
    [    0. 10000.] 0.6931 0.5
    """
    check_floating("softplus", u=u)
    y = jnp.logaddexp(u, jnp.zeros_like(u))
    return y, y


@softplus.rule
def _(y, dy):
    """(6): `(du,)` from the residual y and dy of y's shape."""
    check_shape("softplus.backward", "dy", dy, y.shape)
    return (-dy * jnp.expm1(-y),)


@dataclass(frozen=True)
class ELU(OperationLayer):
    """Spec of `elu`."""

    alpha: float = 1.0

    op = elu

    def __post_init__(self):
        above_zero("elu", "alpha", self.alpha)


@dataclass(frozen=True)
class GELU(OperationLayer):
    """Spec of `gelu`."""

    op = gelu


@dataclass(frozen=True)
class GELUTanh(OperationLayer):
    """Spec of `gelu_tanh`."""

    op = gelu_tanh


@dataclass(frozen=True)
class SiLU(OperationLayer):
    """Spec of `silu`."""

    op = silu


@dataclass(frozen=True)
class Softplus(OperationLayer):
    """Spec of `softplus`."""

    op = softplus
