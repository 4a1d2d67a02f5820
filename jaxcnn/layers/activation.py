r"""Activations x = f(u), applied entry by entry, and softmax, applied along the last axis.

Every residual is the output itself: each derivative is a function of it.

(1)  relu      y = max(u, 0)                          du = dy 1[u > 0],  so f'(0) = 0                 [A3]
(2)  sigmoid   y = 1 / (1 + e^-u)                     du = dy y (1 - y)                               [A1]
(3)  tanh      y = tanh u                             du = dy (1 - y^2)                               [A2]
(4)  scaled    y = A tanh(S u), A = 1.7159, S = 2/3   du = dy S (A - y^2 / A),  so f(1) = 1 to 1e-5   [A2]
(5)  softmax   y_i = e^{u_i} / sum_j e^{u_j}          du = y (dy - sum_k dy_k y_k)               [A4, B12]

Loops: reference/activation.py. Tests: tests/layers/test_activation.py.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ..errors import InputError, check_floating, check_shape
from ..rule import with_rule
from .base import FixedLayer


def relu(u) -> jax.Array:
    """Rectifier, max(u, 0) [A3]: any shape, any floating dtype; NaN stays NaN; the derivative at 0 is 0.

    Raises:
        InputError: u is not a floating-point array.

    >>> print(relu(jnp.array([-1.0, 0.0, 2.0])), jax.grad(relu)(0.0))
    [0. 0. 2.] 0.0
    """
    return _relu(u)


def relu_forward(u):
    """(1): `(y, residuals)` of `relu`, plain JAX without the rule."""
    check_floating("relu", u=u)
    # not jnp.maximum: JAX halves its gradient at a tie, and a second derivative goes through here
    y = jnp.where(u <= 0, jnp.zeros_like(u), u)
    return y, y


def relu_backward(y, dy):
    """(1): `(du,)` from the residual y and dy of y's shape."""
    check_shape("relu_backward", "dy", dy, y.shape)
    return (jnp.where(y > 0, dy, jnp.zeros_like(dy)),)


def sigmoid(u) -> jax.Array:
    """Logistic function, 1 / (1 + e^-u) [A1]: any shape, any floating dtype.

    Raises:
        InputError: u is not a floating-point array.

    >>> print(sigmoid(jnp.array(0.0)), jax.grad(sigmoid)(0.0))
    0.5 0.25
    """
    return _sigmoid(u)


def sigmoid_forward(u):
    """(2): `(y, residuals)` of `sigmoid`, plain JAX without the rule."""
    check_floating("sigmoid", u=u)
    y = jax.nn.sigmoid(u)
    return y, y


def sigmoid_backward(y, dy):
    """(2): `(du,)` from the residual y and dy of y's shape."""
    check_shape("sigmoid_backward", "dy", dy, y.shape)
    return (dy * y * (1 - y),)


def tanh(u) -> jax.Array:
    """Hyperbolic tangent [A2]: any shape, any floating dtype.

    Raises:
        InputError: u is not a floating-point array.

    >>> print(tanh(jnp.array(0.0)), jax.grad(tanh)(0.0))
    0.0 1.0
    """
    return _tanh(u)


def tanh_forward(u):
    """(3): `(y, residuals)` of `tanh`, plain JAX without the rule."""
    check_floating("tanh", u=u)
    y = jnp.tanh(u)
    return y, y


def tanh_backward(y, dy):
    """(3): `(du,)` from the residual y and dy of y's shape."""
    check_shape("tanh_backward", "dy", dy, y.shape)
    return (dy * (1 - y * y),)


AMPLITUDE, SLOPE = 1.7159, 2 / 3


def scaled_tanh(u) -> jax.Array:
    """LeNet-5's hyperbolic tangent, 1.7159 tanh(2u/3) [A2]: any shape, any floating dtype.

    LeCun et al., *Gradient-based learning applied to document recognition* (1998), appendix A. Targets of -1 and +1
    are reached at u = -1 and u = 1, where the unit is far from saturation.

    Raises:
        InputError: u is not a floating-point array.

    >>> print(scaled_tanh(jnp.array([-1.0, 0.0, 1.0])).round(4), f"{jax.grad(scaled_tanh)(0.0):.4f}")
    [-1.  0.  1.] 1.1439
    """
    return _scaled_tanh(u)


def scaled_tanh_forward(u):
    """(4): `(y, residuals)` of `scaled_tanh`, plain JAX without the rule."""
    check_floating("scaled_tanh", u=u)
    y = AMPLITUDE * jnp.tanh(SLOPE * u)
    return y, y


def scaled_tanh_backward(y, dy):
    """(4): `(du,)` from the residual y and dy of y's shape."""
    check_shape("scaled_tanh_backward", "dy", dy, y.shape)
    return (dy * (SLOPE * (AMPLITUDE - y * y / AMPLITUDE)),)


def softmax(u) -> jax.Array:
    """Probabilities along the last axis, computed with the maximum subtracted [A4].

    Raises:
        InputError: u is not a floating-point array of at least one dimension.

    The example of D3 (which misprints the first as 0.0903):

    >>> print(softmax(jnp.array([2.0, 3.0, 4.0])).round(4))
    [0.09   0.2447 0.6652]
    """
    return _softmax(u)


def softmax_forward(u):
    """(5): `(y, residuals)` of `softmax`, plain JAX without the rule."""
    check_floating("softmax", u=u)
    if u.ndim < 1:
        raise InputError("softmax: u has shape () but must have at least one dimension")
    exponentials = jnp.exp(u - jax.lax.stop_gradient(u.max(axis=-1, keepdims=True)))
    y = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return y, y


def softmax_backward(y, dy):
    """(5): `(du,)` from the residual y and dy of y's shape."""
    check_shape("softmax_backward", "dy", dy, y.shape)
    return (y * (dy - (dy * y).sum(axis=-1, keepdims=True)),)


_relu = with_rule(relu_forward, relu_backward)
_sigmoid = with_rule(sigmoid_forward, sigmoid_backward)
_tanh = with_rule(tanh_forward, tanh_backward)
_scaled_tanh = with_rule(scaled_tanh_forward, scaled_tanh_backward)
_softmax = with_rule(softmax_forward, softmax_backward)


@dataclass(frozen=True)
class ReLU(FixedLayer):
    """Spec of `relu`."""

    op = staticmethod(relu)
    op_forward = staticmethod(relu_forward)
    op_backward = staticmethod(relu_backward)


@dataclass(frozen=True)
class Sigmoid(FixedLayer):
    """Spec of `sigmoid`."""

    op = staticmethod(sigmoid)
    op_forward = staticmethod(sigmoid_forward)
    op_backward = staticmethod(sigmoid_backward)


@dataclass(frozen=True)
class Tanh(FixedLayer):
    """Spec of `tanh`."""

    op = staticmethod(tanh)
    op_forward = staticmethod(tanh_forward)
    op_backward = staticmethod(tanh_backward)


@dataclass(frozen=True)
class ScaledTanh(FixedLayer):
    """Spec of `scaled_tanh`."""

    op = staticmethod(scaled_tanh)
    op_forward = staticmethod(scaled_tanh_forward)
    op_backward = staticmethod(scaled_tanh_backward)


@dataclass(frozen=True)
class Softmax(FixedLayer):
    """Spec of `softmax`; not needed before `softmax_cross_entropy`, which contains it."""

    op = staticmethod(softmax)
    op_forward = staticmethod(softmax_forward)
    op_backward = staticmethod(softmax_backward)
