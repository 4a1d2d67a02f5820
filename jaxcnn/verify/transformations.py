"""Does the rule do the same under jit, vmap and scan, and can it be differentiated again?"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from ..kernels import quick_jit
from .context import Context, numpy_arrays, words
from .differences import Prober
from .oracles import largest_error
from .problem import Problem, is_floating
from .report import Check
from .tolerances import FINITE_DIFFERENCE, scales

SAMPLES = 3  # of vmap and scan


def check_transformations(context: Context, names: Sequence[str], dtype) -> Iterator[Check]:
    """A line for each of "jit", "vmap", "scan", "grad of grad": against the rule compiled and applied one by one."""
    wide = dtype == np.float64
    own = context.dtype if wide else dtype
    one_by_one = cache(lambda: _one_by_one(context, own))
    questions: dict[str, Callable] = {
        "jit": lambda: _jit(context, own),
        "vmap": lambda: _stacked(context, own, jax.vmap, *one_by_one()),
        "scan": lambda: _stacked(context, own, _in_scan, *one_by_one()),
        "grad of grad": lambda: _second(context, own),
    }
    for name in names:
        label = name if wide else f"{name} in {np.dtype(dtype)}"
        try:
            error, allowed, note = questions[name]()
        except Exception as error:
            yield context.check(label, error=math.inf, note=f"raises {words(error)}")
        else:
            yield context.check(label, "", error, allowed, note=note)


def _jit(context, dtype):
    values, dys = context.values(0, dtype), context.cotangents(0, dtype)
    before = [np.array(v) for v in values]
    eager = context.problem.pullback(context.problem.f)(values, dys)[1]
    error, allowed = largest_error(context.rule(values, dys)[2], eager), context.allowed(dtype)
    if any(v.is_deleted() or not np.array_equal(v, b, equal_nan=True) for v, b in zip(values, before, strict=True)):
        return math.inf, allowed, "the arguments were changed"
    return error, allowed, "= eager; the arguments are unchanged" if error <= allowed else "is not eager"


def _in_scan(f):
    return lambda *stack: jax.lax.scan(lambda count, one: (count + 1, f(*one)), 0, stack)[1]


def _stacked(context, dtype, transform, gradients, stack, expected):
    """`transform` of the gradient over samples that differ in every argument, keys too."""
    error, allowed = largest_error(quick_jit(transform(gradients))(*stack), expected), context.allowed(dtype)
    return error, allowed, "= a loop" if error <= allowed else "is not a loop over the samples"


def _one_by_one(context, dtype):
    """The gradient as a function of all leaves and dy, stacked samples of these, and the gradients one by one."""
    problem = context.problem
    leaves, tree = jax.tree.flatten(problem.args)

    def gradients(leaves, dys):
        same = Problem(problem.f, tree.unflatten(leaves), None, problem.names, problem.places)
        return same.pullback(same.f)([leaves[place] for place in same.places], dys)[1]

    samples = []
    for sample in range(SAMPLES):
        one = [_again(leaf, sample, dtype) for leaf in leaves]
        for place, value in zip(problem.places, context.values(sample, dtype), strict=True):
            one[place] = value
        samples.append((one, context.cotangents(sample, dtype)))
    single = quick_jit(gradients)
    return gradients, jax.tree.map(_stack, *samples), jax.tree.map(_stack, *(single(*sample) for sample in samples))


def _again(leaf, sample, dtype):
    """A leaf that is not differentiated, for one sample: a key differs, a floating one is cast."""
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.fold_in(leaf, sample) if leaf.ndim == 0 else leaf
    return jnp.asarray(leaf, dtype) if is_floating(leaf) else jnp.asarray(leaf)


def _stack(*parts):
    return jnp.stack(parts) if jnp.issubdtype(parts[0].dtype, jax.dtypes.extended) else np.stack(numpy_arrays(parts))


def _second(context, dtype):
    """The derivative of <gradient, w> by the rule's own rule, against differences of the gradient."""
    values, dys = context.values(0, dtype), context.cotangents(0, dtype)
    count, worst, crossed = len(values), (0.0, FINITE_DIFFERENCE), 0

    def gradient(point):
        return context.problem.pullback(context.problem.f)(list(point[:count]), list(point[count:]))[1]

    rng = np.random.default_rng((context.seed, 3))
    w = [np.asarray(rng.standard_normal(v.shape)).astype(v.dtype) for v in values]
    point = [*values, *dys]
    found = numpy_arrays(quick_jit(lambda point, w: jax.vjp(gradient, point)[1](w)[0])(point, w))
    lines = Prober(gradient).directions(point, w, context.seed)
    for part, second, largest in zip(lines, found, scales(found), strict=True):
        said, scale = part.of(second), np.linalg.norm(second.ravel()) or largest or 1.0
        gap, allowed = np.abs(said - part.derivative) / scale, 10 * FINITE_DIFFERENCE + 2 * part.error / scale
        crossed += part.kinks.sum()
        ratio = np.where(part.kinks, -1, np.where(np.isfinite(said), gap / allowed, np.inf))
        at = int(np.argmax(ratio))
        if ratio[at] > worst[0] / worst[1]:
            worst = (float(gap[at]), float(allowed[at]))
    if worst[0] > worst[1]:
        return *worst, "a second derivative is not that of differences of the gradient"
    return *worst, "= differences of the gradient" + (f"; {crossed} directions met a kink" if crossed else "")
