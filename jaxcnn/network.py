r"""Layers in sequence: the chain rule, forwards and backwards, and the trace of sensitivities.

Layer l = 1..L has input x^{l-1}, parameters w^l, output x^l and sensitivity delta^l = dE/dx^l.

(1)  forward    x^l         = f_l(w^l, x^{l-1})
(2)  backward   delta^{l-1} = (df_l/dx^{l-1})^T delta^l            starting from delta^L = dE/dx^L, from the loss
(3)             dE/dw^l     = (df_l/dw^l)^T delta^l

A convolution or dense layer stands apart from its activation here, so the delta of a layer called `conv1` or `dense1`
is the documents' dE/du: the sensitivity of the pre-activation.
Loops: reference/network.py. Tests: tests/test_network.py.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp

from .errors import InputError
from .layers.activation import ReLU, ScaledTanh, Sigmoid, Softmax, Tanh, softmax
from .layers.base import Layer, Params, Shape
from .layers.combine_maps import CombineMaps
from .layers.conv import Conv2d
from .layers.dense import Dense
from .layers.dropout import Dropout
from .layers.median_pool import MedianPool2d
from .layers.pool import AvgPool2d, MaxPool2d
from .layers.reshape import Flatten
from .layers.residual import Residual
from .layers.stochastic_pool import StochasticPool2d
from .layers.subsample import Subsample2d

__all__ = ["Sequential", "Summary", "predict", "relu_after_pool", "spec_from_json", "spec_to_json", "summary"]


@dataclass(frozen=True, init=False)
class Sequential(Layer):
    """Layers one after the other; itself a layer, so networks nest.

    Layers are named by class and count, `conv1`, `relu1`, `conv2`, ...; parameters are a dict by these names, without
    the layers that have none.

    >>> network = Sequential((Conv2d(4, 3), ReLU(), MaxPool2d(2), Flatten(), Dense(10)))
    >>> network.names
    ('conv1', 'relu1', 'maxpool1', 'flatten1', 'dense1')
    >>> params = network.init(jax.random.key(0), (8, 8, 1))
    >>> jax.tree.map(jnp.shape, params)
    {'conv1': {'bias': (4,), 'weight': (3, 3, 1, 4)}, 'dense1': {'bias': (10,), 'weight': (36, 10)}}
    >>> network.apply(params, jnp.ones((2, 8, 8, 1))).shape
    (2, 10)
    """

    layers: tuple[Layer, ...]

    def __init__(self, layers: Sequence[Layer]):
        object.__setattr__(self, "layers", tuple(layers))
        if not self.layers or not all(isinstance(layer, Layer) for layer in self.layers):
            raise InputError(f"Sequential: layers is {self.layers} but must be at least one layer")

    @property
    def names(self) -> tuple[str, ...]:
        """The layers' names, in order."""
        kinds = [type(layer).__name__.lower().removesuffix("2d") for layer in self.layers]
        return tuple(f"{kind}{kinds[: i + 1].count(kind)}" for i, kind in enumerate(kinds))

    def init(self, key, in_shape):
        params = {}
        for (name, layer), layer_key in zip(self._named, jax.random.split(key, len(self.layers)), strict=True):
            with _naming(name, in_shape):
                params[name] = layer.init(layer_key, in_shape)
                in_shape = layer.output_shape(in_shape)
        return _without_empty(params)

    def apply(self, params, x, *, train=False, key=None):
        for i, (name, layer) in enumerate(self._named):
            with _naming(name, x.shape[1:]):
                x = layer.apply(params.get(name, {}), x, train=train, key=_nth(key, i))  # (1)
        return x

    def forward(self, params, x, *, train=False, key=None):
        residuals = {}
        for i, (name, layer) in enumerate(self._named):
            with _naming(name, x.shape[1:]):
                x, residuals[name] = layer.forward(params.get(name, {}), x, train=train, key=_nth(key, i))  # (1)
        return x, residuals

    def backward_with_deltas(self, residuals, dy):
        """`(dx, grads, deltas)`: deltas[name] is dE/d(output of that layer); "sequential1/conv1" inside a layer.

        >>> network = Sequential((Dense(3), ReLU()))
        >>> params = network.init(jax.random.key(0), (2,))
        >>> y, residuals = network.forward(params, jnp.ones((1, 2)))
        >>> dx, grads, deltas = network.backward_with_deltas(residuals, jnp.ones_like(y))
        >>> {name: delta.shape for name, delta in deltas.items()}
        {'relu1': (1, 3), 'dense1': (1, 3)}
        """
        grads, deltas = {}, {}
        for name, layer in reversed(self._named):
            deltas[name] = dy
            with _naming(name, dy.shape[1:], "dy"):
                dy, grads[name], inner = layer.backward_with_deltas(residuals[name], dy)  # (2), (3)
            deltas |= {f"{name}/{inner_name}": delta for inner_name, delta in inner.items()}
        return dy, _without_empty(grads), deltas

    def penalty(self, params):
        found = {name: layer.penalty(params.get(name, {})) for name, layer in self._named}
        return sum(value for value, _ in found.values()), _without_empty({name: of for name, (_, of) in found.items()})

    def output_shape(self, in_shape):
        for name, layer in self._named:
            with _naming(name, in_shape):
                in_shape = layer.output_shape(in_shape)
        return in_shape

    def parameter_count(self, params):
        return sum(layer.parameter_count(params.get(name, {})) for name, layer in self._named)

    def multiply_adds(self, in_shape):
        total = 0
        for layer in self.layers:
            total += layer.multiply_adds(in_shape)
            in_shape = layer.output_shape(in_shape)
        return total

    @property
    def _named(self):
        return list(zip(self.names, self.layers, strict=True))


def relu_after_pool(network: Layer) -> Layer:
    """The network with every ReLU before a max pooling moved behind it: the same function, on fewer entries.

    max(relu(u)) = relu(max(u)), and the gradients agree entry by entry: where the maximum is positive its position is
    the same, elsewhere both are zero. Parameters keep their names. `training` computes its gradients this way;
    `backward_with_deltas` of the network itself runs the chain as it was written.

    >>> relu_after_pool(Sequential((Conv2d(4, 3), ReLU(), MaxPool2d(2)))).names
    ('conv1', 'maxpool1', 'relu1')
    """
    if isinstance(network, Residual):
        return Residual(relu_after_pool(network.body), network.shortcut and relu_after_pool(network.shortcut))
    if not isinstance(network, Sequential):
        return network
    layers = [relu_after_pool(layer) for layer in network.layers]
    for i in range(len(layers) - 1):
        if isinstance(layers[i], ReLU) and isinstance(layers[i + 1], MaxPool2d):
            layers[i], layers[i + 1] = layers[i + 1], layers[i]
    return Sequential(layers)


class _naming:
    """Put the layer's name and the shape of what it was given before the sentence of an error raised inside."""

    def __init__(self, name: str, shape: Shape, given: str = "input"):
        self.where = f"layer {name!r} with {given} shape {tuple(shape)}"

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, InputError):
            raise InputError(f"{self.where}: {error}") from error


def _nth(key, i):
    return None if key is None else jax.random.fold_in(key, i)


def _without_empty(tree):
    return {name: value for name, value in tree.items() if value}


def predict(network: Layer, params: Params, x) -> tuple[jax.Array, jax.Array]:
    """The class of greatest probability and that probability, for each sample [A4].

    Args:
        network: a layer whose outputs are (N, K) logits.
        params: its parameters.
        x: (N, ...), a batch.

    Returns:
        Classes (N,), int32, and probabilities (N,) of the outputs' dtype, by softmax of the outputs.

    Raises:
        InputError: x does not fit the network.

    >>> network = Sequential((Dense(3, bias=False),))
    >>> classes, probabilities = predict(network, {"dense1": {"weight": jnp.eye(3)}}, jnp.array([[2.0, 3.0, 4.0]]))
    >>> print(classes, probabilities.round(4))
    [2] [0.6652]
    """
    probabilities = softmax(network.apply(params, x))
    return probabilities.argmax(axis=-1).astype(jnp.int32), probabilities.max(axis=-1)


@dataclass(frozen=True)
class SummaryRow:
    """One layer of a `summary`: shapes of one sample; counts for one sample; bytes for the whole batch."""

    name: str
    layer: str
    output_shape: Shape
    parameters: int
    multiply_adds: int
    residual_bytes: int


@dataclass(frozen=True)
class Summary:
    """What `summary` returns; `str` of it is the table."""

    in_shape: Shape
    batch_size: int
    rows: tuple[SummaryRow, ...]

    @property
    def total(self) -> SummaryRow:
        """The sums of the columns."""
        sums = [sum(getattr(row, field) for row in self.rows) for field in _COUNTS]
        return SummaryRow("total", "", self.rows[-1].output_shape, *sums)

    def __str__(self):
        head = ("layer", "output shape", "parameters", "multiply-adds", f"residual bytes (batch {self.batch_size})")
        cells = [
            (
                f"{row.name:10} {row.layer}".strip(),
                _product(row.output_shape),
                *(f"{getattr(row, c):,}" for c in _COUNTS),
            )
            for row in (*self.rows, self.total)
        ]
        cells.insert(0, ("input", _product(self.in_shape), "", "", ""))
        widths = [max(len(row[i]) for row in (head, *cells)) for i in range(len(head))]
        lines = [
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in (head, *cells)
        ]
        rule = "-" * len(lines[0])
        return "\n".join(line.rstrip() for line in (lines[0], rule, *lines[1:-1], rule, lines[-1]))


_COUNTS = ("parameters", "multiply_adds", "residual_bytes")


def _product(shape: Shape) -> str:
    return "x".join(map(str, shape))


def summary(network: Layer, in_shape: Shape, *, batch_size: int = 1) -> Summary:
    """Shape, parameters, multiply-adds and residual bytes of every layer; nothing is computed.

    Residual bytes are what a training step keeps from forward to backward besides the parameters and the batch, in
    JAX's default float; an array that two layers keep counts once, where it first appears.

    Args:
        network: the layers; a single layer counts as a sequence of one.
        in_shape: shape of one input sample.
        batch_size: samples in the batch for the residual bytes.

    Raises:
        InputError: the layers do not fit, naming the layer.

    >>> print(summary(Sequential((Conv2d(6, 5, padding=2), ReLU(), MaxPool2d(2), Flatten(), Dense(10))), (28, 28, 1)))
    layer                               output shape  parameters  multiply-adds  residual bytes (batch 1)
    -----------------------------------------------------------------------------------------------------
    input                                    28x28x1
    conv1      Conv2d(6, 5, padding=2)       28x28x6         156        117,600                         0
    relu1      ReLU()                        28x28x6           0              0                    18,816
    maxpool1   MaxPool2d(2)                  14x14x6           0              0                     1,176
    flatten1   Flatten()                        1176           0              0                         0
    dense1     Dense(10)                          10      11,770         11,760                     4,704
    -----------------------------------------------------------------------------------------------------
    total                                         10      11,926        129,360                    24,696
    """
    if not isinstance(network, Sequential):
        network = Sequential((network,))
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), in_shape))
    batch = jax.ShapeDtypeStruct((batch_size, *in_shape), jnp.result_type(float))

    def residuals_of(params, x):
        return network.forward(params, x, train=True, key=jax.random.key(0))[1]

    closed, residuals = jax.make_jaxpr(residuals_of, return_shape=True)(params, batch)
    residuals = jax.tree.unflatten(jax.tree.structure(residuals), closed.jaxpr.outvars)
    counted, rows = set(closed.jaxpr.invars), []
    for name, layer in zip(network.names, network.layers, strict=True):
        new = set(jax.tree.leaves(residuals[name])) - counted
        counted |= new
        rows.append(
            SummaryRow(
                name,
                describe(layer),
                shape := layer.output_shape(in_shape),
                layer.parameter_count(params.get(name, {})),
                layer.multiply_adds(in_shape),
                sum(var.aval.size * var.aval.dtype.itemsize for var in new),
            )
        )
        in_shape = shape
    return Summary(batch.shape[1:], batch_size, tuple(rows))


LAYERS = {
    layer.__name__: layer
    for layer in (
        AvgPool2d, CombineMaps, Conv2d, Dense, Dropout, Flatten, MaxPool2d, MedianPool2d, ReLU, Residual,
        ScaledTanh, Sequential, Sigmoid, Softmax, StochasticPool2d, Subsample2d, Tanh,
    )
}  # fmt: skip


def describe(layer: Layer) -> str:
    """The spec as Python writes it, without the fields that have their default; "..." for a long value.

    >>> describe(Conv2d(6, 5, padding=2))
    'Conv2d(6, 5, padding=2)'
    """
    shown, positional = [], True
    for field in dataclasses.fields(cast(Any, layer)):
        value = getattr(layer, field.name)
        if field.default is not dataclasses.MISSING:
            positional = False
            if value == field.default:
                continue
        text = describe(value) if isinstance(value, Layer) else repr(value)
        if isinstance(value, tuple) and value and isinstance(value[0], Layer):
            text = f"{len(value)} layers"
        if len(text) > 40:
            text = "..."
        shown.append(text if positional else f"{field.name}={text}")
    return f"{type(layer).__name__}({', '.join(shown)})"


def spec_to_json(layer: Layer) -> dict[str, Any]:
    """The spec as a dict of JSON values: the class's name under "layer", then its fields, layers inside likewise.

    >>> spec_to_json(MaxPool2d((2, 1)))
    {'layer': 'MaxPool2d', 'window_size': (2, 1), 'stride': None, 'padding': 0}
    """

    def to_json(value):
        if isinstance(value, Layer):
            return spec_to_json(value)
        return tuple(map(to_json, value)) if isinstance(value, tuple) else value

    fields = {field.name: to_json(getattr(layer, field.name)) for field in dataclasses.fields(cast(Any, layer))}
    return {"layer": type(layer).__name__, **fields}


def spec_from_json(spec: Any, layers: dict[str, type] = LAYERS) -> Layer:
    """The spec that `spec_to_json` wrote.

    Args:
        spec: as `spec_to_json` returns it, or read back from JSON.
        layers: the classes by name; add your own to read networks that contain them.

    Raises:
        InputError: the spec names an unknown class or has fields that the class has not.

    >>> spec_from_json({"layer": "MaxPool2d", "window_size": [2, 1]})
    MaxPool2d(window_size=(2, 1), stride=None, padding=0)
    """

    def from_json(value):
        if isinstance(value, dict):
            return spec_from_json(value, layers)
        return tuple(map(from_json, value)) if isinstance(value, list | tuple) else value

    name = spec.get("layer") if isinstance(spec, dict) else spec
    if name not in layers:
        raise InputError(f"layer is {name!r} but must be one of {', '.join(layers)}")
    fields = {field: from_json(value) for field, value in spec.items() if field != "layer"}
    try:
        return layers[name](**fields)
    except TypeError as error:
        raise InputError(f"layer {name}: its fields are {sorted(fields)} but must be those of the class") from error
