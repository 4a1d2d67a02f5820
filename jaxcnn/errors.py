"""The one exception for input that cannot be used, and the checks of array arguments that raise it."""

from collections.abc import Mapping
from typing import TypeVar

import jax.numpy as jnp
import numpy as np

__all__ = ["InputError"]

T = TypeVar("T")


class InputError(ValueError):
    """An argument, a file or a setting that cannot be used.

    The message is one sentence: the thing, its value, what it must be. The command line prints it and exits 2.

    >>> raise InputError("conv2d: stride is 0 but must be at least 1")
    Traceback (most recent call last):
    jaxcnn.errors.InputError: conv2d: stride is 0 but must be at least 1
    """


def check_floating(op: str, ndim: int | None = None, /, **arrays) -> None:
    """Refuse arrays that are not floating point, differ in dtype, or whose first has not `ndim` dimensions.

    Args:
        op: the operation's name, for the message.
        ndim: what the first array's number of dimensions must be; None allows any.
        **arrays: the arrays by the names of the arguments; None is skipped.

    Raises:
        InputError: naming the argument.

    >>> check_floating("dense", 2, x=jnp.ones((2, 3, 4)))
    Traceback (most recent call last):
    jaxcnn.errors.InputError: dense: x has shape (2, 3, 4) but must have 2 dimensions
    """
    present = {name: array for name, array in arrays.items() if array is not None}
    for name, array in present.items():
        if not hasattr(array, "dtype") or not jnp.issubdtype(array.dtype, jnp.floating):
            kind = getattr(array, "dtype", type(array).__name__)
            raise InputError(f"{op}: {name} is of type {kind} but must be a floating-point array")
    (first_name, first), *others = present.items()
    if ndim is not None and first.ndim != ndim:
        raise InputError(f"{op}: {first_name} has shape {first.shape} but must have {ndim} dimensions")
    for name, array in others:
        if array.dtype != first.dtype:
            raise InputError(
                f"{op}: {name} is {array.dtype} but {first_name} is {first.dtype}; they must have one dtype"
            )


def check_shape(op: str, name: str, array, shape: tuple[int, ...]) -> None:
    """Refuse an array whose shape is not `shape`.

    >>> check_shape("dense.backward", "dy", jnp.ones((2, 3)), (2, 4))
    Traceback (most recent call last):
    jaxcnn.errors.InputError: dense.backward: dy has shape (2, 3) but must have shape (2, 4)
    """
    if jnp.shape(array) != shape:
        raise InputError(f"{op}: {name} has shape {jnp.shape(array)} but must have shape {shape}")


def check_count(op: str, name: str, value) -> None:
    """Refuse what is not an int of at least 1.

    >>> check_count("conv2d", "groups", 0)
    Traceback (most recent call last):
    jaxcnn.errors.InputError: conv2d: groups is 0 but must be an int of at least 1
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise InputError(f"{op}: {name} is {value!r} but must be an int of at least 1")


def find(what: str, name: str, known: Mapping[str, T]) -> T:
    """What is called `name` in a table.

    >>> find("reduction", "max", {"mean": 0, "sum": 1})
    Traceback (most recent call last):
    jaxcnn.errors.InputError: reduction is 'max' but must be one of mean, sum
    """
    if name not in known:
        raise InputError(f"{what} is {name!r} but must be one of {', '.join(known)}")
    return known[name]
