r"""Activations x = f(u), applied entry by entry, and softmax, applied along the last axis.

The residual is the output wherever the derivative is a function of it, u for (7) alone.

(1)  relu      y = max(u, 0)                          du = dy 1[u > 0],  so f'(0) = 0                 [A3]
(2)  sigmoid   y = 1 / (1 + e^-u)                     du = dy y (1 - y)                               [A1]
(3)  tanh      y = tanh u                             du = dy (1 - y^2)                               [A2]
(4)  scaled    y = A tanh(S u), A = 1.7159, S = 2/3   du = dy S (A - y^2 / A),  so f(1) = 1 to 1e-5   [A2]
(5)  softmax   y_i = e^{u_i} / sum_j e^{u_j}          du = y (dy - sum_k dy_k y_k)               [A4, B12]
(6)  leaky     y = u where u > 0, else slope u        du = dy (1[u > 0] + slope 1[u <= 0]), f'(0) = slope  [N10]
(7)  hard      y = u min(max(u + 3, 0), 6) / 6        du = dy (0 to -3, then (2u + 3) / 6, 1 from 3)       [N16]

The smooth ones that are newer stand in smooth.py.
Loops: reference/activation.py. Tests: tests/layers/test_activation.py.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ..errors import InputError, check_floating, check_shape, is_number, shown
from ..operation import operation
from .base import OperationLayer

__all__ = [
    "HardSwish",
    "LeakyReLU",
    "ReLU",
    "ScaledTanh",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "hard_swish",
    "leaky_relu",
    "relu",
    "scaled_tanh",
    "sigmoid",
    "softmax",
    "tanh",
]


@operation
def relu(u):
    """Rectifier, max(u, 0) [A3]: any shape, any floating dtype; NaN stays NaN; the derivative at 0 is 0.

    Raises:
        InputError: u is not a floating-point array.

    >>> print(relu(jnp.array([-1.0, 0.0, 2.0])), jax.grad(relu)(0.0))
    [0. 0. 2.] 0.0
    """
    check_floating("relu", u=u)
    # not jnp.maximum: JAX halves its gradient at a tie, and a second derivative goes through here
    y = jnp.where(u <= 0, jnp.zeros_like(u), u)
    return y, y


@relu.rule
def _(y, dy):
    """(1): `(du,)` from the residual y and dy of y's shape."""
    check_shape("relu.backward", "dy", dy, y.shape)
    return (jnp.where(y > 0, dy, jnp.zeros_like(dy)),)


@operation
def sigmoid(u):
    """Logistic function, 1 / (1 + e^-u) [A1]: any shape, any floating dtype.

    Raises:
        InputError: u is not a floating-point array.

    >>> print(sigmoid(jnp.array(0.0)), jax.grad(sigmoid)(0.0))
    0.5 0.25
    """
    check_floating("sigmoid", u=u)
    y = jax.nn.sigmoid(u)
    return y, y


@sigmoid.rule
def _(y, dy):
    """(2): `(du,)` from the residual y and dy of y's shape."""
    check_shape("sigmoid.backward", "dy", dy, y.shape)
    return (dy * y * (1 - y),)


@operation
def tanh(u):
    """Hyperbolic tangent [A2]: any shape, any floating dtype.

    Raises:
        InputError: u is not a floating-point array.

    >>> print(tanh(jnp.array(0.0)), jax.grad(tanh)(0.0))
    0.0 1.0
    """
    check_floating("tanh", u=u)
    y = jnp.tanh(u)
    return y, y


@tanh.rule
def _(y, dy):
    """(3): `(du,)` from the residual y and dy of y's shape."""
    check_shape("tanh.backward", "dy", dy, y.shape)
    return (dy * (1 - y * y),)


AMPLITUDE, SLOPE = 1.7159, 2 / 3


@operation
def scaled_tanh(u):
    """LeNet-5's hyperbolic tangent, 1.7159 tanh(2u/3) [A2]: any shape, any floating dtype.

    LeCun et al., *Gradient-based learning applied to document recognition* (1998), appendix A. Targets of -1 and +1
    are reached at u = -1 and u = 1, where the unit is far from saturation.

    Raises:
        InputError: u is not a floating-point array.

    >>> print(scaled_tanh(jnp.array([-1.0, 0.0, 1.0])).round(4), f"{jax.grad(scaled_tanh)(0.0):.4f}")
    [-1.  0.  1.] 1.1439
    """
    check_floating("scaled_tanh", u=u)
    y = AMPLITUDE * jnp.tanh(SLOPE * u)
    return y, y


@scaled_tanh.rule
def _(y, dy):
    """(4): `(du,)` from the residual y and dy of y's shape."""
    check_shape("scaled_tanh.backward", "dy", dy, y.shape)
    return (dy * (SLOPE * (AMPLITUDE - y * y / AMPLITUDE)),)


@operation
def softmax(u):
    """Probabilities along the last axis, computed with the maximum subtracted [A4].

    Raises:
        InputError: u is not a floating-point array of at least one dimension.

    The example of D3 (which misprints the first as 0.0903):

    >>> print(softmax(jnp.array([2.0, 3.0, 4.0])).round(4))
    [0.09   0.2447 0.6652]
    """
    check_floating("softmax", u=u)
    if u.ndim < 1:
        raise InputError("softmax: u has shape () but must have at least one dimension")
    exponentials = jnp.exp(u - jax.lax.stop_gradient(u.max(axis=-1, keepdims=True)))
    y = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return y, y


@softmax.rule
def _(y, dy):
    """(5): `(du,)` from the residual y and dy of y's shape."""
    check_shape("softmax.backward", "dy", dy, y.shape)
    return (y * (dy - (dy * y).sum(axis=-1, keepdims=True)),)


@operation
def leaky_relu(u, *, slope=0.01):
    """Leaky rectifier, u where u > 0 and slope u elsewhere [N10]; the derivative at 0 is slope.

    Maas, Hannun & Ng, *Rectifier nonlinearities improve neural network acoustic models* (2013).

    Args:
        u: any shape, any floating dtype; NaN stays NaN.
        slope: a finite number above 0, so that the sign of y is that of u; `relu` is the limit 0.

    Raises:
        InputError: u is not a floating-point array, or the slope is out of range.

    >>> print(leaky_relu(jnp.array([-1.0, 0.0, 2.0]), slope=0.1), jax.grad(leaky_relu)(0.0))
    [-0.1  0.   2. ] 0.01
    """
    check_floating("leaky_relu", u=u)
    y = jnp.where(u > 0, u, above_zero("leaky_relu", "slope", slope) * u)
    return y, y


@leaky_relu.rule
def _(y, dy, *, slope):
    """(6): `(du,)` from the residual y, whose sign is u's, and dy of y's shape."""
    check_shape("leaky_relu.backward", "dy", dy, y.shape)
    return (jnp.where(y > 0, dy, float(slope) * dy),)


@operation
def hard_swish(u):
    """Piecewise approximation of `silu`, u relu6(u + 3) / 6 [N16]: any shape, any floating dtype; NaN stays NaN.

    Howard et al., *Searching for MobileNetV3* (2019), section 5.2. The derivative is 0 at -3 and 1 at 3: relu6 has
    derivative 0 at both of its kinks, as `relu` at 0.

    Raises:
        InputError: u is not a floating-point array.

    >>> print(hard_swish(jnp.array([-3.0, -1.5, 0.0, 3.0])), jax.grad(hard_swish)(-3.0), jax.grad(hard_swish)(3.0))
    [ 0.    -0.375  0.     3.   ] 0.0 1.0
    """
    check_floating("hard_swish", u=u)
    # the ends are chosen, not multiplied by 0 or 1: so y is right at infinity, and jax.grad agrees at the kinks
    y = jnp.where(u <= -3, jnp.zeros_like(u), jnp.where(u >= 3, u, u * (u + 3) / 6))
    return y, u


@hard_swish.rule
def _(u, dy):
    """(7): `(du,)` from the residual u and dy of u's shape."""
    check_shape("hard_swish.backward", "dy", dy, u.shape)
    return (jnp.where(u <= -3, jnp.zeros_like(dy), jnp.where(u >= 3, dy, dy * ((2 * u + 3) / 6))),)


def above_zero(op: str, name: str, value) -> float:
    """A static argument as a float, which takes the dtype of any array; refused unless finite and above 0."""
    if not (is_number(value) and 0 < value < math.inf):
        raise InputError(f"{op}: {name} is {shown(value)} but must be a finite number above 0")
    return float(value)


@dataclass(frozen=True)
class ReLU(OperationLayer):
    """Spec of `relu`."""

    op = relu


@dataclass(frozen=True)
class Sigmoid(OperationLayer):
    """Spec of `sigmoid`."""

    op = sigmoid


@dataclass(frozen=True)
class Tanh(OperationLayer):
    """Spec of `tanh`."""

    op = tanh


@dataclass(frozen=True)
class ScaledTanh(OperationLayer):
    """Spec of `scaled_tanh`."""

    op = scaled_tanh


@dataclass(frozen=True)
class Softmax(OperationLayer):
    """Spec of `softmax`; not needed before `softmax_cross_entropy`, which contains it."""

    op = softmax


@dataclass(frozen=True)
class LeakyReLU(OperationLayer):
    """Spec of `leaky_relu`."""

    slope: float = 0.01

    op = leaky_relu

    def __post_init__(self):
        above_zero("leaky_relu", "slope", self.slope)


@dataclass(frozen=True)
class HardSwish(OperationLayer):
    """Spec of `hard_swish`."""

    op = hard_swish
