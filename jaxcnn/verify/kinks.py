"""Where has f no derivative, and what does the rule give there?"""

from collections.abc import Iterator, Sequence

import numpy as np

from .context import Context
from .differences import Differences
from .oracles import Point, compare_differences, entry
from .report import Check
from .tolerances import EXACT, FINITE_DIFFERENCE, relative_error

SHOWN = 3  # kinks named in a line
SUSPECTS = 64  # entries probed because autodiff disagrees
ONE_SIDED = 1e-5  # allowed against a one-sided derivative, which is of order h^2

Probes = Sequence[list[Differences]]  # for each argument, the lines that were probed


def probe(context: Context, point: Point) -> Probes:
    """Differences along lines of each argument, and of entries where autodiff disagrees; every kink is marked."""
    probes = context.prober.probe(point.values, point.dys, context.seed)
    if "autodiff" in point.truths:
        _probe_suspects(context, point, probes)
    if context.expect == "right":  # one entry at a kink would hide where a changed rule differs
        _mark_hidden(context, point, probes)
    return probes


def _probe_suspects(context, point, probes):
    """Entries of a large argument where autodiff disagrees: they may be kinks, and they name the fault."""
    for i, found in enumerate(probes):
        if len(found) < 2:
            continue
        truth = np.asarray(point.truths["autodiff"][i])
        gap = np.abs(np.asarray(point.grads[i]) - truth).ravel()
        wrong = np.argsort(-gap)[:SUSPECTS]
        wrong = wrong[gap[wrong] > EXACT * (np.abs(truth).max() or 1)]
        if wrong.size:
            found.append(context.prober.entries(point.values, point.dys, i, wrong))


def _mark_hidden(context, point, probes):
    """Entries that disagree where f has a kink along other lines than the entries': all of several equal ones.

    The median of three equal entries does not move with any single one of them, but with all of them.
    """
    for i, part, _ in _of_entries(probes):
        gap = np.abs(part.of(np.asarray(point.grads[i])) - part.derivative)
        scale = np.abs(part.derivative).max(initial=0, where=np.isfinite(part.derivative)) or 1.0
        wrong = ~part.kinks & ~(gap <= FINITE_DIFFERENCE * scale + 2 * part.error)
        if wrong.any() and context.prober.directions(point.values, point.dys, context.seed)[i].kinks.all():
            part.kinks[wrong] = True


def _of_entries(probes) -> Iterator[tuple[int, Differences, np.ndarray]]:
    """(argument, lines, flat positions) where the lines are entries."""
    return ((i, part, part.entries) for i, found in enumerate(probes) for part in found if part.entries is not None)


def kink_masks(point: Point, probes: Probes) -> list[np.ndarray]:
    """For each argument a bool for each entry: a kink, as far as entries were probed."""
    found = [np.zeros(v.shape, bool) for v in point.values]
    for i, part, entries in _of_entries(probes):
        found[i].reshape(-1)[entries[part.kinks]] = True
    return found


def judge_kinks(context: Context, point: Point, probes: Probes) -> Iterator[Check]:
    """What the rule gives where the one-sided derivatives differ, against the convention that was stated."""
    convention = context.convention
    for i, part, entries in _of_entries(probes):
        if not part.kinks.any():
            continue
        at, name = np.flatnonzero(part.kinks), context.problem.names[i]
        said, left, right = part.of(np.asarray(point.grads[i]))[at], part.left[at], part.right[at]
        words = "kink at " + ", ".join(
            f"{entry(entries[k], point.values[i].shape)}: {l:.3g} from below, {r:.3g} from above, the rule has {s:.3g}"
            for k, l, r, s in list(zip(at, left, right, said, strict=True))[:SHOWN]
        )
        words += f" and {len(at) - SHOWN} more" if len(at) > SHOWN else ""
        if convention is None:
            yield context.check("kinks", name, reason=f"{words}; no convention was stated (kinks=...)")
            continue
        sides = {"left": left, "right": right, "mean": (left + right) / 2}
        if convention in sides:
            expected, allowed = sides[convention], ONE_SIDED
        else:
            expected, allowed = part.of(np.asarray(point.truths[convention][i]))[at], EXACT
        scale = max(np.abs(expected).max(), np.abs(np.concatenate([left, right])).max()) or 1.0
        error = relative_error(said, expected, scale)
        words += "" if error <= allowed else f"; must be that of {convention}"
        yield context.compared(context.check("kinks", name, error, allowed, note=words), said)


def resampled(context: Context, point: Point, draw: int) -> Iterator[Check]:
    """The differences again, at arguments moved away from the kinks."""
    away = context.problem.values(context.dtype, context.seed + 31 * (draw + 1), away=True)
    there = Point(away, point.dys, context.rule(away, point.dys)[2])
    probes = context.prober.probe(away, point.dys, context.seed)
    return compare_differences(context, there, probes, "resampled away from the kinks")
