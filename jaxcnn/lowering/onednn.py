"""Convolutions and products by oneDNN, the library that PyTorch uses on CPU: jaxlib carries it for Linux on x86.

XLA hands it the custom calls `__onednn$convolution` and `__onednn$matmul`, but makes none of a program by itself. Here
a primitive means `lax.conv_general_dilated`, another a.T @ b; each is lowered to the call of its name, and to what it
means where a program is exported. Derivatives and batching are those of what it means.

The form of the calls is XLA's own affair and a wrong one ends the process, hence `JAXLIB`. XLA cannot write a compiled
program with such a call to a file, nor divide it among devices; where that may be asked for, `takes` says no.
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

    And if it may be called at all: a jaxlib of `JAXLIB`, Linux on an x86 with AVX2, one CPU device, no compilation
    cache on disk.

    >>> takes(np.ones((2, 3))), takes(np.ones((2, 3), np.float32), padding=((-1, 0), (0, 0)))
    (False, False)
    """
    return (
        all(array.dtype == np.float32 and 0 not in array.shape for array in arrays)
        and all(zeros >= 0 for pair in padding for zeros in pair)
        and _callable()
    )


def convolution(x: jax.Array, weight: jax.Array, *, strides, padding, dilation, groups, labels) -> jax.Array:
    """`lax.conv_general_dilated`, x not spread, where oneDNN `takes` both.

    The labels name dimensions in space D, H and W. x and y must have their channels last, or oneDNN computes with plain
    loops.

    >>> x, weight = np.ones((1, 3, 1), np.float32), np.ones((2, 1, 1), np.float32)
    >>> labels = ("NWC", "WIO", "NWC")
    >>> y = convolution(x, weight, strides=(1,), padding=((0, 1),), dilation=(1,), groups=1, labels=labels)
    >>> print(y[0, :, 0])
    [2. 2. 1.]
    """
    return _convolution(
        x,
        weight,
        window_strides=strides,
        padding=padding,
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=lax.conv_dimension_numbers(x.shape, weight.shape, labels),
    )


def product_of_transposed(a: jax.Array, b: jax.Array) -> jax.Array:
    """a.T @ b, where oneDNN `takes` both.

    >>> print(product_of_transposed(np.ones((3, 1), np.float32), np.ones((3, 2), np.float32)))
    [[3. 3.]]
    """
    return _product_of_transposed(a, b)


@cache
def _carried() -> bool:
    return (
        jaxlib_version in JAXLIB
        and (platform.system(), platform.machine()) == ("Linux", "x86_64")
        and " avx2 " in Path("/proc/cpuinfo").read_text()
    )


def _callable():
    return _carried() and jax.config.values["jax_compilation_cache_dir"] is None and jax.local_device_count("cpu") == 1


def _primitive(target: str, meaning: Callable, config: Callable) -> Callable:
    """`meaning(*arrays, **params)`, on CPU the custom call `target` with `config(**params)`."""
    primitive = Primitive(target)
    as_meant = mlir.lower_fun(meaning, multiple_results=False)

    def lowered_on_cpu(ctx, *arrays, **params):
        if not _callable() or ctx.module_context.lowering_parameters.for_export:
            return as_meant(ctx, *arrays, **params)
        call = jax.ffi.ffi_lowering(target, api_version=2, backend_config=json.dumps(config(**params)))
        return call(ctx, *arrays)

    def abstract(*arrays, **params):
        y = jax.eval_shape(partial(meaning, **params), *arrays)
        return ShapedArray(y.shape, y.dtype)

    def jvp(primals, tangents, **params):
        return jax.jvp(partial(meaning, **params), primals, tuple(map(ad.instantiate_zeros, tangents)))

    primitive.def_impl(lambda *arrays, **params: jax.jit(partial(primitive.bind, **params))(*arrays))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, as_meant)
    mlir.register_lowering(primitive, lowered_on_cpu, platform="cpu")
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = lambda arrays, axes, **params: (
        jax.vmap(partial(meaning, **params), axes)(*arrays),
        0,
    )
    return primitive.bind


def _config(*, window_strides, padding, rhs_dilation, feature_group_count, dimension_numbers):
    lhs, rhs, out = dimension_numbers  # each a permutation: batch, feature, space; for the kernel out, in, space
    dims = len(lhs)

    def image(spec):
        return {"dims": dims, "data": {"batch_dim": spec[0], "feature_dim": spec[1], "spatial_dims": spec[2:]}}

    kernel = {"output_feature_dim": rhs[0], "input_feature_dim": rhs[1], "spatial_dims": rhs[2:]}
    before, behind = zip(*padding, strict=True)
    window = {
        "pad_left": before,
        "pad_right": behind,
        "strides": window_strides,
        "window_dilations": rhs_dilation,
    }
    config = {
        "dims": dims,
        "input": image(lhs),
        "kernel": {"dims": dims, "filter": kernel},
        "output": image(out),
        "window": window,
        "feature_groups": feature_group_count,
    }
    return {"onednn_conv_config": config}


_convolution = _primitive("__onednn$convolution", lax.conv_general_dilated, _config)
_product_of_transposed = _primitive(
    "__onednn$matmul", lambda a, b: a.T @ b, lambda: {"onednn_matmul_config": {"transpose_a": True}}
)
