r"""What comes back through a layer: passed on as it is, clipped, with noise added, or without a gradient on the way.

(1)  straight through  dx = dy                               dw = (df/dw)^T dy
(2)  clipped           dx, dw of d in the place of dy:       d_n = dy_n min(1, c / ||dy_n||)     for each sample n
(3)  noisy             dx = (df/dx)^T dy + sigma r           dw = (df/dw)^T dy,  r ~ N(0, 1) for each entry
(4)  frozen            dx = (df/dx)^T dy                     dw = 0

(1) Bengio, Léonard & Courville, *Estimating or propagating gradients through stochastic neurons for conditional
computation* (2013), their straight-through estimator.
(2) Pascanu, Mikolov & Bengio, *On the difficulty of training recurrent neural networks* (2013), algorithm 1, for one
sample at one layer.
(3) Neelakantan et al., *Adding gradient noise improves learning for very deep networks* (2015), for dx in the place of
dw.
Tests: tests/change/test_passing.py.
"""

import math
import zlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ..errors import InputError, is_number, shown
from ..layers.base import required

__all__ = ["Clip", "Noise", "frozen", "straight_through"]


def straight_through(layer, params, residuals, dy, context):
    """Rule (1), for a layer whose derivative is zero or unknown, such as a step: x and y must be of one shape.

    Raises:
        InputError: in the backward pass, the shapes differ.

    >>> from jaxcnn import ReLU, with_rules
    >>> network = with_rules(ReLU(), {ReLU: straight_through})
    >>> y, residuals = network.forward({}, jnp.array([[-1.0, 2.0]]))
    >>> print(network.backward(residuals, jnp.array([[3.0, 4.0]]))[0])
    [[3. 4.]]
    """
    if context.x.shape != context.y.shape:
        raise InputError(
            f"straight_through: the layer {context.name!r} goes from shape {context.x.shape} to {context.y.shape} but "
            "must keep the shape"
        )
    return dy, layer.backward(residuals, dy)[1]  # (1)


@dataclass(frozen=True)
class Clip:
    """Rule (2): of each sample no dy longer than `norm` comes back to the layer; its dx and dw are those of that.

    E is a mean over the batch, and so dy is of the size 1 / N for N samples. The norm is computed in float32 at least.

    Args:
        norm: above 0.

    Raises:
        InputError: the norm is not a number above 0.

    >>> from jaxcnn import Identity, with_rules
    >>> network = with_rules(Identity(), {Identity: Clip(1.0)})
    >>> y, residuals = network.forward({}, jnp.ones((2, 2)))
    >>> print(network.backward(residuals, jnp.array([[3.0, 4.0], [0.3, 0.4]]))[0])
    [[0.6 0.8]
     [0.3 0.4]]
    """

    norm: float

    def __post_init__(self):
        _check_positive(self, "norm")

    def __call__(self, layer, params, residuals, dy, context):
        wide = dy.astype(jnp.promote_types(dy.dtype, jnp.float32)) / self.norm
        axes = tuple(range(1, dy.ndim))
        largest = jnp.maximum(jnp.abs(wide).max(axes, keepdims=True, initial=0), 1)  # the square of more is infinite
        length = largest * jnp.sqrt(jnp.square(wide / largest).sum(axes, keepdims=True))
        return layer.backward(residuals, (dy / jnp.maximum(length, 1)).astype(dy.dtype))  # (2)


@dataclass(frozen=True)
class Noise:
    """Rule (3): Gaussian noise on dx, drawn anew in every step from the layer's key, which training gives to each.

    On several devices each draws the same noise for its own rows, so that the result depends on their number, as that
    of `Dropout` does not: their noise does not cancel in the sum over the devices. The parts of `accumulate` have a
    key each. E is a mean over the batch, and so dx is of the size 1 / N for N samples.

    Args:
        deviation: sigma, above 0.

    Raises:
        InputError: the deviation is not a number above 0; in the backward pass, the forward pass had no key.

    >>> from jaxcnn import Identity, with_rules
    >>> network = with_rules(Identity(), {Identity: Noise(0.1)})
    >>> y, residuals = network.forward({}, jnp.ones((100, 100)), train=True, key=jax.random.key(0))
    >>> print(f"{network.backward(residuals, jnp.ones((100, 100)))[0].std():.2f}")
    0.10
    """

    deviation: float

    def __post_init__(self):
        _check_positive(self, "deviation")

    def __call__(self, layer, params, residuals, dy, context):
        dx, grads = layer.backward(residuals, dy)
        key = jax.random.fold_in(required("Noise", context.key), zlib.crc32(b"Noise"))  # the layer draws from its own
        r = jax.random.normal(key, dx.shape, jnp.promote_types(dx.dtype, jnp.float32))
        return (dx + self.deviation * r).astype(dx.dtype), grads  # (3)


def frozen(layer, params, residuals, dy, context):
    """Rule (4): the layer's parameters have no gradient, all of them if it holds layers; those before it learn on.

    Under `SGD(eta)`, with momentum from the first step on too, they do not change. What is not of the loss still
    changes them: weight decay, a velocity from before they were frozen, the gradient of the network's penalty; a state
    of the optimizer from `SGD.init(params, rates={"conv1": 0.0, ...})` with a rate for each layer stops these too. A
    frozen batch norm still normalises by the batch, and its statistics move on.

    >>> from jaxcnn import Dense, with_rules
    >>> network = with_rules(Dense(1, bias=False), {Dense: frozen})
    >>> y, residuals = network.forward({"weight": jnp.array([[2.0]])}, jnp.array([[3.0]]))
    >>> dx, grads = network.backward(residuals, jnp.array([[10.0]]))
    >>> print(dx, grads["weight"])
    [[20.]] [[0.]]
    """
    dx, grads = layer.backward(residuals, dy)
    return dx, jax.tree.map(jnp.zeros_like, grads)  # (4)


def _check_positive(rule, name):
    value = getattr(rule, name)
    if not (is_number(value) and 0 < value < math.inf):
        raise InputError(f"{type(rule).__name__}: {name} is {shown(value)} but must be a number above 0")
    object.__setattr__(rule, name, float(value))  # a NumPy float would carry its dtype into dx
