"""oneDNN, the library that PyTorch uses on CPU, called on XLA's own threads where `pip install ./native` has built it.

The distribution `jaxcnn-onednn` has the handlers of four calls. Without it, or where it cannot run, `convolution` says
it in XLA's terms; `why_not` says why.
"""

import warnings
from functools import cache
from typing import Any

import jax
import numpy as np

from ..geometry import Window
from .program import is_divided

TYPES = (np.dtype(np.float32), np.dtype(jax.numpy.bfloat16))


def why_not() -> str | None:
    """Why nothing is called, one sentence; None if it is.

    >>> why_not() is None or isinstance(why_not(), str)
    True
    """
    return _native()[1]


def version() -> str | None:
    """Of the oneDNN that is called, and the types that it takes; None if nothing is called.

    >>> (version() is None) == (why_not() is not None)
    True
    """
    library, _ = _native()
    if library is None:
        return None
    return f"{library.version()}, {'float32 and bfloat16' if library.bfloat16() else 'float32'}"


def takes(ctx: Any, name: str, arrays: Any) -> bool:
    """Whether the call `name` of arrays of these shapes and dtypes, in a program being lowered on CPU, is oneDNN's.

    Not in a program for export, nor in one that XLA divides among devices; inside of `shard_map` over all axes it
    is.
    """
    library, _ = _native()
    return (
        library is not None
        and f"jaxcnn_{name}" in library.handlers()  # which may have been built before there was this one
        and not ctx.module_context.lowering_parameters.for_export
        and not is_divided(ctx)
        and all(a.dtype in TYPES[: 1 + library.bfloat16()] and a.dtype == arrays[0].dtype for a in arrays)
        and all(0 not in a.shape for a in arrays)
    )


def call(name: str, results: Any, *arrays: jax.Array, window: Window, groups: int, **_: bool) -> Any:
    """The call `name`, which is a primitive's of `correlations`, in a program that is compiled.

    All arrays may have one dimension more in front: as many convolutions of one shape. Whether there is a bias it sees
    by the number of arrays or results.
    """
    (top, bottom), (left, right) = window.padding
    facts = (*window.stride, top, bottom, left, right, *window.dilation, groups)
    return jax.ffi.ffi_call(f"jaxcnn_{name}", results)(*arrays, window=np.array(facts, np.int64))


@cache
def _native() -> tuple[Any, str | None]:
    """The module of the handlers, registered with XLA, and None; or None and why not, warned of once if that is odd."""
    try:
        import jaxcnn_onednn  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name == "jaxcnn_onednn":
            return None, "jaxcnn-onednn is not installed: pip install ./native in a checkout builds it"
        return _unusable(error)
    except Exception as error:
        return _unusable(error)
    try:
        jax.devices("cpu")  # else a handler that XLA refuses is found out only when it starts, and then it does not
        for name, handler in jaxcnn_onednn.handlers().items():
            jax.ffi.register_ffi_target(name, handler, platform="cpu")
    except Exception as error:
        return _unusable(error)
    return jaxcnn_onednn, None


def _unusable(error):
    reason = f"jaxcnn-onednn is installed but cannot run: {' '.join(str(error).split())}"
    warnings.warn(f"{reason}; convolutions are XLA's", RuntimeWarning, stacklevel=2)
    return None, reason
