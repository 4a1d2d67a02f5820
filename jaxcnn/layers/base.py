"""The protocol that every layer follows, a composite one too."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp

from ..errors import InputError, check_shape, shown
from ..meshes import in_mesh
from ..operation import Operation, operation_of

__all__ = ["LAYERS", "Layer", "OperationLayer", "rebuild", "walk"]

Params = Any  # a dict of arrays, or of dicts
Residuals = Any  # whatever pytree of arrays `forward` hands to `backward`
Shape = tuple[int, ...]  # of one sample: the batch is left out


LAYERS: dict[str, type["Layer"]] = {}
"""Every class of layers by its name: a network that is read from a file is made of these."""


class Layer:
    """A layer spec: a frozen dataclass of static facts, with pure functions of the parameters.

    A subclass defines `apply`, `forward` and `backward`; one that holds other layers, a composite, defines
    `backward_with_deltas` in place of `backward`. The trees of a composite, parameters, residuals and gradients, are
    dicts by the names of `children`, those of parameters and gradients without what is empty. The other methods have
    defaults. Shapes leave the batch out. A class is known by its name from its definition on; `abstract=True` in the
    class statement is for a base of other layers.

    Raises:
        InputError: when a class is defined that lacks a function, or whose name another class has.

    >>> class Half(Layer):
    ...     def apply(self, params, x, *, train=False, key=None):
    ...         return x / 2
    Traceback (most recent call last):
    jaxcnn.errors.InputError: Half: lacks forward and backward but must define apply, forward and backward
    """

    def __init_subclass__(cls, abstract: bool = False, **keywords):
        super().__init_subclass__(**keywords)
        if abstract:
            return
        needed = ["apply", "forward", "backward"]
        if cls.backward_with_deltas is not Layer.backward_with_deltas:
            needed.remove("backward")
        lacking = [name for name in needed if getattr(cls, name) is getattr(Layer, name)]
        if lacking:
            raise InputError(
                f"{cls.__name__}: lacks {' and '.join(lacking)} but must define apply, forward and backward"
            )
        other = LAYERS.get(cls.__name__, cls)  # a class that is defined anew, as in a notebook, replaces itself
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise InputError(
                f"{cls.__name__}: is the name of {other.__module__}.{other.__qualname__} already but must be new; "
                "files know layers by it"
            )
        LAYERS[cls.__name__] = cls

    def init(self, key: jax.Array, in_shape: Shape) -> Params:
        """Random parameters for inputs of shape `in_shape`; `{}` where there is nothing to learn."""
        return {}

    def apply(self, params: Params, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        """The output; its derivative under `jax.grad` is the hand-written rule."""
        raise NotImplementedError

    def forward(
        self, params: Params, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, Residuals]:
        """The output and what `backward` needs; plain JAX with no rule attached."""
        raise NotImplementedError

    def backward(self, residuals: Residuals, dy: jax.Array) -> tuple[jax.Array, Params]:
        """From dy = dE/d(output) to dx = dE/d(input) and the gradients, a tree like `params`."""
        dx, grads, _ = self.backward_with_deltas(residuals, dy)
        return dx, grads

    @property
    def kind(self) -> str:
        """The name of its class, by which a `Sequential` names it."""
        return type(self).__name__

    def children(self) -> dict[str, "Layer"]:
        """The layers inside this one by name: its fields that are layers."""
        fields = {name: getattr(self, name) for name in getattr(self, "__dataclass_fields__", {})}
        return {name: value for name, value in fields.items() if isinstance(value, Layer)}

    def with_children(self, children: dict[str, "Layer"]) -> "Layer":
        """The same layer with others inside, by the names of `children`."""
        return dataclasses.replace(cast(Any, self), **children)

    def rebuilt(self, change: Callable[["Layer"], "Layer"]) -> "Layer":
        """See `rebuild`."""
        children = {name: child.rebuilt(change) for name, child in self.children().items()}
        return change(self.with_children(children) if children else self)

    def backward_with_deltas(
        self, residuals: Residuals, dy: jax.Array
    ) -> tuple[jax.Array, Params, dict[str, jax.Array]]:
        """`backward`, and the sensitivities of the layers inside this one by name: none unless it is a composite."""
        return *self.backward(residuals, dy), {}

    def statistics(self, residuals: Residuals) -> dict[str, Any]:
        """What batch norms inside measured in training, by names as in `params`; see `jaxcnn.layers.statistics`."""
        return without_empty({name: child.statistics(residuals[name]) for name, child in self.children().items()})

    def penalty(self, params: Params) -> tuple[Any, Params]:
        """What training adds to the loss for these parameters, and its gradients of those that it depends on."""
        found = {name: child.penalty(parameters_of(name, params)) for name, child in self.children().items()}
        return sum(value for value, _ in found.values()), {name: grads for name, (_, grads) in found.items() if grads}

    def output_shape(self, in_shape: Shape) -> Shape:
        """Shape of the output for inputs of shape `in_shape`, found by tracing `forward`."""

        def trace(x):
            return self.forward(self.init(jax.random.key(0), in_shape), x)[0]

        return jax.eval_shape(trace, jax.ShapeDtypeStruct((1, *in_shape), jnp.result_type(float))).shape[1:]

    def parameter_count(self, params: Params) -> int:
        """How many numbers in `params`, arrays or their shapes, are learned: all of them by default."""
        children = self.children()
        own = params if not children else {name: part for name, part in params.items() if name not in children}
        inside = sum(child.parameter_count(params.get(name, {})) for name, child in children.items())
        return inside + sum(leaf.size for leaf in jax.tree.leaves(own))

    def multiply_adds(self, in_shape: Shape) -> int:
        """Multiply-adds of the forward pass for one sample; only products with weights count.

        By default the sum of those of the layers inside, each for the input of this one.
        """
        return sum(child.multiply_adds(in_shape) for child in self.children().values())


def walk(layer: Layer, *trees: Any, path: str = "") -> Iterator[tuple]:
    """Every layer that holds no other, in order: `(path, layer, its part of each tree)`.

    Trees are parameters, residuals or gradients. The path of a layer inside of another is "sequential1/conv1".

    >>> from jaxcnn import Dense, ReLU, Residual, Sequential
    >>> network = Sequential((Residual(Sequential((Dense(3), ReLU()))), Dense(2)))
    >>> [(path, sorted(params)) for path, _, params in walk(network, network.init(jax.random.key(0), (3,)))]
    [('residual1/body/dense1', ['bias', 'weight']), ('residual1/body/relu1', []), ('dense1', ['bias', 'weight'])]
    """
    children = layer.children()
    if not children:
        yield path, layer, *trees
    for name, child in children.items():
        inside = f"{path}/{name}" if path else name
        yield from walk(child, *(_inside(tree, name, inside) for tree in trees), path=inside)


def _inside(tree, name, path):
    if tree is not None and not isinstance(tree, dict):
        raise InputError(f"{path}: the tree of the layer around it is {type(tree).__name__} but must be a dict by name")
    return (tree or {}).get(name, {})


def rebuild(layer: Layer, change: Callable[[Layer], Layer]) -> Layer:
    """The layer with every layer in it, the innermost first, and at last itself, replaced by what `change` gives.

    Of a layer with another rule, from `with_rules`, it is the layer under the rule.

    >>> from jaxcnn import Conv2d, Dense, Sequential
    >>> network = Sequential((Conv2d(4, 3), Conv2d(8, 3)))
    >>> rebuild(network, lambda layer: Conv2d(1, 3) if layer == Conv2d(4, 3) else layer).layers[0].out_channels
    1
    """
    return layer.rebuilt(change)


def differentiated_by_rule(layer: Layer, params: Params, x: jax.Array, *, train: bool, key: jax.Array | None):
    """The output, its derivative `layer.backward`, for the `apply` of a layer whose parts have other rules."""

    @jax.custom_vjp
    def value(x, params, key):
        return layer.forward(params, x, train=train, key=key)[0]

    def forward(x, params, key):
        return layer.forward(params, x, train=train, key=key)

    def backward(residuals, dy):
        dx, grads = layer.backward(residuals, dy)
        return dx, grads, None

    value.defvjp(forward, backward)
    return in_mesh(f"{layer.kind}: x", value, x, params, key)


def parameter(layer: Layer, params: Params, name: str) -> jax.Array:
    """The parameter called `name`.

    Raises:
        InputError: there is none.
    """
    check_params(params)
    if name not in params:
        raise InputError(f"{type(layer).__name__}: params has {sorted(params)} but must have {name!r}")
    return params[name]


def parameters_of(name: str, params: Params) -> Params:
    """Those of the layer inside called `name`; {} where it has none."""
    check_params(params)
    return params.get(name, {})


def check_params(params: Params) -> None:
    """Refuse what is no dict, such as a training state."""
    if not isinstance(params, Mapping):
        raise InputError(
            f"params is of type {type(params).__name__} but must be a dict, from init; a TrainState has it as .params"
        )


class OperationLayer(Layer, abstract=True):
    """A layer that is one operation, `op`, of x and its parameters.

    Parameters have the names of the operation's arrays after x, fields those of its static arguments. A parameter whose
    name is a field that is False, such as `bias=False`, there is none of: then the operation's default must be None.

    Raises:
        InputError: when a class is defined whose `op` is no operation or has static arguments that are not its fields;
            when parameters have other shapes than those of `init`.
    """

    op: ClassVar[Operation]

    def __init_subclass__(cls, abstract: bool = False, **keywords):
        if not abstract:
            static = operation_of(cls).static
            fields = {name for base in cls.__mro__ for name in inspect.get_annotations(base)}
            lacking = [name for name in static if name not in fields and not hasattr(cls, name)]
            if lacking:
                raise InputError(
                    f"{cls.__name__}: lacks the field {' and '.join(lacking)} but must have all static arguments of "
                    f"{cls.op.name}: {', '.join(static)}"
                )
        super().__init_subclass__(abstract, **keywords)

    def apply(self, params, x, *, train=False, key=None):
        return self.op(x, *self._fitting(params, x), **self._static)

    def forward(self, params, x, *, train=False, key=None):
        return self.op.forward(x, *self._fitting(params, x), **self._static)

    def backward(self, residuals, dy):
        dx, *grads = self.op.backward(residuals, dy, **self._static)
        names = self.op.arguments[1:]
        return dx, {name: grad for name, grad in zip(names, grads, strict=True) if grad is not None}

    def _fitting(self, params, x):
        """`_arrays`, refused where their shapes are not those of `init`."""
        arrays = self._arrays(params)
        if arrays and hasattr(x, "shape"):
            shapes = _shapes(self, tuple(x.shape[1:]))
            for name, array in zip(self.op.arguments[1:], arrays, strict=True):
                if array is not None and name in shapes:
                    check_shape(type(self).__name__, name, array, shapes[name])
        return arrays

    def _arrays(self, params) -> Sequence[jax.Array | None]:
        """The operation's arrays after x; None for a bias that the layer has not."""
        names = self.op.arguments[1:]
        return [parameter(self, params, name) if getattr(self, name, True) else None for name in names]

    @property
    def _static(self):
        return {name: getattr(self, name) for name in self.op.static}


@cache
def _shapes(layer, in_shape):
    """The shapes of a layer's parameters by name."""
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), in_shape))
    return {name: leaf.shape for name, leaf in params.items()}


def check_image(op: str, in_shape: Shape) -> None:
    """Refuse a shape that is not that of an image."""
    if len(in_shape) != 3:
        raise InputError(f"{op}: the input has shape {shown(in_shape)} but must have shape (height, width, channels)")


def required(op: str, key: jax.Array | None) -> jax.Array:
    """The key of a layer that draws in training."""
    if key is None:
        raise InputError(f"{op}: key is None but must be a key of jax.random.key when train is True")
    return key


def without_empty(tree: dict[str, Any]) -> dict[str, Any]:
    """The trees by name, those left out in which there is nothing."""
    return {name: value for name, value in tree.items() if value}
