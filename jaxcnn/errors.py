"""The one exception for input that cannot be used, and the checks of array arguments that raise it."""

import re
from collections.abc import Mapping
from numbers import Number, Real
from typing import Any, TypeGuard, TypeVar

import jax
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
    if isinstance(array, list | tuple):
        raise InputError(f"{op}: {name} is of type {type(array).__name__} but must be an array of shape {shape}")
    if jnp.shape(array) != shape:
        raise InputError(f"{op}: {name} has shape {jnp.shape(array)} but must have shape {shape}")


def check_array(op: str, name: str, value: Any) -> None:
    """Refuse what JAX takes for no array, nor for a tree of arrays.

    >>> check_array("conv2d", "x", None)
    Traceback (most recent call last):
    jaxcnn.errors.InputError: conv2d: x is None but must be an array
    """
    if isinstance(value, jax.Array):
        return
    if value is None:
        raise InputError(f"{op}: {name} is None but must be an array")
    for leaf in jax.tree.leaves(value):
        if not isinstance(leaf, Number) and getattr(getattr(leaf, "dtype", None), "kind", "O") in "OUSMm":
            raise InputError(f"{op}: {name} is of type {type(leaf).__name__} but must be an array of numbers")


def check_key(op: str, key: Any) -> None:
    """Refuse what is not one key of `jax.random`, of the old kind or the new.

    >>> check_key("init_state", 0)
    Traceback (most recent call last):
    jaxcnn.errors.InputError: init_state: key is 0 but must be a key, such as jax.random.key(0)
    """
    shape, dtype = getattr(key, "shape", None), getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not ((typed and shape == ()) or (dtype == jnp.uint32 and shape in ((2,), (4,)))):
        value = shown(key) if dtype is None else f"of type {dtype} and shape {shape}"
        raise InputError(f"{op}: key is {value} but must be a key, such as jax.random.key(0)")


def check_count(op: str, name: str, value) -> None:
    """Refuse what is not an int of at least 1.

    >>> check_count("conv2d", "groups", 0)
    Traceback (most recent call last):
    jaxcnn.errors.InputError: conv2d: groups is 0 but must be an int of at least 1
    """
    if not is_int(value) or value < 1:
        raise InputError(f"{op}: {name} is {shown(value)} but must be an int of at least 1")


def shown(value: Any) -> str:
    """The repr of a value in a sentence: one line of at most 80 characters.

    >>> shown("conv"), len(shown(jnp.ones((9, 9))))
    ("'conv'", 80)
    """
    text = re.sub(r"\s*\n\s*", " ", repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def reason(error: Exception) -> str:
    """What another library's exception says, for a sentence: one line of at most 200 printable characters.

    >>> reason(KeyError("IHDR")), reason(ValueError("a\\nb\\x00"))
    ("KeyError 'IHDR'", 'a b\\\\x00')
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if not text or isinstance(error, KeyError):
        text = f"{type(error).__name__} {text}".rstrip()
    text = re.sub(r"<(\S+) object at \w+>", r"\1", " ".join(text.split()))
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:200])


def check_flag(op: str, name: str, value) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{op}: {name} is {value!r} but must be True or False")


def is_int(value: Any) -> TypeGuard[int]:
    """Whether a value is an int, of Python or of NumPy, and no bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a real number, of Python or of NumPy, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def find(what: str, name: str, known: Mapping[str, T]) -> T:
    """What is called `name` in a table.

    >>> find("reduction", "max", {"mean": 0, "sum": 1})
    Traceback (most recent call last):
    jaxcnn.errors.InputError: reduction is 'max' but must be one of mean, sum
    """
    if not isinstance(name, str) or name not in known:
        raise InputError(f"{what} is {shown(name)} but must be one of {', '.join(known)}")
    return known[name]
