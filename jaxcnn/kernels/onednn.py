"""Convolutions and products by oneDNN, the library that PyTorch uses on CPU: jaxlib carries it for Linux on x86.

XLA hands it the custom calls `__onednn$convolution` and `__onednn$matmul`, but makes none of a program by itself.
`instead_of` chooses, while a program is lowered, between a formulation with these calls and one without; derivatives
and batches are those of the one without.

The form of the calls is XLA's own affair and a wrong one ends the process, hence `JAXLIB`. XLA cannot write a compiled
program with such a call to a file, nor divide it among devices; where that may be asked for, nothing is called.
"""

import json
import platform
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxlib.version import __version__ as jaxlib_version

JAXLIB = ("0.10.0", "0.10.1", "0.10.2", "0.11.0", "0.11.1", "0.12.0", "0.12.0.1")  # tried with these


def takes(*arrays: Any, padding: tuple = ()) -> bool:
    """Whether oneDNN computes with these arrays: float32, not empty, with zeros around an image and none cropped.

    And if it may be called at all: a jaxlib of `JAXLIB`, Linux on an x86 with AVX2, one device, which is the CPU, no
    compilation cache on disk.

    >>> takes(np.ones((2, 3))), takes(np.ones((2, 3), np.float32), padding=((-1, 0), (0, 0)))
    (False, False)
    """
    return _fits(arrays, padding) and _callable()


def instead_of(otherwise: Callable, by_onednn: Callable, *arrays: jax.Array) -> jax.Array:
    """`by_onednn(*arrays)` on CPU, and `otherwise(*arrays)` elsewhere, where it may not be called, and for export.

    >>> print(instead_of(lambda x: x + 1, lambda x: 1 + x, np.float32(2)))
    3.0
    """
    return _either.bind(*arrays, otherwise=otherwise, by_onednn=by_onednn)


def convolution(x: jax.Array, weight: jax.Array, *, strides, padding, dilation, groups, labels) -> jax.Array:
    """The call that computes `lax.conv_general_dilated`, x not spread, of what oneDNN `takes`.

    The labels name dimensions in space D, H and W. x and y must have their channels last, or oneDNN computes with plain
    loops.
    """
    dimensions = lax.conv_dimension_numbers(x.shape, weight.shape, labels)
    y = jax.eval_shape(
        partial(
            lax.conv_general_dilated,
            window_strides=strides,
            padding=padding,
            rhs_dilation=dilation,
            feature_group_count=groups,
            dimension_numbers=dimensions,
        ),
        x,
        weight,
    )
    lhs, rhs, out = dimensions  # each a permutation: batch, feature, space; for the kernel out, in, space
    dims = x.ndim

    def image(spec):
        return {"dims": dims, "data": {"batch_dim": spec[0], "feature_dim": spec[1], "spatial_dims": spec[2:]}}

    kernel = {"output_feature_dim": rhs[0], "input_feature_dim": rhs[1], "spatial_dims": rhs[2:]}
    before, behind = zip(*padding, strict=True)
    window = {"pad_left": before, "pad_right": behind, "strides": strides, "window_dilations": dilation}
    config = {
        "dims": dims,
        "input": image(lhs),
        "kernel": {"dims": dims, "filter": kernel},
        "output": image(out),
        "window": window,
        "feature_groups": groups,
    }
    return _call("convolution", {"onednn_conv_config": config}, y, x, weight, padding=padding)


def product_of_transposed(a: jax.Array, b: jax.Array) -> jax.Array:
    """The call that computes a.T @ b, of what oneDNN `takes`."""
    y = jax.ShapeDtypeStruct((a.shape[1], b.shape[1]), a.dtype)
    return _call("matmul", {"onednn_matmul_config": {"transpose_a": True}}, y, a, b)


def _call(name, config, y, *arrays, padding=()):
    if not _fits((*arrays, y), padding):
        raise ValueError(f"onednn: {name} of {arrays} to {y}, padded by {padding}, must be of what it takes")
    return jax.ffi.ffi_call(f"__onednn${name}", y, custom_call_api_version=2, legacy_backend_config=json.dumps(config))(
        *arrays
    )


def _fits(arrays, padding):
    return all(array.dtype == np.float32 and 0 not in array.shape for array in arrays) and all(
        zeros >= 0 for pair in padding for zeros in pair
    )


def _callable():
    return (
        _carried()
        and jax.default_backend() == "cpu"
        and jax.device_count() == 1
        and jax.config.values["jax_compilation_cache_dir"] is None
    )


@cache
def _carried() -> bool:
    if jaxlib_version not in JAXLIB or (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return False
    try:
        return "avx2" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def _abstract(*arrays, otherwise, by_onednn):
    y = jax.eval_shape(otherwise, *arrays)
    return ShapedArray(y.shape, y.dtype)


def _lowered(ctx, *arrays, otherwise, by_onednn):
    return mlir.lower_fun(otherwise, multiple_results=False)(ctx, *arrays)


def _lowered_on_cpu(ctx, *arrays, otherwise, by_onednn):
    may = _callable() and not ctx.module_context.lowering_parameters.for_export
    return mlir.lower_fun(by_onednn if may else otherwise, multiple_results=False)(ctx, *arrays)


def _jvp(arrays, tangents, *, otherwise, by_onednn):
    return jax.jvp(otherwise, arrays, tuple(map(ad.instantiate_zeros, tangents)))


def _batched(arrays, axes, *, otherwise, by_onednn):
    return jax.vmap(otherwise, axes)(*arrays), 0


def _evaluated(*arrays, **formulations):
    with jax.disable_jit(False):  # a custom call exists in a compiled program alone
        return jax.jit(partial(_either.bind, **formulations))(*arrays)


_either = Primitive("onednn_or_otherwise")
_either.def_impl(_evaluated)
_either.def_abstract_eval(_abstract)
mlir.register_lowering(_either, _lowered)
mlir.register_lowering(_either, _lowered_on_cpu, platform="cpu")
ad.primitive_jvps[_either] = _jvp
batching.primitive_batchers[_either] = _batched
