"""One safetensors file for a training run: arrays by their path in the tree, all else as JSON in its metadata."""

import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, is_int, is_number, shown
from ..files import AnyPath
from ..layers.base import Layer, Params, Shape
from ..layers.statistics import init_statistics, merged
from ..progress import Progress
from ..training import TrainState, check_state
from .spec import UnknownLayer, spec_from_json, spec_to_json
from .tensors import check_same, corrupt, named_leaves, read_tensors, write_tensors

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
    progress = state if isinstance(state, Progress) else Progress(state)
    check_state(progress.state)
    expected, found = (_shapes(params) for params in (_initial(network, in_shape), progress.state.params))
    if found != expected:
        raise InputError(
            f"state has the parameters {found} but must have {expected}, those of the network for in_shape {in_shape}"
        )
    described = {
        "network": spec_to_json(network),
        "in_shape": in_shape,
        "info": info or {},
        "history": progress.history,
        "versions": {name: version(name) for name in ("jaxcnn", "jax")},
    }
    metadata = {"format": VERSIONS[-1]} | {name: json.dumps(value) for name, value in described.items()}
    write_tensors(path, named_leaves(_as_dict(progress)), metadata)


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
        statistics = init_statistics(network, initial, in_shape)
    except UnknownLayer as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise corrupt(path, error) from None
    averaged = any(name.startswith("optimizer/average/") for name in arrays)
    root = "optimizer/average" if averaged else "params"
    held = {name: array for name, array in arrays.items() if f"{name}/".startswith(f"{root}/")}
    dtype = next((array.dtype for array in held.values() if jnp.issubdtype(array.dtype, jnp.floating)), np.float32)
    named = named_leaves(initial).items()
    expected = {f"{root}/{name}": jax.ShapeDtypeStruct(leaf.shape, dtype) for name, leaf in named}
    check_same(path, held, expected, "the network")
    params = jax.tree.unflatten(jax.tree.structure(initial), [held[name] for name in expected])
    wide = jnp.promote_types(dtype, jnp.float32)
    expected = {
        name: jax.ShapeDtypeStruct(leaf.shape, wide) for name, leaf in named_leaves({"statistics": statistics}).items()
    }
    held = {name: leaf for name, leaf in arrays.items() if name.startswith("statistics/")}
    check_same(path, held, expected, "the network")
    statistics = jax.tree.unflatten(jax.tree.structure(statistics), [held[name] for name in expected])
    return Checkpoint(network, in_shape, merged(params, statistics), info)


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
    expected = named_leaves(empty)
    arrays = {
        name: leaf for name, leaf in expected.items() if name.startswith("progress/")
    } | arrays  # format 1 has none
    of_any_steps = {
        name: jax.ShapeDtypeStruct(arrays["progress/losses"].shape[:1], expected[name].dtype)
        for name in ("progress/losses", "progress/correct")
    }
    check_same(path, arrays, expected | of_any_steps, "this network and optimizer")
    try:
        history = tuple(json.loads(metadata.get("history", "[]")))
        known = [{name for name, value in epoch.items() if is_number(value)} for epoch in history]
        measured = {frozenset(names & MEASURED) for names in known}
        if not all(names >= EPOCH for names in known) or measured not in (set(), {frozenset()}, {frozenset(MEASURED)}):
            raise ValueError("an epoch of its history lacks a number")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise corrupt(path, error) from None
    leaves = [arrays[name] if name.startswith("progress/") else jnp.asarray(arrays[name]) for name in expected]
    fields = jax.tree.unflatten(jax.tree.structure(empty), leaves)
    made = fields.pop("progress")
    state = TrainState(**{**fields, "key": jax.random.wrap_key_data(fields["key"])})
    return Progress(state, history, made["losses"], made["correct"], float(made["seconds"]))


def _initial(network, in_shape):
    return jax.eval_shape(lambda: network.init(jax.random.key(0), in_shape))


def _shapes(params):
    return {name: leaf.shape for name, leaf in named_leaves(params).items()}


def _as_dict(progress):
    state = progress.state
    made = {
        "losses": np.asarray(progress.losses, np.float64),
        "correct": np.asarray(progress.correct, np.int32),
        "seconds": np.asarray(progress.seconds, np.float64),
    }
    return {**vars(state), "key": jax.random.key_data(state.key), "progress": made}


def _read(path):
    arrays, metadata = read_tensors(path)
    _check_format(path, metadata.get("format"))
    return arrays, metadata


def _check_format(path, found):
    if found not in VERSIONS:
        newer = "; a newer jaxcnn reads it" if re.fullmatch(r"jaxcnn \d+", str(found)) else ""
        raise InputError(
            f"{path}: has the format {shown(found)} but must have {' or '.join(map(repr, VERSIONS))}{newer}"
        )
