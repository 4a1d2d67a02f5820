r"""Another way back: layers whose backward is a rule of the user's, chosen by class, by name or by a predicate.

(1)  forward   y = f(w, x), and x, w and y are kept for the rule
(2)  backward  (dx, dw) = rule(f, w, residuals, dy, context) in place of ((df/dx)^T dy, (df/dw)^T dy)

The other layers keep their own: (2) and (3) of jaxcnn/layers/sequential.py with another function at some l.
Rules that are known by a name stand in `jaxcnn.change`. Tests: tests/layers/test_rules.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from ..errors import InputError, shown
from .base import Layer, Params, Residuals, differentiated_by_rule, walk

__all__ = ["LayerContext", "with_rules"]


@dataclass(frozen=True)
class LayerContext:
    """What a rule is told beside the layer, its parameters, its residuals and dy.

    Attributes:
        name: the layer's, such as "conv1" or "residual1/body/conv2"; "" for the network itself.
        x: what went in.
        y: what came out.
        key: the layer's key in this pass, or None.
        train: whether this is training.
    """

    name: str
    x: jax.Array
    y: jax.Array
    key: jax.Array | None
    train: bool


Rule = Callable[[Layer, Params, Residuals, jax.Array, LayerContext], tuple[jax.Array, Params]]
Selector = type[Layer] | str | Callable[[str, Layer], bool]


def with_rules(network: Layer, rules: Mapping[Selector, Rule]) -> Layer:
    """The network with another backward for some of its layers; its forward, its parameters and its names stay.

    It is a layer like any other: `forward` and `backward`, `jax.grad` of `apply` and training take the new way back.
    A rule is `rule(layer, params, residuals, dy, context) -> (dx, grads)`. The layer's own is
    `layer.backward(residuals, dy)`: a rule may call it and change dy before, or dx and grads behind. Of a layer that
    holds layers, such as a `Residual`, this is the chain through them, with their rules.

    Args:
        network: a layer.
        rules: each rule by the layers that it is for: a class of layers; a name, as `walk` gives it, or of a layer that
            holds layers, "" for the network; or a function `(name, layer) -> bool`. The first that fits counts.
            A rule must be hashable, as functions and frozen dataclasses are.

    Raises:
        InputError: a name or a class is that of no layer of the network; a rule is no function or not hashable.

    >>> import jax.numpy as jnp
    >>> from jaxcnn import Dense, ReLU, Sequential
    >>> def guided(layer, params, residuals, dy, context):  # only what is positive goes back, too
    ...     dx, grads = layer.backward(residuals, dy)
    ...     return dx * (dx > 0), grads
    >>> network = Sequential((Dense(2), ReLU()))
    >>> params = {"dense1": {"weight": jnp.array([[1.0, 1.0]]), "bias": jnp.zeros(2)}}
    >>> for each in network, with_rules(network, {ReLU: guided}):
    ...     y, residuals = each.forward(params, jnp.array([[2.0]]))
    ...     print(each.backward(residuals, jnp.array([[-3.0, 5.0]]))[0])
    [[2.]]
    [[5.]]
    """
    if not isinstance(rules, Mapping):
        raise InputError(f"rules is {shown(rules)} but must be a dict of rules by class, name or predicate")
    found: set[Any] = set()

    def with_own(layer, name):
        inside = {
            child: with_own(part, f"{name}/{child}" if name else child) for child, part in layer.children().items()
        }
        changed = layer.with_children(inside) if inside else layer
        for selector, rule in rules.items():
            if _fits(selector, name, layer):
                found.add(selector)
                return Ruled(changed, rule, name)
        return changed

    for selector, rule in rules.items():
        _check(selector, rule)
    changed = with_own(network, "")
    for selector in rules:
        if selector not in found and (isinstance(selector, str) or _is_class(selector)):
            names = [path for path, _ in walk(network)]
            raise InputError(
                f"rules has {selector if isinstance(selector, str) else selector.__name__!r} but must have names or "
                f"classes of layers that no earlier rule takes; layers are {', '.join(names)}"
            )
    return changed


def _is_class(selector):
    return isinstance(selector, type) and issubclass(selector, Layer)


def _fits(selector, name, layer):
    if isinstance(selector, str):
        return selector == name
    return isinstance(under_rules(layer), selector) if _is_class(selector) else selector(name, layer)


def _check(selector, rule):
    if not isinstance(selector, str) and not _is_class(selector) and not callable(selector):
        raise InputError(f"rules has {shown(selector)} but must have classes of layers, names or functions")
    try:
        hash(rule)
    except TypeError:
        raise InputError(f"rules has the rule {shown(rule)} but it must be hashable, like a frozen dataclass") from None
    if not callable(rule):
        raise InputError(
            f"rules has the rule {shown(rule)} but it must be a function (layer, params, residuals, dy, context)"
        )


def under_rules(layer: Layer) -> Layer:
    """The layer itself, without the rules that it is under."""
    while isinstance(layer, Ruled):
        layer = layer.layer
    return layer


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Kept:
    """The residuals of a layer under a rule, and what the rule is told beside them."""

    residuals: Residuals
    params: Params
    x: jax.Array
    y: jax.Array
    key: jax.Array | None
    train: bool = field(metadata={"static": True})


@dataclass(frozen=True)
class Ruled(Layer, abstract=True):
    """A layer under a rule; to whoever looks inside it is the layer."""

    layer: Layer
    rule: Rule
    name: str

    @property
    def kind(self):
        return self.layer.kind

    def init(self, key, in_shape):
        return self.layer.init(key, in_shape)

    def apply(self, params, x, *, train=False, key=None):
        return differentiated_by_rule(self, params, x, train=train, key=key)

    def forward(self, params, x, *, train=False, key=None):
        y, residuals = self.layer.forward(params, x, train=train, key=key)
        return y, Kept(residuals, params, x, y, key, train)  # (1)

    def backward(self, residuals, dy):
        kept = residuals
        context = LayerContext(self.name, kept.x, kept.y, kept.key, kept.train)
        return self.rule(self.layer, kept.params, kept.residuals, dy, context)  # (2)

    def children(self):
        return self.layer.children()

    def with_children(self, children):
        return replace(self, layer=self.layer.with_children(children))

    def rebuilt(self, change):
        return replace(self, layer=self.layer.rebuilt(change))

    def statistics(self, residuals):
        return self.layer.statistics(residuals.residuals)

    def penalty(self, params):
        return self.layer.penalty(params)

    def output_shape(self, in_shape):
        return self.layer.output_shape(in_shape)

    def parameter_count(self, params):
        return self.layer.parameter_count(params)

    def multiply_adds(self, in_shape):
        return self.layer.multiply_adds(in_shape)
