"""Other frameworks: their code in `benchmarks/peers/`, each in its own process, and weights carried there and back."""

import importlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType

import numpy as np

from jaxcnn.errors import InputError
from jaxcnn.layers.base import Layer, Params, Shape
from jaxcnn.layers.dense import Dense
from jaxcnn.layers.reshape import Flatten
from jaxcnn.layers.sequential import Sequential

from .children import Child
from .timing import Failed

PEERS = ("torch", "flax", "equinox")
Values = tuple[np.ndarray, ...]  # the arrays of one layer: weight or scale, bias; mean, variance


def check_names(names: Iterable[str]) -> None:
    """Whether they are peers.

    Raises:
        InputError: a name is not one of `PEERS`.

    >>> check_names(["jacks"])
    Traceback (most recent call last):
    jaxcnn.errors.InputError: peers has 'jacks' but must be some of torch, flax, equinox
    """
    for name in names:
        if name not in PEERS:
            raise InputError(f"peers has {name!r} but must be some of {', '.join(PEERS)}")


@contextmanager
def started(names: Iterable[str]) -> Iterator[tuple[dict[str, Child], dict[str, str], dict[str, str]]]:
    """A process for each peer: the children by name, the versions, and those that are left out with the reason.

    >>> with started([]) as (children, versions, left_out):
    ...     children, versions, left_out
    ({}, {}, {})
    """
    with ExitStack() as stack:
        children, versions, left_out = {}, {}, {}
        for name in names:
            child = stack.enter_context(Child(name))
            try:
                found, reason = child.call(_versions, name)
            except Failed as failed:
                found, reason = {}, str(failed)
            versions |= found
            if reason:
                left_out[name] = reason
            else:
                children[name] = child
        yield children, versions, left_out


def module_of(name: str) -> ModuleType:
    """The peer's code; called in its child alone.

    Raises:
        ImportError: its framework is not installed, or does not work here.
    """
    return importlib.import_module(f"benchmarks.peers.{name}_peer")


def _versions(name):
    """In the child: the versions, or why the peer is left out."""
    try:
        return module_of(name).VERSIONS, ""
    except ModuleNotFoundError as error:
        return {}, f"{error.name} is not installed (pip install '.[peers]')"
    except ImportError as error:
        return {}, str(error)


def weights_of(network: Layer, in_shape: Shape, params: Params, channels_first: bool = False) -> list[Values]:
    """The arrays of each layer that has any, in the order of the forward pass; a residual block's shortcut last.

    Args:
        network: layers.
        in_shape: shape of one input sample.
        params: its parameters, or gradients like them; or its statistics.
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
        yield tuple(params[name] for name in ("weight", "scale", "bias", "mean", "variance") if name in params), None


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
