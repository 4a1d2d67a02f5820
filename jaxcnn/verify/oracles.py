"""Are the values and the gradients right? Every oracle against the rule at one point; what holds of every gradient."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from .context import Context, numpy_arrays
from .differences import Differences
from .explain import explain
from .report import Check
from .tolerances import FINITE_DIFFERENCE, SLOPE, relative_error, scales


@dataclass(frozen=True, eq=False)
class Point:
    """The rule's gradients at some arguments and cotangents; f's value there, and what the oracles say."""

    values: Sequence
    dys: Sequence
    grads: Sequence
    value: Sequence = ()
    others: dict[str, Sequence] = field(default_factory=dict)  # what must be f's value, by its description
    truths: dict[str, Sequence] = field(default_factory=dict)  # gradients by oracle


def point_at(context: Context, draw: int, reference: Callable | None) -> Point:
    """The rule and all oracles but the differences at one draw."""
    values, dys = context.values(draw), context.cotangents(draw)
    value, outputs, grads, explicit = context.rule(values, dys)
    others, truths = {"f and its forward pass under the rule": outputs}, {}
    if context.truth is not None:
        others["f and plain"], truths["autodiff"] = context.truth(values, dys)
    if reference is not None:
        truths["reference"] = _of_reference(context.problem, reference, values, dys)
    return Point(values, dys, grads, value, others, truths | explicit)


def _of_reference(problem, reference, values, dys):
    args = problem.rebuild(values)
    tree = jax.tree.structure(jax.eval_shape(problem.f, *args))
    args = jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jax.dtypes.extended) else np.asarray(a), args)
    found = reference(*args, jax.tree.unflatten(tree, numpy_arrays(dys)))
    leaves = jax.tree.structure(args).flatten_up_to(found if isinstance(found, tuple) else (found,))
    return [leaves[place] for place in problem.places]


def compare_values(context: Context, point: Point) -> Iterator[Check]:
    """f by itself against its forward pass under the rule, and against plain."""
    for which, other in point.others.items():
        if [(v.shape, v.dtype) for v in point.value] != [(v.shape, v.dtype) for v in other]:
            yield context.check("value", which, math.inf, note="the outputs differ in number, shape or dtype")
            continue
        pairs = list(zip(point.value, other, strict=True))
        same = all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
        error = 0.0 if same else max(relative_error(a, b) for a, b in pairs)
        yield context.check("value", which, error, context.allowed())


def compare_gradients(context: Context, point: Point, kinks: Sequence[np.ndarray] | None) -> Iterator[Check]:
    """The rule against each oracle; where no convention was stated, kinks are kept out of that with autodiff."""
    for oracle, truths in point.truths.items():
        skip = kinks if oracle == "autodiff" and context.convention is None else None
        yield from compare(context, oracle, point, truths, kinks=kinks, skip=skip)


def compare(context: Context, oracle, point, truths, *, kinks=None, skip=None, allowed=None) -> Iterator[Check]:
    """A line for each argument: the worst entry, and what is wrong in words.

    Args:
        kinks, skip: bools for the entries of each argument: what is known to be a kink, what is not compared.
        allowed: an error for each argument; the tolerance unless given.
    """
    if len(truths) != len(point.grads) or any(t is None for t in truths):
        note = "the oracle has another number of gradients than the rule"
        yield context.check(oracle, error=math.inf, note=note)
        return
    allowed = allowed or [context.allowed()] * len(truths)
    for i, (name, scale) in enumerate(zip(context.problem.names, scales(truths), strict=True)):
        found, truth = np.asarray(point.grads[i], np.float64), np.asarray(truths[i], np.float64)
        if skip is not None and skip[i].any():
            found, truth = np.where(skip[i], 0, found), np.where(skip[i], 0, truth)
        if oracle != "explicit":
            context.arrays.setdefault((name, oracle), (found, truth, scale))
        error, note = relative_error(found, truth, scale), ""
        if error > allowed[i]:
            note = explain(found, truth, point.values[i], point.dys, None if kinks is None else kinks[i], allowed[i])
        line = context.check(oracle, name, error, allowed[i], note=note, **_worst_entry(found, truth))
        if found.shape == truth.shape:
            kept = slice(None) if skip is None else ~skip[i]
            line = context.compared(line, found, **_counted(found[kept], truth[kept], allowed[i] * (scale or 1)))
        yield line


def _counted(found, truth, allowed) -> dict:
    """Of entries that were compared: how many differ, and the cosine of the angle between both gradients."""
    with np.errstate(invalid="ignore", divide="ignore"):
        differing = ~(np.abs(found - truth) <= allowed)
        a, b = (g.ravel() / np.abs(g).max(initial=0) for g in (found, truth))
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return {"differing": int(differing.sum()), "entries": found.size, "cosine": float(cosine)}


def _worst_entry(found, truth) -> dict:
    if found.shape != truth.shape or not found.size:
        return {}
    with np.errstate(invalid="ignore"):
        gap = np.abs(found - truth)
    at = np.argmax(np.where(np.isfinite(gap), gap, np.inf))
    return {"index": entry(at, gap.shape), "value": float(found.flat[at]), "truth": float(truth.flat[at])}


def entry(at, shape) -> tuple[int, ...]:
    """The index of a flat position."""
    return tuple(int(i) for i in np.unravel_index(at, shape))


def compare_differences(
    context: Context, point: Point, probes: Sequence[Sequence[Differences]], extra: str = ""
) -> Iterator[Check]:
    """A line for each argument: the worst of the lines that were probed, kinks and what does not settle apart."""
    largest = scales([np.concatenate([part.derivative[~part.kinks] for part in found]) for found in probes])
    for i, (found, scale) in enumerate(zip(probes, largest, strict=True)):
        name, gradient, scale = context.problem.names[i], np.asarray(point.grads[i], np.float64), scale or 1.0
        unsettled, worst = _worst_line(context, found, gradient, scale)
        if unsettled:
            yield context.check("differences", name, reason=f"the differences do not settle along {unsettled} lines")
        if worst is None:
            if not unsettled and extra:  # before, the arguments are about to be resampled
                yield context.check("differences", name, reason="every line that was probed has a kink")
            continue
        part, at, gap, allowed, said = worst
        index, note = None, extra
        if part.entries is not None:
            index = entry(part.entries[at], gradient.shape)
        elif gap > allowed:
            note = f"along random directions, the worst entry is not located; {extra}".rstrip("; ")
        if gap > allowed and len(found) == 1:
            truth = np.where(part.kinks, gradient.ravel(), part.derivative).reshape(gradient.shape)
            context.arrays.setdefault((name, "differences"), (gradient, truth, scale))
            note = "; ".join(filter(None, [explain(gradient, truth, point.values[i], point.dys, None, 1e-6), extra]))
        truth = float(part.derivative[at])
        line = context.check("differences", name, gap, allowed, index=index, value=said, truth=truth, note=note)
        yield context.compared(line, gradient, **_counted_lines(context, found, gradient, scale))


def _counted_lines(context, found, gradient, scale) -> dict:
    """What `_counted` says of the entries without a kink, where every entry is a line."""
    if len(found) > 1:
        return {}
    said, _, allowed, settled = _gaps(context, found[0], gradient, scale)
    return _counted(said[settled], found[0].derivative[settled], allowed[settled] * scale)


def _gaps(context, part, gradient, scale):
    """Of each line: what the gradient says, its error, what is allowed, and whether that is known well enough."""
    base = FINITE_DIFFERENCE if context.dtype == np.float64 else context.allowed()
    said = part.of(gradient)
    with np.errstate(invalid="ignore"):
        gap, allowed = np.abs(said - part.derivative) / scale, base + 2 * part.error / scale
        return said, np.where(np.isfinite(gap), gap, np.inf), allowed, ~part.kinks & (allowed < SLOPE)


def _worst_line(context, found, gradient, scale):
    """How many lines did not settle; of the others the worst: its part and place, error, what is allowed and said."""
    unsettled, worst, largest = 0, None, -1.0
    for part in found:
        said, gap, allowed, settled = _gaps(context, part, gradient, scale)
        with np.errstate(invalid="ignore"):
            ratio = np.where(settled, gap / allowed, -1)
        unsettled += (~part.kinks & ~settled).sum()
        at = int(np.argmax(ratio))
        if ratio[at] > largest:
            largest, worst = ratio[at], (part, at, float(gap[at]), float(allowed[at]), float(said[at]))
    return unsettled, worst


def two_runs(context: Context, point: Point) -> Check:
    """The same bits again."""
    again = context.rule(point.values, point.dys)[2]
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(point.grads, again, strict=True))
    return context.check(
        "two runs", error=0.0 if same else math.inf, note="" if same else "the bits differ from run to run"
    )


def linear(context: Context, point: Point, draw: int) -> Iterator[Check]:
    """dy enters linearly, and dy = 0 gives exactly 0."""

    def gradients(dys):
        return numpy_arrays(context.rule(point.values, dys)[2])

    dys, other = numpy_arrays(point.dys), context.cotangents(draw + 500)
    mixed = gradients([2 * a - 3 * b for a, b in zip(dys, other, strict=True)])
    parts = [(2 * a, 3 * b) for a, b in zip(numpy_arrays(point.grads), gradients(other), strict=True)]
    # each part has rounding errors of its own size, however much of it cancels
    error = largest_error(mixed, [a - b for a, b in parts], scales([np.stack(part) for part in parts]))
    note = "not linear" if context.expect == "changed" and error > context.allowed() else ""
    yield context.compared(context.check("linear in dy", "", error, context.allowed(), note=note), mixed)
    zero = gradients([0 * dy for dy in dys])
    bad = [name for name, g in zip(context.problem.names, zero, strict=True) if (g != 0).any()]
    note = f"gives another gradient than 0 for {bad}" if bad else ""
    yield context.compared(context.check("dy = 0", "", math.inf if bad else 0.0, note=note), zero)


def largest_error(found, expected, sizes=None) -> float:
    """Of several arrays, each on its own scale."""
    sizes = sizes or scales(numpy_arrays(expected))
    return max(relative_error(f, e, s) for f, e, s in zip(found, expected, sizes, strict=True))
