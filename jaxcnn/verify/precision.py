"""Is the rule right in float32, float16 and bfloat16, within what rounding explains?"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ..kernels import quick_jit
from .context import Context, numpy_arrays, words
from .oracles import Point, compare
from .report import Check
from .tolerances import FAULT, NEGLIGIBLE, SLOPE, relative_error, scales

FIRST, MOST = 2, 1024  # draws of a fitted slope


@dataclass(frozen=True, eq=False)
class Low:
    """The rule in one dtype, `(values, dys) -> (outputs, gradients)`; `confirmed`: it was right in float64."""

    context: Context
    dtype: np.dtype
    confirmed: bool
    x64: bool
    rule: Callable

    def at(self, draw: int) -> Point:
        """The rule at a draw."""
        values, dys = self.context.values(draw, self.dtype), self.context.cotangents(draw, self.dtype)
        with jax.enable_x64(self.x64):
            outputs, grads = self.rule(values, dys)
        return Point(values, [dy.astype(y.dtype) for dy, y in zip(dys, outputs, strict=True)], grads)

    def widened(self, point: Point) -> tuple[list, list]:
        """Arguments and cotangents in the dtype of the truth."""
        values, dys = ([a.astype(self.context.dtype) for a in numpy_arrays(v)] for v in (point.values, point.dys))
        return values, dys

    def truth(self, values, dys):
        """The gradients by plain or by the rule itself."""
        # rounded arguments tie, and there plain may have another convention: then a confirmed rule is the truth
        if self.context.truth is not None and (self.context.convention == "autodiff" or not self.confirmed):
            return self.context.truth(values, dys)[1]
        return self.context.rule(values, dys)[2]


def check_precision(context: Context, dtype: np.dtype, confirmed: bool) -> Iterator[Check]:
    """The rule in `dtype` against the truth in float64 at the same rounded arguments.

    `confirmed`: the rule was right in float64. Then it is the truth itself where plain has no say.
    """
    if context.dtype != np.float64 and dtype == context.dtype:
        return  # every other check was in this dtype
    if context.truth is None and not confirmed:
        yield context.check(dtype.name, reason="the rule is wrong in float64 already, and there is no other truth")
        return
    # as most people run it; but what a key draws depends on the setting, and the truth draws with it on
    leaves = jax.tree.leaves(context.problem.args)
    keys = any(jnp.issubdtype(getattr(leaf, "dtype", int), jax.dtypes.prng_key) for leaf in leaves)
    low = Low(context, dtype, confirmed, keys, quick_jit(context.problem.pullback(context.problem.f)))
    try:
        point = low.at(0)
    except Exception as error:
        yield _refused(low, error)
        return
    for name, value, grad in zip(context.problem.names, point.values, point.grads, strict=True):
        if grad.dtype != value.dtype:
            note = f"the gradient is {grad.dtype} but must be {value.dtype}"
            yield context.check("structure", f"{name} in {dtype.name}", math.inf, note=note)
    wide = low.widened(point)
    truths = low.truth(*wide)
    moves = _conditions(low.truth, wide, truths, float(jnp.finfo(dtype).eps), context.seed)
    allowed = [context.allowed(dtype) + 2 * move for move in moves]
    yield from compare(context, dtype.name, point, truths, allowed=allowed)
    if max(allowed) > SLOPE and context.expect == "right":  # at a changed rule's threshold rounding may decide
        yield from _slopes(low, point, truths)


def _refused(low, error) -> Check:
    """Whose fault it is that the rule cannot be run in the dtype: f itself may not take it."""
    try:
        with jax.enable_x64(low.x64):
            jax.jit(low.context.problem.value)(low.context.values(0, low.dtype))
    except Exception:
        return low.context.check(low.dtype.name, reason=f"f does not take {low.dtype.name}: {words(error)}")
    note = f"f takes {low.dtype.name} but its rule does not: {words(error)}"
    return low.context.check(low.dtype.name, error=math.inf, note=note)


def _conditions(truth, point, truths, eps, seed):
    """How far the truth moves, on its own scale, when arguments and dy move by their rounding."""
    rng = np.random.default_rng((seed, 9))
    worst = np.zeros(len(truths))
    for _ in range(2):
        moved = [[a * (1 + eps * rng.uniform(-0.5, 0.5, a.shape)).astype(a.dtype) for a in part] for part in point]
        for i, (there, here, scale) in enumerate(zip(truth(*moved), truths, scales(truths), strict=True)):
            error = relative_error(there, here, scale)
            worst[i] = max(worst[i], error if math.isfinite(error) else 0.0)
    return worst


def _slopes(low, point, truths) -> Iterator[Check]:
    """An error of 1 % in every entry, smaller than the rounding of one, shows in the slope over many draws."""
    own = [np.abs(np.asarray(t)).max(initial=0) for t in truths]
    pairs: dict[int, list] = {i: [] for i in range(len(own)) if own[i] > NEGLIGIBLE * max(own)}
    for draws in range(1, MOST + 1):
        if draws > 1:
            point = low.at(draws - 1)
            truths = low.truth(*low.widened(point))
        for i in pairs:
            f, t = (np.asarray(a[i], np.float64).ravel() for a in (point.grads, truths))
            if t.any() and np.isfinite(f).all() and np.isfinite(t).all():
                pairs[i].append((f / np.abs(t).max(), t / np.abs(t).max()))
        if draws < FIRST or draws & (draws - 1):  # looked at after 2, 4, 8, ... draws
            continue
        for i in list(pairs):
            line = _judged_slope(low, i, pairs[i], draws)
            if line is not None:
                del pairs[i]
                yield line
        if not pairs:
            return


def _judged_slope(low, i, pairs, draws) -> Check | None:
    """None while it is neither right nor wrong and there are draws to come."""
    slope, error = _slope(pairs)
    gap, sure, name = abs(slope - 1), 4 * error, low.context.problem.names[i]
    words = f"{slope:.4f} ± {error:.4f} in {low.dtype.name} over {draws} draws"
    if gap - sure > SLOPE or gap + sure < FAULT:
        allowed = SLOPE if gap - sure > SLOPE else FAULT - sure
        return low.context.check("slope", name, gap, allowed, note=words)
    if draws < MOST:
        return None
    return low.context.check("slope", name, reason=f"{words}: rounding hides an error of 1 %")


def _slope(pairs):
    """The slope of (found, truth) pairs and its standard error; infinite from less than 16 entries."""
    if sum(t.size for _, t in pairs) < 16:
        return 1.0, math.inf
    total = sum((t * t).sum() for _, t in pairs)
    slope = sum((f * t).sum() for f, t in pairs) / total
    return float(slope), math.sqrt(sum((((f - slope * t) * t) ** 2).sum() for f, t in pairs)) / total
