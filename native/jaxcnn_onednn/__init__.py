"""Convolutions by oneDNN as calls for XLA's programs on CPU; `jaxcnn` finds this package and uses it by itself."""

import ctypes
from pathlib import Path
from typing import Any

import jax

_LIBRARY = ctypes.CDLL(str(Path(__file__).with_name("libjaxcnn_onednn.so")))
_LIBRARY.jaxcnn_onednn_version.restype = ctypes.c_char_p

if not _LIBRARY.jaxcnn_avx2():
    raise ImportError("this processor has no AVX2, without which oneDNN is no faster than XLA")


def handlers() -> dict[str, Any]:
    """Name and handler of each call, for `jax.ffi.register_ffi_target`."""
    names = ("correlate", "input_gradient", "kernel_gradient", "kernel_gradient_and_squares")
    return {f"jaxcnn_{name}": jax.ffi.pycapsule(getattr(_LIBRARY, f"jaxcnn_{name}")) for name in names}


def bfloat16() -> bool:
    """Whether the calls take bfloat16: oneDNN does where the processor multiplies it."""
    return bool(_LIBRARY.jaxcnn_bfloat16())


def version() -> str:
    """oneDNN's."""
    return _LIBRARY.jaxcnn_onednn_version().decode()
