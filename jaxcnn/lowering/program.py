"""What shapes the compiled program without changing a value: real fusion boundaries and compile options."""

from functools import cache

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata


def materialized(x: jax.Array) -> jax.Array:
    """x itself, computed once and kept in memory, on CPU; a no-operation elsewhere.

    XLA on CPU fuses what leads to x into every consumer and computes it again there, whole layers inside a transpose;
    it removes `lax.optimization_barrier` before it does so. The boundary of a function that it may not inline stays.
    On 2 cores the step of cnn28, batch 128, took 88 ms without these boundaries and 55 ms with them.

    >>> print(materialized(jax.numpy.arange(3.0)))
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
