"""One safetensors file for a training run: arrays by their path in the tree, all else as JSON in its metadata."""

import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import files
from ..errors import InputError, is_int, is_number, reason, shown
from ..files import AnyPath
from ..layers.base import Layer, Params, Shape
from ..layers.statistics import init_statistics, merged
from ..progress import Progress
from ..training import TrainState, check_state
from .spec import UnknownLayer, spec_from_json, spec_to_json

VERSIONS = ("jaxcnn 1", "jaxcnn 2")  # those that are read; the last one is written
EPOCH = {"epoch", "step", "loss", "accuracy"}  # what is known of every epoch
MEASURED = {"validation_loss", "validation_accuracy"}  # and of every one, or of none


@dataclass(frozen=True)
class Checkpoint:
    """What `load_checkpoint` reads.

    Attributes:
        network, in_shape: what the parameters belong to.
        params: NumPy arrays; their moving average, where one was kept; with the statistics of batch norms.
        info: the JSON values saved beside them.
    """

    network: Layer
    in_shape: Shape
    params: Params
    info: dict[str, Any]


def save_checkpoint(
    path: AnyPath,
    network: Layer,
    in_shape: Shape,
    state: TrainState | Progress,
    info: dict[str, Any] | None = None,
) -> None:
    """Write where training stands, the network's spec, its input's shape and `info`, whole or not at all.

    Args:
        path: the file.
        network, in_shape: what the parameters belong to.
        state: a training state, or the progress of a `fit`, without its `best`, from which another goes on.
        info: JSON values.

    Raises:
        InputError: the state is none of this network and input shape, or safetensors is not installed.
        OSError: the file cannot be written.
    """
    to_bytes = _safetensors().numpy.save
    progress = state if isinstance(state, Progress) else Progress(state)
    check_state(progress.state)
    expected, found = (_shapes(params) for params in (_initial(network, in_shape), progress.state.params))
    if found != expected:
        raise InputError(
            f"state has the parameters {found} but must have {expected}, those of the network for in_shape {in_shape}"
        )
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in _named_leaves(_as_dict(progress)).items()}
    described = {
        "network": spec_to_json(network),
        "in_shape": in_shape,
        "info": info or {},
        "history": progress.history,
        "versions": {name: version(name) for name in ("jaxcnn", "jax")},
    }
    metadata = {"format": VERSIONS[-1]} | {name: json.dumps(value) for name, value in described.items()}
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
        if not all(is_int(size) and size >= 1 for size in in_shape):
            raise ValueError(f"in_shape is {shown(in_shape)}")
        info = dict(json.loads(metadata["info"]))
        initial = _initial(network, in_shape)
    except UnknownLayer as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise InputError(
            f"{path}: is corrupt ({reason(error)}); it must be a safetensors file written by jaxcnn"
        ) from None
    averaged = any(name.startswith("optimizer/average/") for name in arrays)
    root = "optimizer/average" if averaged else "params"
    held = {name: array for name, array in arrays.items() if f"{name}/".startswith(f"{root}/")}
    dtype = next((array.dtype for array in held.values() if jnp.issubdtype(array.dtype, jnp.floating)), np.float32)
    expected = {f"{root}/{name}": _fact(leaf.shape, dtype) for name, leaf in _named_leaves(initial).items()}
    _check_same(path, {name: _fact(leaf.shape, leaf.dtype) for name, leaf in held.items()}, expected, "the network")
    params = jax.tree.unflatten(jax.tree.structure(initial), [held[name] for name in expected])
    return Checkpoint(network, in_shape, merged(params, _statistics(path, network, params, in_shape, arrays)), info)


def _statistics(path, network, params, in_shape, arrays):
    """The statistics in the file, refused unless they are of the network's batch norms."""
    initial = init_statistics(network, params, in_shape)
    held = {name: leaf for name, leaf in arrays.items() if name.startswith("statistics/")}
    expected = _named_leaves({"statistics": initial})
    found, wanted = ({name: _fact(leaf.shape, leaf.dtype) for name, leaf in of.items()} for of in (held, expected))
    _check_same(path, found, wanted, "the network")
    return jax.tree.unflatten(jax.tree.structure(initial), [held[name] for name in expected])


def load_state(path: AnyPath, like: TrainState) -> TrainState:
    """Read the training state alone; see `load_progress`."""
    return load_progress(path, like).state


def load_progress(path: AnyPath, like: TrainState) -> Progress:
    """Read where training stands, to go on: `fit(..., resume=load_progress(path, like=state))`.

    Args:
        path: written by `save_checkpoint`.
        like: a state of the same network and optimizer, as from `init_state`.

    Returns:
        The progress; its `best` is None, for it has a file of its own.

    Raises:
        InputError: the file is missing, corrupt, not one of ours, or of another network or optimizer.
    """
    check_state(like)
    arrays, metadata = _read(path)
    empty = _as_dict(Progress(like))
    expected = _named_leaves(empty)
    arrays = {
        name: leaf for name, leaf in expected.items() if name.startswith("progress/")
    } | arrays  # format 1 has none
    found = {name: _fact(leaf.shape, leaf.dtype) for name, leaf in arrays.items()}
    wanted = {name: _fact(leaf.shape, leaf.dtype) for name, leaf in expected.items()}
    for name in ("progress/losses", "progress/correct"):  # of any number of steps
        wanted[name] = _fact(arrays["progress/losses"].shape[:1], expected[name].dtype)
    _check_same(path, found, wanted, "this network and optimizer")
    try:
        history = tuple(json.loads(metadata.get("history", "[]")))
        known = [{name for name, value in epoch.items() if is_number(value)} for epoch in history]
        measured = {frozenset(names & MEASURED) for names in known}
        if not all(names >= EPOCH for names in known) or measured not in (set(), {frozenset()}, {frozenset(MEASURED)}):
            raise ValueError("an epoch of its history lacks a number")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: is corrupt ({reason(error)}); it must be a safetensors file written by jaxcnn"
        ) from None
    leaves = [arrays[name] if name.startswith("progress/") else jnp.asarray(arrays[name]) for name in expected]
    fields = jax.tree.unflatten(jax.tree.structure(empty), leaves)
    made = fields.pop("progress")
    state = TrainState(**{**fields, "key": jax.random.wrap_key_data(fields["key"])})
    return Progress(state, history, made["losses"], made["correct"], float(made["seconds"]))


def _initial(network, in_shape):
    return jax.eval_shape(lambda: network.init(jax.random.key(0), in_shape))


def _shapes(params):
    return {name: leaf.shape for name, leaf in _named_leaves(params).items()}


def _fact(shape, dtype):
    return f"{np.dtype(dtype)} of shape {shape}"


def _check_same(path, found, wanted, of):
    """Refuse a file by the name of the first array that it has not, has otherwise, or has beside them."""
    for name in (*wanted, *found):
        if found.get(name) != wanted.get(name):
            held, needed = (facts.get(name, "no array") for facts in (found, wanted))
            raise InputError(f"{path}: has {held} as {name} but must have {needed}, as {of} has")


def _as_dict(progress):
    state = progress.state
    made = {
        "losses": np.asarray(progress.losses, np.float64),
        "correct": np.asarray(progress.correct, np.int32),
        "seconds": np.asarray(progress.seconds, np.float64),
    }
    return {**vars(state), "key": jax.random.key_data(state.key), "progress": made}


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
        _check_format(path, metadata.get("format"))
        return {
            name: np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
            for name, tensor in tensors
        }, metadata
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); it must be a safetensors file") from None
    except (safetensors.SafetensorError, KeyError) as error:
        raise InputError(
            f"{path}: is corrupt ({reason(error)}); it must be a safetensors file written by jaxcnn"
        ) from None


def _check_format(path, found):
    if found not in VERSIONS:
        newer = "; a newer jaxcnn reads it" if re.fullmatch(r"jaxcnn \d+", str(found)) else ""
        raise InputError(
            f"{path}: has the format {shown(found)} but must have {' or '.join(map(repr, VERSIONS))}{newer}"
        )


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError:
        raise InputError("model files need safetensors: pip install '.[cli]' in a checkout") from None
    return safetensors


_DTYPES = {"F64": np.float64, "F32": np.float32, "BF16": jnp.dtype(jnp.bfloat16), "U32": np.uint32, "I32": np.int32}
