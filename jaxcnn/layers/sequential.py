r"""Layers in sequence: the chain rule, forwards and backwards, and the trace of sensitivities.

Layer l = 1..L has input x^{l-1}, parameters w^l, output x^l and sensitivity delta^l = dE/dx^l.

(1)  forward    x^l         = f_l(w^l, x^{l-1})
(2)  backward   delta^{l-1} = (df_l/dx^{l-1})^T delta^l            starting from delta^L = dE/dx^L, from the loss
(3)             dE/dw^l     = (df_l/dw^l)^T delta^l

A convolution or dense layer stands apart from its activation here, so the delta of a layer called `conv1` or `dense1`
is the documents' dE/du: the sensitivity of the pre-activation.
Loops: reference/network.py. Tests: tests/layers/test_sequential.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jax

from ..errors import InputError, check_key, shown
from .base import Layer, Params, Shape, parameters_of, without_empty

__all__ = ["Sequential"]


@dataclass(frozen=True, init=False)
class Listed(Layer, abstract=True):
    """Base of what holds layers in a tuple: they are named by class and count, `conv1`, `relu1`, `conv2`, ..."""

    layers: tuple[Layer, ...]

    def __init__(self, layers: Sequence[Layer], *more: Layer):
        own = type(self).__name__
        if more or not isinstance(layers, Iterable):
            given = ", ".join(map(shown, (layers, *more)))
            raise InputError(f"{own}: layers must be a tuple, {own}((a, b)) or {own}((a,)), but is {given}")
        object.__setattr__(self, "layers", tuple(layers))
        if not self.layers:
            raise InputError(f"{own}: layers is () but must be at least one layer")
        for i, layer in enumerate(self.layers):
            if isinstance(layer, type) and issubclass(layer, Layer):
                name = layer.__name__
                raise InputError(f"{own}: layers[{i}] is the class {name} but must be a layer: {name}()")
            if not isinstance(layer, Layer):
                raise InputError(f"{own}: layers[{i}] is {shown(layer)} but must be a layer, such as ReLU()")

    @property
    def names(self) -> tuple[str, ...]:
        """The layers' names, in order."""
        kinds = [layer.kind.lower().removesuffix("2d") for layer in self.layers]
        return tuple(f"{kind}{kinds[: i + 1].count(kind)}" for i, kind in enumerate(kinds))

    def children(self):
        return dict(zip(self.names, self.layers, strict=True))

    def with_children(self, children):
        return type(self)(tuple(children.values()))


@dataclass(frozen=True, init=False)
class Sequential(Listed):
    """Layers one after the other; itself a layer, so networks nest.

    Layers are named by class and count, `conv1`, `relu1`, `conv2`, ...; parameters are a dict by these names, without
    the layers that have none.

    >>> from jaxcnn import Conv2d, Dense, Flatten, MaxPool2d, ReLU
    >>> network = Sequential((Conv2d(4, 3), ReLU(), MaxPool2d(2), Flatten(), Dense(10)))
    >>> network.names
    ('conv1', 'relu1', 'maxpool1', 'flatten1', 'dense1')
    >>> params = network.init(jax.random.key(0), (8, 8, 1))
    >>> jax.tree.map(jnp.shape, params)
    {'conv1': {'bias': (4,), 'weight': (3, 3, 1, 4)}, 'dense1': {'bias': (10,), 'weight': (36, 10)}}
    >>> network.apply(params, jnp.ones((2, 8, 8, 1))).shape
    (2, 10)
    """

    def init(self, key, in_shape):
        check_key("Sequential", key)
        params = {}
        for (name, layer), layer_key in zip(
            self.children().items(), jax.random.split(key, len(self.layers)), strict=True
        ):
            with naming_layer(name, in_shape):
                params[name] = layer.init(layer_key, in_shape)
                in_shape = layer.output_shape(in_shape)
        return without_empty(params)

    def apply(self, params, x, *, train=False, key=None):
        for i, (name, layer) in enumerate(self.children().items()):
            with naming_layer(name, sample_shape(x)):
                x = layer.apply(parameters_of(name, params), x, train=train, key=_nth(key, i))  # (1)
        return x

    def forward(self, params, x, *, train=False, key=None):
        residuals = {}
        for i, (name, layer) in enumerate(self.children().items()):
            with naming_layer(name, sample_shape(x)):
                x, residuals[name] = layer.forward(parameters_of(name, params), x, train=train, key=_nth(key, i))  # (1)
        return x, residuals

    def backward_with_deltas(self, residuals, dy):
        """`(dx, grads, deltas)`: deltas[name] is dE/d(output of that layer); "sequential1/conv1" inside a layer.

        >>> from jaxcnn import Dense, ReLU
        >>> network = Sequential((Dense(3), ReLU()))
        >>> params = network.init(jax.random.key(0), (2,))
        >>> y, residuals = network.forward(params, jnp.ones((1, 2)))
        >>> dx, grads, deltas = network.backward_with_deltas(residuals, jnp.ones_like(y))
        >>> {name: delta.shape for name, delta in deltas.items()}
        {'relu1': (1, 3), 'dense1': (1, 3)}
        """
        grads, deltas = {}, {}
        for name, layer in reversed(self.children().items()):
            deltas[name] = dy
            with naming_layer(name, sample_shape(dy), "dy"):
                dy, grads[name], inner = layer.backward_with_deltas(residuals[name], dy)  # (2), (3)
            deltas |= {f"{name}/{inner_name}": delta for inner_name, delta in inner.items()}
        return dy, without_empty(grads), deltas

    def output_shape(self, in_shape):
        for name, layer in self.children().items():
            with naming_layer(name, in_shape):
                in_shape = layer.output_shape(in_shape)
        return in_shape

    def multiply_adds(self, in_shape):
        total = 0
        for layer in self.layers:
            total += layer.multiply_adds(in_shape)
            in_shape = layer.output_shape(in_shape)
        return total


def as_chain(network: Layer, params: Params = None) -> tuple[Sequential, Params]:
    """A layer that is no `Sequential` as a chain of one, and its parameters by the name that it has there."""
    if isinstance(network, Sequential):
        return network, params
    network = Sequential((network,))
    return network, {network.names[0]: params}


class naming_layer:
    """Put the layer's name and the shape of what it was given before the sentence of an error raised inside."""

    def __init__(self, name: str, shape: Shape, given: str = "input"):
        self.where = f"layer {name!r} with {given} shape {tuple(shape)}"

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, InputError):
            raise InputError(f"{self.where}: {error}") from error


def sample_shape(x) -> Shape:
    """The shape of one sample of a batch."""
    return getattr(x, "shape", ())[1:]  # what is no array the layer refuses


def _nth(key, i):
    return None if key is None else jax.random.fold_in(key, i)
