r"""Weights of PyTorch's and torchvision's networks: a state dict's names, shapes and orders, as safetensors::

    theirs                                                ours
    Conv2d           weight (O, I/g, U, V)                weight (U, V, I/g, O)
    ConvTranspose2d  weight (I, O/g, U, V)                weight (U, V, O/g, I)
    Linear           weight (O, I)                        weight (I, O)
       after a flatten of maps, I in the order C, H, W    in the order H, W, C
    BatchNorm2d      weight, bias                         scale, bias
                     running_mean, running_var            statistics: mean, variance
                     num_batches_tracked                  a count beside them

`safetensors.torch.save_file(model.state_dict(), path)` writes such a file. Tests: tests/store/test_state_dict.py.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..files import AnyPath
from ..layers.base import Layer, Params, Shape, walk
from ..layers.conv import Conv2d
from ..layers.conv_transpose import ConvTranspose2d
from ..layers.dense import Dense
from ..layers.norm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm
from ..layers.reshape import Flatten
from ..layers.sequential import Sequential
from ..layers.statistics import Statistics, init_statistics, merged
from .tensors import check_same, named_leaves, read_tensors, write_tensors

Array = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class StateDict:
    """What a state dict holds.

    Attributes:
        params: NumPy arrays by our names.
        statistics: of batch norms, likewise.
        batches: how many batches each batch norm has seen, by its path, "residual1/body/batchnorm1".
    """

    params: Params
    statistics: Statistics
    batches: dict[str, int]


def read_state_dict(path: AnyPath, network: Layer, in_shape: Shape, names: Sequence[str]) -> StateDict:
    """Read PyTorch's weights of a network.

    Args:
        path: a safetensors file.
        network, in_shape: what they are for.
        names: of PyTorch's modules with parameters, "layer1.0.conv1", in the order in which the network's layers with
            parameters stand; `zoo.models` has those of torchvision's networks.

    Raises:
        InputError: the file is missing or corrupt; a name, a shape or a dtype is not the network's.
    """
    arrays, _ = read_tensors(path)
    entries = list(_entries(network, in_shape, names))
    known = (arrays[entry.theirs].dtype for entry in entries if entry.theirs in arrays)
    dtype = next((dtype for dtype in known if jnp.issubdtype(dtype, jnp.floating)), np.dtype(np.float32))
    expected = {
        entry.theirs: jax.ShapeDtypeStruct(entry.shape, np.int64 if entry.is_count else dtype) for entry in entries
    }
    check_same(path, arrays, expected, "PyTorch's network")
    trees: dict[str, Any] = {"params": {}, "statistics": {}}
    batches = {}
    for entry in entries:
        if entry.is_count:
            batches[entry.path] = int(arrays[entry.theirs])
        else:
            part = trees[entry.tree]
            for name in filter(None, entry.path.split("/")):
                part = part.setdefault(name, {})
            part[entry.name] = np.ascontiguousarray(entry.to_ours(arrays[entry.theirs]))
    return StateDict(trees["params"], trees["statistics"], batches)


def write_state_dict(path: AnyPath, network: Layer, in_shape: Shape, names: Sequence[str], weights: StateDict) -> None:
    """Write weights as PyTorch reads them: `model.load_state_dict(safetensors.torch.load_file(path))`.

    Args:
        path: the file.
        network, in_shape, names: see `read_state_dict`.
        weights: parameters, statistics and, by the path of each batch norm, how many batches it has seen; 0 unless
            given.

    Raises:
        InputError: the weights are not those of the network.
        OSError: the file cannot be written.
    """
    ours = named_leaves(merged(weights.params, weights.statistics))
    initial = jax.eval_shape(lambda: network.init(jax.random.key(0), in_shape))
    expected = named_leaves(merged(initial, init_statistics(network, initial, in_shape)))
    shapes = [{name: leaf.shape for name, leaf in each.items()} for each in (ours, expected)]
    if shapes[0] != shapes[1]:
        raise InputError(f"weights has the arrays {shapes[0]} but must have {shapes[1]}, those of the network")
    arrays = {}
    for entry in _entries(network, in_shape, names):
        if entry.is_count:
            arrays[entry.theirs] = np.int64(weights.batches.get(entry.path, 0))
        else:
            arrays[entry.theirs] = entry.to_theirs(np.asarray(ours[f"{entry.path}/{entry.name}".lstrip("/")]))
    write_tensors(path, arrays, {"format": "pt"})


@dataclass(frozen=True)
class _Entry:
    """One array: its name there, its place here, and how the one becomes the other."""

    theirs: str
    shape: Shape  # theirs
    path: str  # of our layer
    tree: str
    name: str
    to_ours: Array
    to_theirs: Array

    @property
    def is_count(self):
        return self.name == "count"


def _entries(network, in_shape, names) -> Iterator[_Entry]:
    """Every array of the network, in PyTorch's order."""
    initial = jax.eval_shape(lambda: network.init(jax.random.key(0), in_shape))
    learned = [(path, layer, params) for path, layer, params in walk(network, initial) if params]
    if len(learned) != len(names):
        raise InputError(f"names has {len(names)} modules but must have {len(learned)}, one for each layer that learns")
    flattened = dict(_flattened(network, in_shape))
    for theirs, (path, layer, params) in zip(names, learned, strict=True):
        if isinstance(layer, Conv2d | ConvTranspose2d):
            kinds = {"weight": ("weight", _kernel, _kernel_back), "bias": ("bias", _same, _same)}
        elif isinstance(layer, Dense):
            order = _Unrolled(flattened.get(path, ()))
            kinds = {"weight": ("weight", order.to_ours, order.to_theirs), "bias": ("bias", _same, _same)}
        elif isinstance(layer, BatchNorm | GroupNorm | LayerNorm | InstanceNorm):
            kinds = {"scale": ("weight", _same, _same), "bias": ("bias", _same, _same)}
        else:
            raise InputError(f"network has the layer {path!r}, a {type(layer).__name__}, which PyTorch has not")
        for name, (their_name, to_ours, to_theirs) in kinds.items():
            if name in params:
                shape = to_theirs(np.empty(params[name].shape, bool)).shape
                yield _Entry(f"{theirs}.{their_name}", shape, path, "params", name, to_ours, to_theirs)
        if isinstance(layer, BatchNorm):
            shape = params["scale"].shape
            for name, their_name in (("mean", "running_mean"), ("variance", "running_var")):
                yield _Entry(f"{theirs}.{their_name}", shape, path, "statistics", name, _same, _same)
            yield _Entry(f"{theirs}.num_batches_tracked", (), path, "", "count", _same, _same)


def _same(array):
    return array


def _kernel(array):
    return array.transpose(2, 3, 1, 0)


def _kernel_back(array):
    return array.transpose(3, 2, 0, 1)


@dataclass(frozen=True)
class _Unrolled:
    """The weight of a dense layer behind maps of this shape, unrolled; () where there are none."""

    maps: Shape

    def to_ours(self, array):
        if not self.maps:
            return array.T
        H, W, C = self.maps
        return array.reshape(-1, C, H, W).transpose(2, 3, 1, 0).reshape(H * W * C, -1)

    def to_theirs(self, array):
        if not self.maps:
            return array.T
        H, W, C = self.maps
        return array.reshape(H, W, C, -1).transpose(3, 2, 0, 1).reshape(-1, C * H * W)


def _flattened(layer: Layer, in_shape: Shape, path: str = "") -> Iterator[tuple[str, Shape]]:
    """The path of every dense layer behind a flatten in its sequence, and the shape of the maps unrolled there."""
    maps = ()
    for name, child in layer.children().items():
        inside = f"{path}/{name}" if path else name
        if isinstance(child, Flatten) and len(in_shape) == 3:
            maps = in_shape
        elif isinstance(child, Dense) and maps:
            yield inside, maps
            maps = ()
        yield from _flattened(child, in_shape, inside)
        if isinstance(layer, Sequential):
            in_shape = child.output_shape(in_shape)
