"""Other frameworks: their code in `benchmarks/peers/`, and weights carried there and back."""

import importlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from jaxcnn.errors import InputError
from jaxcnn.layers.base import Layer, Params, Shape
from jaxcnn.layers.dense import Dense
from jaxcnn.layers.reshape import Flatten
from jaxcnn.layers.sequential import Sequential

PEERS = ("torch", "flax", "equinox")
Values = tuple[np.ndarray, ...]  # the arrays of one layer: weight, bias


def import_peers(names) -> tuple[dict[str, ModuleType], dict[str, str]]:
    """The peers' modules by name, and those that are left out with the reason.

    Raises:
        InputError: a name is not one of `PEERS`.

    >>> import_peers(["jacks"])
    Traceback (most recent call last):
    jaxcnn.errors.InputError: peers has 'jacks' but must be some of torch, flax, equinox
    """
    for name in names:
        if name not in PEERS:
            raise InputError(f"peers has {name!r} but must be some of {', '.join(PEERS)}")
    found, left_out = {}, {}
    for name in names:
        try:
            found[name] = importlib.import_module(f"benchmarks.peers.{name}_peer")
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError)
            left_out[name] = f"{error.name} is not installed (pip install '.[peers]')" if missing else str(error)
    return found, left_out


def weights_of(network: Layer, in_shape: Shape, params: Params, channels_first: bool = False) -> list[Values]:
    """The arrays of each layer that has any, in the order of the forward pass; a residual block's shortcut last.

    Args:
        network: layers.
        in_shape: shape of one input sample.
        params: its parameters, or gradients like them.
        channels_first: kernels as (O, I, U, V) and matrices as (out, in), columns in the order of flattened CHW.
    """
    arranged = []
    for values, flattened in _leaves(network, in_shape, params):
        weight, *others = (np.asarray(value, np.float32) for value in values)
        arranged.append((_channels_first(weight, flattened) if channels_first else weight, *others))
    return arranged


def brought_back(network: Layer, in_shape: Shape, params: Params, weights: list[Values]) -> list[np.ndarray]:
    """`weights_of(..., channels_first=True)`, undone: the arrays one after the other as `flat` has them."""
    arrays = []
    for (values, flattened), (weight, *others) in zip(_leaves(network, in_shape, params), weights, strict=True):
        arrays += [_channels_last(weight, flattened, values[0].shape), *others]
    return arrays


def flat(network: Layer, in_shape: Shape, params: Params) -> list:
    """The arrays of `weights_of`, one after the other, untouched."""
    return [value for values, _ in _leaves(network, in_shape, params) for value in values]


def _leaves(layer: Layer, shape: Shape, params: Params) -> Iterator[tuple[tuple, Shape | None]]:
    """Arrays of each layer, and the shape that was flattened if that is what the layer sees."""
    if isinstance(layer, Sequential):
        flattened = None
        for name, inner in zip(layer.names, layer.layers, strict=True):
            if isinstance(inner, Flatten):
                flattened = shape
            elif name in params:
                known = flattened if isinstance(inner, Dense) else None
                yield from ((values, known or own) for values, own in _leaves(inner, shape, params[name]))
                flattened = None
            shape = inner.output_shape(shape)
    elif children := layer.children():
        for name, inner in children.items():
            yield from _leaves(inner, shape, params.get(name, {}))
    elif params:
        yield tuple(params[name] for name in ("weight", "bias") if name in params), None


def _channels_first(weight, flattened):
    if weight.ndim == 4:
        return weight.transpose(3, 2, 0, 1)
    if flattened is not None:
        H, W, C = flattened
        return weight.reshape(H, W, C, -1).transpose(3, 2, 0, 1).reshape(weight.shape[1], -1)
    return weight.T


def _channels_last(weight, flattened, shape):
    if weight.ndim == 4:
        return weight.transpose(2, 3, 1, 0)
    if flattened is not None:
        H, W, C = flattened
        return weight.reshape(-1, C, H, W).transpose(2, 3, 1, 0).reshape(shape)
    return weight.T
