"""Arrays by name in one safetensors file, and the sentence where they are not those that were expected."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import files
from ..errors import InputError, reason
from ..files import AnyPath

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "BF16": jnp.dtype(jnp.bfloat16),
    "U32": np.uint32,
    "I32": np.int32,
    "I64": np.int64,
}


def read_tensors(path: AnyPath) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a file.

    Raises:
        InputError: it is missing or corrupt, or safetensors is not installed.
    """
    safetensors = _safetensors()
    try:
        content = Path(path).read_bytes()
        tensors = safetensors.deserialize(content)
        header = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + header]).get("__metadata__", {})
        arrays = {
            name: np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
            for name, tensor in tensors
        }
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); it must be a safetensors file") from None
    except (safetensors.SafetensorError, KeyError) as error:
        raise corrupt(path, error) from None
    return arrays, metadata


def write_tensors(path: AnyPath, arrays: Mapping[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write a file, whole or not at all.

    Raises:
        InputError: safetensors is not installed.
        OSError: the file cannot be written.
    """
    to_bytes = _safetensors().numpy.save
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in arrays.items()}
    files.write(path, to_bytes(arrays, metadata=metadata))


def corrupt(path: AnyPath, error: Exception) -> InputError:
    """The sentence for a file that holds what no file of ours does."""
    return InputError(f"{path}: is corrupt ({reason(error)}); it must be a safetensors file written by jaxcnn")


def check_same(path: AnyPath, found: Mapping[str, Any], expected: Mapping[str, Any], of: str) -> None:
    """Refuse arrays by the name of the first that is missing, has another shape or dtype, or is one too many."""
    facts = [{name: fact(leaf) for name, leaf in each.items()} for each in (found, expected)]
    for name in (*expected, *found):
        held, needed = (each.get(name, "no array") for each in facts)
        if held != needed:
            raise InputError(f"{path}: has {held} as {name} but must have {needed}, as {of} has")


def fact(leaf) -> str:
    """Dtype and shape in words."""
    return f"{np.dtype(leaf.dtype)} of shape {tuple(leaf.shape)}"


def named_leaves(tree) -> dict[str, Any]:
    """The leaves by their path, "conv1/weight"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError:
        raise InputError("model files need safetensors: pip install '.[cli]' in a checkout") from None
    return safetensors
