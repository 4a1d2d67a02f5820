"""The table of a network: shapes, parameters, multiply-adds and what a training step keeps."""

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp

from ..layers.base import Layer, Shape
from ..layers.sequential import as_chain
from ..tables import aligned

__all__ = ["Summary", "describe", "summary"]


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
        lines = aligned([head, *cells], left={0})
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

    >>> from jaxcnn import Conv2d, Dense, Flatten, MaxPool2d, ReLU, Sequential
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
    network, _ = as_chain(network)
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), in_shape))
    batch = jax.ShapeDtypeStruct((batch_size, *in_shape), jnp.result_type(float))

    def residuals_of(params, x):
        return network.forward(params, x, train=True, key=jax.random.key(0))[1]

    with jax.disable_jit():  # else what an inner program hands through is a variable of its own, in jax 0.12
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


def describe(layer: Layer) -> str:
    """The spec as Python writes it, without the fields that have their default; "..." for a long value.

    >>> from jaxcnn import Conv2d
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
