r"""The error carried back by other weights than those of the forward pass.

Layer f_l(w, x) with a weight w^l, and e = dE/dx^L at the network's output:

(1)  backpropagation      dx = (df_w/dx)^T dy
(2)  feedback alignment   dx = (df_B/dx)^T dy      B of the shape of w, drawn once
(3)  sign symmetry        dx = (df_S/dx)^T dy      S = a sign(w),  a = sum |w| / sum |sign(w)|
(4)  direct feedback      dx = B e                 B drawn once, N(0, 1/M), for the M entries of x
(5)  everywhere           dw = (df_w/dw)^T dy      the true one, for the dy that arrives

(2) Lillicrap, Cownden, Tweed & Akerman, *Random synaptic feedback weights support error backpropagation for deep
learning* (2016). B has the distribution of the layer's first weights.
(3) Liao, Leibo & Poggio, *How important is weight symmetry in backpropagation?* (2016), their uSF, S = sign(w); Xiao,
Chen, Liao & Poggio, *Biologically-plausible learning algorithms can scale to large datasets* (2019). The scale a is
this library's, for theirs need batch norm or updates of one size: of all multiples of sign(w) S is the nearest to w.
(4) Nøkland, *Direct feedback alignment provides learning in deep neural networks* (2016). The distribution of B is this
library's: on average B e is as long as e is.
Tests: tests/change/test_feedback.py.
"""

import math
import zlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ..errors import InputError, is_int, shown
from ..layers.sequential import Sequential

__all__ = ["DirectFeedback", "FeedbackAlignment", "sign_symmetric"]


@dataclass(frozen=True)
class FeedbackAlignment:
    """Rule (2) for layers with a weight, such as `Dense`, `Conv2d` and `ConvTranspose2d`; others are refused.

    B is drawn from the seed and the layer's name, as the layer draws its weight: it is the same in every step, process
    and device, a constant of the compiled program, and cast to the weight's dtype.

    Args:
        seed: an int.

    Raises:
        InputError: the seed is no int; in the backward pass, a layer has no weight.

    >>> from jaxcnn import Dense, with_rules
    >>> network = with_rules(Dense(1, bias=False), {Dense: FeedbackAlignment(seed=1)})
    >>> params = {"weight": jnp.array([[1.0], [2.0]])}
    >>> y, residuals = network.forward(params, jnp.array([[3.0, 4.0]]))
    >>> dx, grads = network.backward(residuals, jnp.array([[10.0]]))
    >>> print(dx.round(), grads["weight"].ravel())  # by w it were 10 and 20
    [[ 5. -7.]] [30. 40.]
    """

    seed: int = 0

    def __post_init__(self):
        _check_seed(self)

    def __call__(self, layer, params, residuals, dy, context):
        _, grads = layer.backward(residuals, dy)  # (5)
        w = _weight("FeedbackAlignment", params, context)
        with jax.ensure_compile_time_eval():
            B = layer.init(_key(self.seed, context.name), context.x.shape[1:])["weight"].astype(w.dtype)
        return _dx_by(B, layer, params, dy, context), grads  # (2)


def sign_symmetric(layer, params, residuals, dy, context):
    """Rule (3) for layers with a weight: of w the way back knows the signs and the mean size alone.

    A weight that is 0 has no sign, and does not count in a: with `connections`, those that are cut.

    Raises:
        InputError: in the backward pass, a layer has no weight.

    >>> from jaxcnn import Dense, with_rules
    >>> network = with_rules(Dense(1, bias=False), {Dense: sign_symmetric})
    >>> y, residuals = network.forward({"weight": jnp.array([[1.0], [-3.0]])}, jnp.array([[3.0, 4.0]]))
    >>> dx, grads = network.backward(residuals, jnp.array([[10.0]]))
    >>> print(dx, grads["weight"].ravel())
    [[ 20. -20.]] [30. 40.]
    """
    _, grads = layer.backward(residuals, dy)  # (5)
    w = _weight("sign_symmetric", params, context)
    sign = jnp.sign(w)
    a = jnp.abs(w).sum() / jnp.maximum(jnp.abs(sign).sum(), 1)
    return _dx_by(a * sign, layer, params, dy, context), grads  # (3)


@dataclass(frozen=True)
class DirectFeedback:
    """Rule (4) for a `Sequential`, the network itself by `{"": DirectFeedback()}`: e is its dy.

    Each layer in it that has parameters, but the first, hands B e back in the place of its dx; the layers between, such
    as activations and pooling, and what is inside of a layer, such as the body of a `Residual`, keep their own way
    back. B is drawn from the seed and the layer's name, as in `FeedbackAlignment`.

    Args:
        seed: an int.

    Raises:
        InputError: the seed is no int; in the backward pass, the layer is no `Sequential`.

    >>> from jaxcnn import Dense, ReLU, Sequential, with_rules
    >>> network = with_rules(Sequential((Dense(3), ReLU(), Dense(2))), {"": DirectFeedback()})
    >>> params = network.init(jax.random.key(0), (4,))
    >>> y, residuals = network.forward(params, jnp.ones((1, 4)))
    >>> dx, grads = network.backward(residuals, y)
    >>> jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
    True
    """

    seed: int = 0

    def __post_init__(self):
        _check_seed(self)

    def __call__(self, layer, params, residuals, dy, context):
        if not isinstance(layer, Sequential):
            raise InputError(f"DirectFeedback: the layer {context.name!r} is a {layer.kind} but must be a Sequential")
        e, grads = dy.reshape(len(dy), -1), {}
        first = next((name for name in layer.names if name in params), None)
        for name, child in reversed(layer.children().items()):
            dy, of_child = child.backward(residuals[name], dy)  # (5)
            if name in params:
                grads[name] = of_child
                if name != first:
                    dy = (e @ self._drawn(f"{context.name}/{name}", e, dy)).reshape(dy.shape)  # (4)
        return dy, grads

    def _drawn(self, name, e, dx):
        """B^T, (K, M) for e (N, K) and dx of M entries a sample."""
        M = math.prod(dx.shape[1:])
        with jax.ensure_compile_time_eval():
            return (jax.random.normal(_key(self.seed, name), (e.shape[1], M)) / math.sqrt(M)).astype(e.dtype)


def _dx_by(weight, layer, params, dy, context):
    """dx by another weight; that y is computed for its residuals alone, the compiler sees."""
    _, residuals = layer.forward(params | {"weight": weight}, context.x)
    return layer.backward(residuals, dy)[0]


def _weight(rule, params, context):
    if "weight" not in params:
        raise InputError(f"{rule}: the layer {context.name!r} has {sorted(params)} but must have a weight")
    return params["weight"]


def _key(seed, name):
    """A key for a layer: crc32 of a name is the same in every process."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def _check_seed(rule):
    if not is_int(rule.seed):
        raise InputError(f"{type(rule).__name__}: seed is {shown(rule.seed)} but must be an int")
