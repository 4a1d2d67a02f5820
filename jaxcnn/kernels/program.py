"""What shapes the compiled program without changing a value: real fusion boundaries and compile options."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, partial_eval


def materialized(*arrays: Any) -> Any:
    """The arrays themselves, kept in memory once all of them are computed, on CPU; a no-operation elsewhere.

    XLA on CPU fuses what leads to an array into every consumer and computes it again there, whole layers inside a
    transpose; it removes `lax.optimization_barrier` before it does so. The boundary of a function that it may not
    inline stays; docs/speed.md has what it is worth.

    >>> print(materialized(jax.numpy.arange(3.0)))
    [0. 1. 2.]
    """
    kept = _materialized.bind(*arrays)
    return kept if len(arrays) > 1 else kept[0]


def _kept(*arrays):
    with set_xla_metadata(inlineable="false"):
        return jax.jit(lambda *arrays: arrays)(*arrays)


def _without_unused(used, equation):
    """An array that nobody asks for is not computed, though others of the same boundary are."""
    if not any(used):
        return used, None
    chosen = [[v for v, wanted in zip(vs, used, strict=True) if wanted] for vs in (equation.invars, equation.outvars)]
    return used, equation.replace(invars=chosen[0], outvars=chosen[1])


_materialized = Primitive("materialized")
_materialized.multiple_results = True
_materialized.def_impl(lambda *arrays: arrays)
_materialized.def_abstract_eval(lambda *arrays: arrays)
mlir.register_lowering(_materialized, lambda ctx, *arrays: arrays)
mlir.register_lowering(_materialized, mlir.lower_fun(_kept, multiple_results=True), platform="cpu")
ad.deflinear2(_materialized, lambda cotangents, *arrays: cotangents)
partial_eval.dce_rules[_materialized] = _without_unused
batching.primitive_batchers[_materialized] = lambda arrays, axes: (_materialized.bind(*arrays), axes)


def is_divided(ctx: Any) -> bool:
    """Whether XLA divides the program that is being lowered among devices; not what `shard_map` has divided already."""
    context = ctx.module_context.axis_context
    if hasattr(context, "manual_axes"):  # inside of `shard_map`, which may leave axes to XLA
        return any(size > 1 for axis, size in context.mesh.shape.items() if axis not in context.manual_axes)
    return getattr(context, "num_devices", 1) > 1


LABELS = ("NHWC", "HWIO", "NHWC")  # of every convolution: XLA on CPU runs others as a naive loop inside a scan
OPTIONS = {  # all that YNNPACK computes by default, but for convolutions
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}


def compiler_options() -> dict[str, str]:
    """Options for the outermost `jax.jit` of a training step: {} where they do not help or are not known.

    jaxlib 0.10 computes convolutions on CPU with YNNPACK by default, which makes the gradient of the kernel several
    times slower; this turns it off. Reductions stay with it: those of a batch norm take four times as long otherwise.

    >>> step = jax.jit(lambda x: x + 1, compiler_options=compiler_options())
    >>> print(step(1))
    2
    """
    return OPTIONS if _known_on_cpu(*OPTIONS.items()) else {}


def quick_jit(f: Callable, *, static_argnums: tuple[int, ...] = (), **options) -> Callable:
    """`jax.jit` for what runs once or twice: compiled much sooner, and slower to run.

    On CPU most of the time of compilation is that of LLVM and of XLA's newer emitters of fusions; to split a small
    program for several threads costs more still. `options` are further ones of XLA's, or replace these.

    >>> print(quick_jit(lambda x: x + 1, xla_disable_hlo_passes="algsimp")(1))
    2
    """
    quick: dict[str, Any] = {"xla_backend_optimization_level": 0}
    for option in (("xla_cpu_use_fusion_emitters", False), ("xla_cpu_parallel_codegen_split_count", 1)):
        if _known_on_cpu(option):
            quick |= dict([option])
    return jax.jit(f, static_argnums=static_argnums, compiler_options=quick | options)


@cache
def _known_on_cpu(*options: tuple[str, Any]) -> bool:
    """Tried once on a trivial function, since an unknown option is an error at the first call."""
    if jax.default_backend() != "cpu":
        return False
    try:
        with jax.ensure_compile_time_eval():  # the first call may be inside of a jit
            jax.jit(lambda x: x, compiler_options=dict(options))(0)
    except jax.errors.JaxRuntimeError:
        return False
    return True
