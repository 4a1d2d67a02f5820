"""How XLA is brought to compute the formulas of the layers fast; nothing here changes a value.

A reader of the layers never needs this file. Measured by `python -m benchmarks.steps`.
"""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from .geometry import Window

# XLA on CPU runs a convolution with other labels than these as a naive loop when it stands inside a scan
LABELS = ("NHWC", "HWIO", "NHWC")


def materialized(x: jax.Array) -> jax.Array:
    """x itself, computed once and kept in memory, on CPU; a no-operation elsewhere.

    XLA on CPU fuses what leads to x into every consumer and computes it again there, whole layers inside a transpose;
    it removes `lax.optimization_barrier` before it does so. The boundary of a function that it may not inline stays.
    On 2 cores the step of cnn28, batch 128, took 88 ms without these boundaries and 55 ms with them.

    >>> print(materialized(jnp.arange(3.0)))
    [0. 1. 2.]
    """
    return lax.platform_dependent(x, cpu=_kept, default=lambda x: x)


def _kept(x):
    with set_xla_metadata(inlineable="false"):
        return jax.jit(lambda x: x)(x)


OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


@cache
def compiler_options() -> dict[str, str]:
    """Options for the outermost `jax.jit` of a training step: {} where they do not help or are not known.

    jaxlib 0.10 fuses convolutions on CPU with YNNPACK by default, which makes the gradient of the kernel 2 to 6 times
    slower; this turns it off. Tried once on a trivial function, since an unknown option is an error at the first call.

    >>> step = jax.jit(lambda x: x + 1, compiler_options=compiler_options())
    >>> print(step(1))
    2
    """
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=OPTIONS)(0)
    except jax.errors.JaxRuntimeError:
        return {}
    return OPTIONS


def correlate(x: jax.Array, weight: jax.Array, window: Window, groups: int) -> jax.Array:
    """The correlation of a convolution's forward pass, without its bias.

    XLA on CPU lowers a convolution of few input channels to thin matrix products. With at most 3 channels it is
    computed as multiply-adds over the taps instead, vectorised over the batch: the step of lenet28, batch 128, took
    33 ms without and 21 ms with it. In bfloat16 each addition would be rounded, so there it stays a convolution.

    Args:
        x: (N, H, W, I).
        weight: (U, V, I / groups, O).
        window: resolved against x.
        groups: see `conv2d`.

    Returns:
        (N, P, Q, O).
    """

    def convolution(x, weight):
        return lax.conv_general_dilated(
            x,
            weight,
            window.stride,
            window.padding,
            rhs_dilation=window.dilation,
            feature_group_count=groups,
            dimension_numbers=LABELS,
        )

    few = groups == 1 and x.shape[3] <= 3 and math.prod(weight.shape[:3]) <= 75 and x.dtype.itemsize >= 4
    if not few:
        return convolution(x, weight)
    return lax.platform_dependent(x, weight, cpu=partial(_multiply_adds, window), default=convolution)


def _multiply_adds(window, x, weight):
    """y[:, :, o, :] = sum_{u,v,i} x~[i, ps + ud, qs + vd, :] weight[u,v,i,o], the batch last."""
    (p, q), (s, t), (d, e) = window.output, window.stride, window.dilation
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pad, 0) for pad in window.padding), (0, 0, 0)))
    maps = _kept(padded.transpose(3, 1, 2, 0))
    y = jnp.zeros((p, q, weight.shape[3], x.shape[0]), x.dtype)
    for u, v in window.taps:
        for i in range(x.shape[3]):
            rows, columns = slice(u * d, u * d + (p - 1) * s + 1, s), slice(v * e, v * e + (q - 1) * t + 1, t)
            y += maps[i, rows, columns, None, :] * weight[u, v, i, :, None]
    return _kept(_kept(y).transpose(3, 0, 1, 2))
