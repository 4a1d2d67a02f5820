r"""Layer-wise relevance propagation: an output handed back to the entries of the image, each its part.

Bach et al., *On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance propagation*
(2015); Montavon et al., *Layer-wise relevance propagation: an overview* (2019).

A layer y = f_w(x) has been handed R, of y's shape, in the place of dy, and hands on R' of x's shape in that of dx.
w+, w- and x+, x- are the positive and the negative parts, entry by entry; w0 is w without its bias.

(1)  [z]      z + epsilon sign z, with sign 0 = 1
(2)  R'       = sum_k x_k o (df_{w_k}/dx)^T s,   s = R / [sum_k f_{w_k}(x_k)],   of the pairs (w_k, x_k)

A rule is its pairs. f is linear in x and, but for (3), in w; its own backward is all that (2) needs.

(3)  epsilon  (w, x)                                                               Bach (58)
(4)  z+       (w+, x+), (w-0, x-)                                                  Bach (60), alpha = 1, beta = 0
(5)  gamma    where y > 0   (w + gamma w+, x+), (w0 + gamma w-0, x-)               Montavon, table 10.1, for x > 0;
              where y < 0   (w + gamma w-, x+), (w0 + gamma w+0, x-)               Andeol et al. (2021), for all x
(6)  box      (w, x), (-w+, low), (-w-, high)      of pixels from low to high      Montavon et al. (2017), z-B

(7)  a sum of branches, y = sum_k y_k, hands R y_k / [y] to branch k: (3) of the addition
(8)  a product hands R to its signal, nothing to its gates     Arras et al., *Explaining and interpreting LSTMs* (2019)
(9)  an activation, y_i = g(x_i), hands R on
(10) all else, such as max pooling and reshaping, has its own backward
(11) the first R is the output itself, y_k for the class k

What is not the bias's is conserved: sum R' = sum R z / [z] where there is none. So of R epsilon takes the part
epsilon / (|z| + epsilon) away. In z+ and gamma z can be 0, where nothing speaks for y: then R is lost.
Tests: tests/change/test_relevance.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add

import jax
import jax.numpy as jnp

from ..errors import InputError, shown
from ..layers.activation import ScaledTanh, Sigmoid, Tanh
from ..layers.base import Layer, walk
from ..layers.borders import Crop2d, Pad2d
from ..layers.branches import Concatenate, Identity, Product, Sum
from ..layers.combine_maps import CombineMaps
from ..layers.conv import Conv2d
from ..layers.conv_transpose import ConvTranspose2d
from ..layers.dense import Dense
from ..layers.dropout import Dropout
from ..layers.global_pool import GlobalAvgPool2d, GlobalMaxPool2d
from ..layers.median_pool import MedianPool2d
from ..layers.norm import BatchNorm
from ..layers.pool import AvgPool2d, MaxPool2d
from ..layers.recompute import Recompute
from ..layers.reshape import Flatten
from ..layers.residual import Residual
from ..layers.rules import Rule, Ruled, Selector, under_rules
from ..layers.scale import Scale
from ..layers.sequential import Sequential
from ..layers.stochastic_pool import StochasticPool2d
from ..layers.subsample import Subsample2d
from ..layers.upsample import Upsample2d
from .saliency import RECTIFIERS

__all__ = [
    "Box",
    "Epsilon",
    "Gamma",
    "ZPlus",
    "epsilon_gamma_box",
    "epsilon_plus",
    "relevance_rules",
    "shared_by_outputs",
    "signal_takes_all",
]

STABILIZER = 1e-6  # of (1), where epsilon is no argument: zennit's
CONVOLUTIONS = Conv2d, ConvTranspose2d
LINEAR = *CONVOLUTIONS, Dense, Scale, Subsample2d  # in their parameters, too


@dataclass(frozen=True)
class Epsilon:
    """Rule (3) of a layer that is linear in x: each entry by its part of the output; epsilon is left out of it.

    The larger epsilon is, the more of what is small and contradictory goes.

    >>> from jaxcnn import Dense
    >>> from jaxcnn.change import attribute
    >>> params, x = {"weight": jnp.array([[1.0], [2.0], [-1.0]])}, jnp.array([[3.0, 1.0, 4.0]])
    >>> for rule in Epsilon(0.0), Epsilon(1.0):
    ...     print(attribute(Dense(1, bias=False), params, x, {Dense: rule}, [0])[0].tolist())
    [3.0, 2.0, -4.0]
    [1.5, 1.0, -2.0]
    """

    epsilon: float = STABILIZER

    def __call__(self, layer, params, residuals, dy, context):
        return _handed_on(layer, params, dy, [(params, context.x)], self.epsilon)  # (3)


@dataclass(frozen=True)
class ZPlus:
    """Rule (4) of a layer that is linear in x and its parameters: by what speaks for the output alone."""

    def __call__(self, layer, params, residuals, dy, context):
        _require_linear("ZPlus", layer, context)
        up, down = _parts(params)
        x_up, x_down = _parts(context.x)
        return _handed_on(layer, params, dy, [(up, x_up), (_unbiased(down), x_down)])  # (4)


@dataclass(frozen=True)
class Gamma:
    """Rule (5) of a layer that is linear in x and its parameters: what speaks for the output counts more."""

    gamma: float = 0.25

    def __call__(self, layer, params, residuals, dy, context):
        _require_linear("Gamma", layer, context)
        more_up, more_down = (
            jax.tree.map(lambda w, part: w + self.gamma * part, params, part) for part in _parts(params)
        )
        x_up, x_down = _parts(context.x)
        above, below = (jnp.where(of_sign, dy, 0) for of_sign in (context.y > 0, context.y < 0))
        dx, grads = _handed_on(layer, params, above, [(more_up, x_up), (_unbiased(more_down), x_down)])  # (5)
        return dx + _handed_on(layer, params, below, [(more_down, x_up), (_unbiased(more_up), x_down)])[0], grads


@dataclass(frozen=True)
class Box:
    """Rule (6) of the layer that sees the pixels: by what they are more than they could be at least.

    Attributes:
        low: the least that a pixel can be, as the network gets it; or one number for each channel, a tuple.
        high: the most.
    """

    low: float | tuple[float, ...]
    high: float | tuple[float, ...]

    def __call__(self, layer, params, residuals, dy, context):
        _require_linear("Box", layer, context)
        low, high = (jnp.broadcast_to(jnp.asarray(end, dy.dtype), context.x.shape) for end in (self.low, self.high))
        up, down = (jax.tree.map(jnp.negative, part) for part in _parts(params))
        return _handed_on(layer, params, dy, [(params, context.x), (up, low), (down, high)])  # (6)


def shared_by_outputs(layer, params, residuals, dy, context):
    """Rule (7) of a `Sum` or `Residual`, whose branches must be under rules, too: so their outputs are kept."""
    s, dx = dy / _stabilized(context.y, STABILIZER), jnp.zeros_like(context.x)
    for name, branch in layer.branches().items():
        kept = residuals[name]
        if isinstance(branch, Ruled):
            y = kept.y
        elif isinstance(branch, Identity):  # the way around of a Residual is no layer of the network
            y = context.x
        else:
            raise InputError(
                f"{context.name}: its branch {name!r} is under no rule but must be, for its output is kept"
            )
        dx += branch.backward(kept, y * s)[0]  # (7)
    return dx, _no_gradients(params)


def signal_takes_all(layer, params, residuals, dy, context):
    """Rule (8) of a `Product`: its gates, the branches that end in `Sigmoid`, are factors that were given."""
    branches = layer.branches()
    signals = [name for name, branch in branches.items() if not isinstance(_last(branch), Sigmoid)]
    if len(signals) != 1:
        raise InputError(
            f"{context.name}: its branches that do not end in Sigmoid are {signals} but must be one, the signal"
        )
    dx, _ = branches[signals[0]].backward(residuals[signals[0]], dy)  # (8)
    return dx, _no_gradients(params)


def relevance_rules(
    network: Layer, convolution: Rule, dense: Rule, first: Rule | None = None, epsilon: float = STABILIZER
) -> dict[Selector, Rule]:
    """The rule of every layer of a network by its name, for `attribute`: a composite, as zennit calls it.

    Merge batch norms first, by `merged_batch_norms`; one that is left has the rule (3), as has all that is linear in x.

    Args:
        network: a layer.
        convolution: the rule of convolutions and transposed ones.
        dense: that of dense layers.
        first: that of the first convolution.
        epsilon: of what is linear in x and no convolution nor dense.

    Raises:
        InputError: a layer is one for which there is no agreed rule, such as `LayerNorm`.

    >>> from jaxcnn import Conv2d, Dense, Flatten, ReLU, Sequential
    >>> network = Sequential((Conv2d(4, 3), ReLU(), Conv2d(4, 3), Flatten(), Dense(2)))
    >>> rules = relevance_rules(network, ZPlus(), Epsilon(), Box(0.0, 1.0))
    >>> [rules[name] for name in ("conv1", "conv2", "dense1")]
    [Box(low=0.0, high=1.0), ZPlus(), Epsilon(epsilon=1e-06)]
    """
    box = next((name for name, layer in walk(network) if isinstance(under_rules(layer), CONVOLUTIONS)), None)
    known: dict[tuple[type[Layer], ...], Rule] = {
        CONVOLUTIONS: convolution,
        (Dense,): dense,
        (AvgPool2d, GlobalAvgPool2d, Scale, Subsample2d, Upsample2d, CombineMaps, BatchNorm): Epsilon(epsilon),  # (3)
        (StochasticPool2d,): Epsilon(epsilon),  # homogeneous of degree 1: x o dy/dx sums to y, as of a linear one
        (Residual, Sum): shared_by_outputs,  # (7)
        (Product,): signal_takes_all,  # (8)
        (*RECTIFIERS, Sigmoid, Tanh, ScaledTanh): _passed,  # (9)
        (MaxPool2d, GlobalMaxPool2d, MedianPool2d, Flatten, Pad2d, Crop2d, Dropout, Identity): _own,  # (10)
        (Sequential, Concatenate, Recompute): _own,
    }
    rules: dict[Selector, Rule] = {}
    for name, layer in _all_layers(network):
        found = (rule for classes, rule in known.items() if isinstance(under_rules(layer), classes))
        rule = first if first is not None and name == box else next(found, None)
        if rule is None:
            raise InputError(
                f"network: {name or 'it'} is {shown(under_rules(layer))} but must be a layer for which relevance "
                "propagation has an agreed rule"
            )
        rules[name] = rule
    rules[""] = FromOutputs(rules[""])
    return rules


def epsilon_gamma_box(network: Layer, low, high, *, epsilon: float = STABILIZER, gamma: float = 0.25):
    """`relevance_rules` with (6) in the first convolution, (5) in the others and (3) in dense layers: Montavon (2019).

    >>> from jaxcnn import Conv2d, Dense, Flatten, ReLU, Sequential
    >>> from jaxcnn.change import attribute
    >>> network = Sequential((Conv2d(4, 3, bias=False), ReLU(), Flatten(), Dense(2, bias=False)))
    >>> params, x = network.init(jax.random.key(0), (5, 5, 1)), jax.random.uniform(jax.random.key(1), (1, 5, 5, 1))
    >>> R = attribute(network, params, x, epsilon_gamma_box(network, 0.0, 1.0), jnp.array([1]))
    >>> print(R.shape, bool(abs(R.sum() - network.apply(params, x)[0, 1]) < 1e-4))
    (1, 5, 5, 1) True
    """
    return relevance_rules(network, Gamma(gamma), Epsilon(epsilon), Box(low, high))


def epsilon_plus(network: Layer, *, epsilon: float = STABILIZER):
    """`relevance_rules` with (4) in convolutions and (3) in dense layers."""
    return relevance_rules(network, ZPlus(), Epsilon(epsilon))


@dataclass(frozen=True)
class FromOutputs:
    """Rule of a whole network under another: it begins from the output of the class in place of 1, (11)."""

    rule: Rule

    def __call__(self, layer, params, residuals, dy, context):
        return self.rule(layer, params, residuals, context.y * dy, context)  # (11)


def _handed_on(layer, params, R, pairs, epsilon=STABILIZER):
    """(2) of the pairs (w_k, x_k)."""
    outputs, kept = zip(*(layer.forward(w, x) for w, x in pairs), strict=True)
    s = R / _stabilized(reduce(add, outputs), epsilon)
    parts = [x * layer.backward(residuals, s)[0] for (_, x), residuals in zip(pairs, kept, strict=True)]
    return reduce(add, parts), _no_gradients(params)


def _stabilized(z, epsilon):
    return z + jnp.where(z < 0, -epsilon, epsilon)  # (1)


def _parts(tree):
    """The positive parts and the negative parts."""
    return tuple(jax.tree.map(lambda a, of=of: of(a, 0), tree) for of in (jnp.maximum, jnp.minimum))


def _unbiased(params):
    return {name: jnp.zeros_like(w) if name == "bias" else w for name, w in params.items()}


def _passed(layer, params, residuals, dy, context):
    return dy, {}  # (9)


def _own(layer, params, residuals, dy, context):
    return layer.backward(residuals, dy)  # (10)


def _no_gradients(params):
    """Relevance is of x alone."""
    return jax.tree.map(jnp.zeros_like, params)


def _require_linear(rule, layer, context):
    if not isinstance(under_rules(layer), LINEAR):
        raise InputError(
            f"{rule}: {context.name} is {shown(under_rules(layer))} but must be linear in its parameters, one of "
            f"{', '.join(cls.__name__ for cls in LINEAR)}"
        )


def _last(layer):
    *_, (_, last) = walk(layer)
    return under_rules(last)


def _all_layers(layer: Layer, name: str = "") -> Iterator[tuple[str, Layer]]:
    """Every layer, those that hold others too."""
    yield name, layer
    for child, inside in layer.children().items():
        yield from _all_layers(inside, f"{name}/{child}" if name else child)
