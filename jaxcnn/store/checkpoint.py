"""One safetensors file for a trained network: the arrays by their path in the tree, and the specs as metadata."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import files
from ..errors import InputError
from ..files import AnyPath
from ..layers.base import Layer, Params, Shape
from ..training import TrainState, check_state
from .spec import UnknownLayer, spec_from_json, spec_to_json

FORMAT = "jaxcnn 1"


@dataclass(frozen=True)
class Checkpoint:
    """What `load_checkpoint` reads: spec, input shape, parameters as NumPy arrays, and the `info` beside them."""

    network: Layer
    in_shape: Shape
    params: Params
    info: dict[str, Any]


def save_checkpoint(
    path: AnyPath, network: Layer, in_shape: Shape, state: TrainState, info: dict[str, Any] | None = None
) -> None:
    """Write the training state, the network's spec, its input's shape and `info` (JSON values), whole or not at all.

    Raises:
        InputError: the state is none of this network and input shape, or safetensors is not installed.
        OSError: the file cannot be written.
    """
    to_bytes = _safetensors().numpy.save
    check_state(state)
    expected, found = (_shapes(params) for params in (_initial(network, in_shape), state.params))
    if found != expected:
        raise InputError(
            f"state has the parameters {found} but must have {expected}, those of the network for in_shape {in_shape}"
        )
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in _named_leaves(_as_dict(state)).items()}
    described = {"network": spec_to_json(network), "in_shape": in_shape, "info": info or {}}
    metadata = {"format": FORMAT} | {name: json.dumps(value) for name, value in described.items()}
    files.write(path, to_bytes(arrays, metadata=metadata))


def load_checkpoint(path: AnyPath) -> Checkpoint:
    """Read a network, its parameters and the `info` saved with them; `predict(network, params, x)` uses them.

    Raises:
        InputError: the file is missing, corrupt, not one of ours, or holds a layer that is not defined here.
    """
    arrays, metadata = _read(path)
    try:
        network = spec_from_json(json.loads(metadata["network"]))
        in_shape = tuple(json.loads(metadata["in_shape"]))
        info = dict(json.loads(metadata["info"]))
        expected = {"params": _initial(network, in_shape)}
        params = [arrays[name] for name in _named_leaves(expected)]
        if [leaf.shape for leaf in params] != [leaf.shape for leaf in jax.tree.leaves(expected)]:
            raise ValueError("the parameters have other shapes than the network's")
        found = {name for name in arrays if name.split("/")[0] == "params"}
        if found != set(_named_leaves(expected)):
            raise ValueError("it holds parameters that the network has not")
    except UnknownLayer as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is corrupt ({error}); it must be a safetensors file written by jaxcnn") from None
    return Checkpoint(network, in_shape, jax.tree.unflatten(jax.tree.structure(expected), params)["params"], info)


def load_state(path: AnyPath, like: TrainState) -> TrainState:
    """Read the whole training state, to go on training.

    Args:
        path: written by `save_checkpoint`.
        like: a state of the same network and optimizer, as from `init_state`; its arrays are replaced.

    Raises:
        InputError: the file is missing, corrupt, not one of ours, or of another network or optimizer.
    """
    check_state(like)
    arrays, _ = _read(path)
    fields = _as_dict(like)
    expected = _named_leaves(fields)
    found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    if found != {name: (leaf.shape, leaf.dtype) for name, leaf in expected.items()}:
        raise InputError(f"{path}: holds other arrays than this network and optimizer have; they must be the same")
    state = jax.tree.unflatten(jax.tree.structure(fields), [jnp.asarray(arrays[name]) for name in expected])
    return TrainState(**{**state, "key": jax.random.wrap_key_data(state["key"])})


def _initial(network, in_shape):
    return jax.eval_shape(lambda: network.init(jax.random.key(0), in_shape))


def _shapes(params):
    return {name: leaf.shape for name, leaf in _named_leaves(params).items()}


def _as_dict(state):
    return {**vars(state), "key": jax.random.key_data(state.key)}


def _named_leaves(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _read(path):
    safetensors = _safetensors()
    try:
        content = Path(path).read_bytes()
        tensors = safetensors.deserialize(content)
        header = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + header]).get("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise InputError(f"{path}: has the format {metadata.get('format')!r} but must have {FORMAT!r}")
        return {
            name: np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
            for name, tensor in tensors
        }, metadata
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); it must be a safetensors file") from None
    except (safetensors.SafetensorError, KeyError) as error:
        raise InputError(f"{path}: is corrupt ({error}); it must be a safetensors file written by jaxcnn") from None


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError:
        raise InputError("model files need safetensors: pip install '.[cli]' in a checkout") from None
    return safetensors


_DTYPES = {"F64": np.float64, "F32": np.float32, "BF16": jnp.dtype(jnp.bfloat16), "U32": np.uint32, "I32": np.int32}
