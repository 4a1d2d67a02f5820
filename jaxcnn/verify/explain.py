"""What is wrong with a gradient, in words, where the pattern of its error is a known one."""

import itertools
import math
import re

import jax.numpy as jnp
import numpy as np

CLOSE = 1e-6
OF_CHANGE = {  # in a rule that is another on purpose nothing is wrong, and nothing must be
    r"[;:]? ?wrong in \d+ of \d+ entries": "",  # said apart
    "wrong only": "only",
    ": the sign is wrong": "",
    "the right values in wrong places": "the gradient's values in other places",
    "^must be zero": "not zero, as the gradient is",
    "not zero where it must be": "not zero where the gradient is",
    "zero where it must not be": "zero where the gradient is not",
    ", which it must not be": "",
    "; must be that": "; not that",
}


def explain(found, truth, x, dys, kinks=None, tolerance: float = 1e-8) -> str:
    """A sentence about the difference between a gradient and the truth, both arrays of x's shape; "" for none.

    Args:
        found, truth: the rule's gradient and the oracle's.
        x: the argument they belong to.
        dys: the cotangents of the outputs.
        kinks: a bool for each entry of x, whether it is a kink; None where that is not known.
        tolerance: an entry is wrong whose error is larger, relative to the truth's largest entry.

    >>> t = np.array([[1.0, 2.0, 4.0], [3.0, 5.0, 7.0]])
    >>> explain(2 * t, t, t, [])
    'scaled by 2'
    >>> explain(t[:, ::-1], t, t, [])
    'flipped along axis 1'
    """
    found, truth, x = (np.asarray(a, np.float64) for a in (found, truth, x))
    if found.shape != truth.shape:
        return f"the shape is {found.shape} but must be {truth.shape}"
    if not np.isfinite(found).all():
        bad = ~np.isfinite(found)
        extra = " where the oracle is finite" if np.isfinite(truth[bad]).any() else ", as the oracle is"
        return f"not finite in {bad.sum()} of {bad.size} entries{extra}"
    scale = np.abs(truth).max(initial=0)
    if not np.isfinite(scale):
        return "the oracle is not finite"
    wrong = np.abs(found - truth) > tolerance * (scale or 1)
    if not wrong.any():
        return ""
    if scale == 0:
        return "must be zero"
    if not found.any():
        return "zero: no gradient arrives"

    def same(candidate, other=found):
        other = np.asarray(other)
        return candidate.shape == other.shape and np.abs(candidate - other).max() <= max(CLOSE, tolerance / 10) * max(
            np.abs(other).max(), np.abs(candidate).max()
        )

    error = np.abs(found - truth).max()
    for name in ("bfloat16", "float16", "float32"):
        eps = float(jnp.finfo(name).eps)
        if error <= 4 * eps * scale and (found == found.astype(name).astype(np.float64)).all():
            return f"rounded to {name}: every entry has its digits alone"
    if error <= CLOSE * scale:  # too small to tell a pattern by
        return _where(found, truth, wrong, x, kinks)
    several = found.size > 1 and not np.allclose(found, found.flat[0])
    slope = (found * truth).sum() / (truth * truth).sum()
    if abs(slope - 1) > CLOSE and same(slope * truth) and (several or found.size == 1):
        return f"scaled by {_number(slope, found, dys)}"
    pattern = (_moved(found, truth, same) if several else "") or _summed(found, truth, dys, same)
    return pattern or _where(found, truth, wrong, x, kinks)


def of_change(note: str) -> str:
    """The same sentence about a rule that was changed on purpose.

    >>> of_change("wrong only where the input is negative; wrong in 3 of 7 entries")
    'only where the input is negative'
    """
    for judged, told in OF_CHANGE.items():
        note = re.sub(judged, told, note)
    return note


def _number(slope, found, dys):
    """The factor by its name: an integer, one over an integer, and the sizes that it may be."""
    if abs(slope + 1) < CLOSE:
        return "-1: the sign is wrong"
    sizes = [(size, f"axis {axis} of dy") for dy in dys for axis, size in enumerate(np.shape(dy))]
    sizes += [(size, f"axis {axis}") for axis, size in enumerate(found.shape)]
    for value, over in ((slope, ""), (1 / slope, "1/")):
        whole = round(value)
        if 1 < abs(whole) < 10**6 and abs(value - whole) < CLOSE * abs(value):
            names = [name for size, name in sizes if size == abs(whole)]
            pairs = [f"{a} times {b}" for (m, a), (n, b) in itertools.combinations(sizes, 2) if m * n == abs(whole)]
            likely = " or of ".join((names or pairs)[:2])
            return f"{over}{whole}" + (f", the size of {likely}" if likely and (over or abs(whole) > 2) else "")
    return f"{slope:.6g}"


def _moved(found, truth, same) -> str:
    """Flips, transpositions, shifts, permutations; "" for none."""
    axes = range(found.ndim)
    for count in (1, 2, 3):
        for chosen in itertools.combinations(axes, count):
            if math.prod(found.shape[a] > 1 for a in chosen) and same(np.flip(truth, chosen)):
                turned = " (rot180)" if count == 2 else ""
                return f"flipped along axis {chosen[0]}" if count == 1 else f"flipped along axes {chosen}{turned}"
    if found.ndim <= 4:
        for order in itertools.permutations(axes):
            if order != tuple(axes) and same(truth.transpose(order)):
                return f"transposed: axes in the order {order}"
            shuffled = truth.transpose(order).reshape(found.shape)
            if order != tuple(axes) and same(shuffled):
                return f"in the order of axes {order}, not of {tuple(axes)}: a reshape with its axes in another order"
    for axis in axes:
        for step in (1, -1):
            if found.shape[axis] > 2 and same(_inner(np.roll(truth, step, axis), axis), _inner(found, axis)):
                return f"shifted by {step} along axis {axis}"
    for both in itertools.combinations(axes, 2):
        if same(np.roll(truth, (1, 1), both)) or same(np.roll(truth, (-1, -1), both)):
            return f"shifted along axes {both}"
    return "the right values in wrong places" if same(np.sort(truth, axis=None), np.sort(found, axis=None)) else ""


def _inner(array, axis):
    return np.take(array, range(1, array.shape[axis] - 1), axis)


def _summed(found, truth, dys, same) -> str:
    """Sums over an axis that were left out or made too many; "" for none."""
    for axis in range(found.ndim):
        if found.shape[axis] > 1:
            if same(np.broadcast_to(found.sum(axis, keepdims=True), found.shape), truth):
                return f"not summed over axis {axis}"
            if same(np.broadcast_to(truth.sum(axis, keepdims=True), found.shape)):
                return f"summed over axis {axis}, which it must not be"
    for dy in map(np.asarray, dys):
        lead = dy.ndim - found.ndim
        if lead < 1 or dy.shape[lead:] != found.shape:
            continue
        for missing in (axes for n in range(1, lead + 1) for axes in itertools.combinations(range(lead), n)):
            partial = dy[tuple(0 if axis in missing else slice(None) for axis in range(lead))]
            if same(partial.sum(axis=tuple(range(lead - len(missing))))):
                several = f"axis {missing[0]}" if len(missing) == 1 else f"axes {missing}"
                return f"dy is not summed over its {several}: the first entry alone is taken"
    return ""


def _ratio_axis(found, truth, wrong):
    """The one axis along which found / truth changes, if there is one."""
    if (truth[wrong] == 0).any():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(np.abs(truth) > 1e-9 * np.abs(truth).max(), found / truth, np.nan)
    for axis in range(found.ndim):
        others = tuple(a for a in range(found.ndim) if a != axis)
        if found.shape[axis] > 1 and math.prod(found.shape[a] for a in others) > 1:
            low, high = np.fmin.reduce(ratio, axis=others), np.fmax.reduce(ratio, axis=others)
            if np.isfinite(low).all() and (high - low).max() <= CLOSE * np.abs(low).max():
                return axis
    return None


def _where(found, truth, wrong, x, kinks):
    """Which entries are wrong."""
    count = f"wrong in {wrong.sum()} of {wrong.size} entries"
    if kinks is not None and kinks.any() and not (wrong & ~kinks).any():
        return f"wrong only at kinks of the function, where the input ties or is zero: {count}"
    _, first, counts = np.unique(x, return_inverse=True, return_counts=True)
    tied = counts[first].reshape(x.shape) > 1
    if tied.any() and not (wrong & ~tied).any() and not tied.all():
        return f"wrong only where the input ties; {count}"
    for axis in range(wrong.ndim):
        size = wrong.shape[axis]
        at = np.flatnonzero(wrong.any(axis=tuple(a for a in range(wrong.ndim) if a != axis)))
        if size > 2 and len(at) == 1:
            border = ", at the border" if at[0] in (0, size - 1) else ""
            return f"wrong only where the index along axis {axis} is {at[0]}{border}; {count}"
        if size > 2 and set(at) == {0, size - 1}:
            return f"wrong only at the border, both ends of axis {axis}; {count}"
    border = np.zeros_like(wrong)
    for axis in (1, 2) if wrong.ndim == 4 else range(wrong.ndim):
        np.moveaxis(border, axis, 0)[[0, -1]] = True
    if not border.all() and not (wrong & ~border).any():
        return f"wrong only at the border; {count}"
    for words, where in (("negative", x < 0), ("positive", x > 0), ("zero", x == 0)):
        if where.any() and not where.all() and (wrong == where).all():
            return f"wrong only where the input is {words}; {count}"
    axis = _ratio_axis(found, truth, wrong)
    if axis is not None:
        return f"scaled by a factor that changes along axis {axis} alone"
    if (truth[wrong] == 0).all():
        return f"not zero where it must be; {count}"
    if (found[wrong] == 0).all():
        return f"zero where it must not be; {count}"
    return count
