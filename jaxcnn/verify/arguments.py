"""Somebody else's function and its arguments, as the command line names them."""

import importlib
import math
import re
import sys
from collections.abc import Callable

import jax
import numpy as np

from ..errors import InputError
from .differences import MOST_ENTRIES

SHORT_DTYPES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16",
    "i8": "int8", "i32": "int32", "i64": "int64", "u8": "uint8", "u32": "uint32", "bool": "bool",
}  # fmt: skip
ARGUMENT = re.compile(
    r"\s*((?P<dtype>[a-z]+\d*)\[(?P<shape>(\s*\d+\s*,)*(\s*\d+)?\s*)\](?P<more>\+|:[1-9]\d*)?|(?P<key>key))\s*(?:,\s*(?=\S)|$)"
)


def import_function(name: str, what: str = "function") -> Callable:
    """The function called "module:function"; a module in the current folder is found, too.

    Raises:
        InputError: the name has another form, or there is no such module or function.

    >>> import_function("math:sqrt")(4.0)
    2.0
    """
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise InputError(f"{what} is {name!r} but must be module:function, such as jax.nn:relu")
    sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise InputError(f"{what} is {name!r}, which cannot be imported: {type(error).__name__}: {error}") from None
    finally:
        sys.path.remove("")
    if not callable(found):
        raise InputError(f"{what} is {name!r}, which is {type(found).__name__} but must be a function")
    return found


def draw(text: str, seed: int = 0) -> list:
    """Random arguments: "f32[2,7], f32[3]+, i32[5]:4, key".

    Floating-point ones are N(0, 1), with + absolute values plus 0.1; integers are below the number after the colon,
    2 unless given; key is a key of `jax.random.key`.

    Raises:
        InputError: a part has another form, or there are more entries than can be checked.

    >>> [a.shape for a in draw("f32[2,3], f32[]+, i32[4]:10")]
    [(2, 3), (), (4,)]
    """
    rng, found, at, entries = np.random.default_rng(seed), [], 0, 0
    while at < len(text):
        part = ARGUMENT.match(text, at)
        dtype = part and (part["key"] or SHORT_DTYPES.get(part["dtype"]))
        more = (part and part["more"]) or ""
        if part is None or dtype is None or (more and (more == "+") != ("float" in dtype)):
            raise InputError(
                f"args is {text!r}, which cannot be read at {text[at:].strip()!r}; it must be a list such as "
                f'"f32[2,7,5,3], f32[4]+, i32[5]:10, key" of the types {", ".join(SHORT_DTYPES)}'
            )
        at = part.end()
        if dtype == "key":
            found.append(jax.random.key(int(rng.integers(2**31))))
            continue
        shape = tuple(int(size) for size in part["shape"].split(",") if size.strip())
        entries += math.prod(shape)
        if entries > MOST_ENTRIES:
            raise InputError(f"args is {text!r}, which has {entries:,} entries but must have at most {MOST_ENTRIES:,}")
        if "float" in dtype:
            values = rng.standard_normal(shape)
            found.append((np.abs(values) + 0.1 if more == "+" else values).astype(np.float64))
        else:
            below, most = int(more.removeprefix(":") or 2), 2 if dtype == "bool" else int(np.iinfo(dtype).max) + 1
            if below > most:
                raise InputError(f"args is {text!r}, where {dtype} is below {below} but must be below {most} at most")
            found.append(np.asarray(rng.integers(0, below, shape)).astype(dtype))
    if not found:
        raise InputError(f'args is {text!r} but must be a list of arguments such as "f32[2,7,5,3], f32[4]"')
    return found
