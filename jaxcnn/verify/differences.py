r"""Finite differences with step control, and the kinks that they find.

Along a line a + t e, with phi(t) = <f(a + t e) - f(a), dy>, so that what does not move cancels without rounding:

(1)  D(h)   = (phi(h) - phi(-h)) / 2h
(2)  D      = (64 D(h) - 20 D(2h) + D(4h)) / 45                 Richardson twice: the error is of order h^6
(3)  error  = |D - (4 D(h) - D(2h)) / 3| + eps |f| |dy| / h     what the last extrapolation changed, and rounding
(4)  D+, D- = (4 phi(±h) - phi(±2h)) / ±2h                      one-sided, of order h^2; D+ - D- is of order h^3

Where D+ and D- differ, a kink lies within the step or f bends fast: the step is divided by 8 until they agree. If they
still differ at the smallest step, the kink is in a itself, and there is no derivative.

Every entry is a line while an argument is small; a large one is probed along random directions of unit norm, dense, so
that a fault in 1 % of the entries shows in every one of them, and at some entries.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..kernels import quick_jit

STEP = 2.0**-10
SHRINK = 8.0
LEVELS = 5
SETTLED = 1e-9  # of the largest derivative: an error that needs no smaller step
SAME_SIDED = 1e-6  # of the largest derivative: how far D+ and D- may lie apart without a kink
OFFSETS = np.array([-4, -2, -1, 1, 2, 4])
BATCH = 32  # lines in one call of the compiled function
ENTRIES = 256  # of one argument: with more, directions
DIRECTIONS = 8
SAMPLED = 64
MOST_ENTRIES = 2**31 // (2 * 8 * SAMPLED)  # entries of all arguments: their sampled lines, kept twice, fill 2 GiB


@dataclass(frozen=True)
class Differences:
    """The derivatives along some lines of one argument, each with its error and its one-sided neighbours."""

    entries: np.ndarray | None  # flat positions, or None for random directions
    directions: np.ndarray | None  # (lines, size)
    derivative: np.ndarray
    error: np.ndarray
    left: np.ndarray
    right: np.ndarray
    kinks: np.ndarray  # bool: no derivative here

    def of(self, gradient: np.ndarray) -> np.ndarray:
        """What a gradient says about these lines."""
        flat = np.asarray(gradient, np.float64).ravel()
        return flat[self.entries] if self.directions is None else self.directions @ flat


class Prober:
    """Differences of `value`, from lists of arrays to lists of arrays, at any point.

    Compiled once: an entry is the direction of its unit vector.
    """

    def __init__(self, value: Callable, center: Callable | None = None):
        self._value, self._center = value, center or quick_jit(value)
        # thousands of evaluations: in float64, a convolution that LLVM did not optimize takes 100 times as long
        self._phi = quick_jit(self._phis, xla_backend_optimization_level=1)

    def probe(self, values, dys, seed: int) -> list[list[Differences]]:
        """For each argument: every entry, or random directions and some entries."""
        rng = np.random.default_rng(seed)
        found = []
        for leaf, value in enumerate(values):
            if value.size <= ENTRIES:
                found.append([self.entries(values, dys, leaf, np.arange(value.size))])
            else:
                some = rng.choice(value.size, SAMPLED, replace=False)
                dense = self._along(values, dys, leaf, None, _directions(rng, value.size))
                found.append([dense, self.entries(values, dys, leaf, some)])
        return found

    def directions(self, values, dys, seed: int) -> list[Differences]:
        """For each argument: random directions alone."""
        rng = np.random.default_rng(seed)
        return [self._along(values, dys, i, None, _directions(rng, v.size)) for i, v in enumerate(values)]

    def entries(self, values, dys, leaf: int, entries: np.ndarray) -> Differences:
        """Along the entries at these flat positions of one argument."""
        return self._along(values, dys, leaf, entries, None)

    def _along(self, values, dys, leaf, entries, directions):
        sizes = np.abs(np.asarray(values[leaf], np.float64).ravel())
        before, after = (sum(v.size for v in part) for part in (values[:leaf], values[leaf + 1 :]))
        if directions is None:
            lines, sizes = np.zeros((len(entries), len(sizes))), sizes[entries]
            lines[np.arange(len(entries)), entries] = 1
        else:
            lines, sizes = directions, np.zeros(len(directions))
        lines = np.pad(lines, ((0, 0), (before, after)))
        eps = float(jnp.finfo(values[leaf].dtype).eps)
        h = (STEP if eps < 1e-10 else 32 * STEP) * 2.0 ** np.ceil(np.log2(np.maximum(1.0, sizes)))
        best = np.full((4, len(lines)), np.nan)  # derivative, its error, left, right
        best[1] = np.inf
        kinks, todo = np.zeros(len(lines), bool), np.arange(len(lines))
        for _ in range(LEVELS):
            step = h[todo]
            phi, size = self._evaluate(values, dys, lines[todo], step)
            with np.errstate(invalid="ignore", over="ignore"):
                d4, d2, d1 = ((phi[5 - i] - phi[i]) / (2 * (4, 2, 1)[i] * step) for i in range(3))  # (1)
                derivative = (64 * d1 - 20 * d2 + d4) / 45  # (2)
                error = np.abs(derivative - (4 * d1 - d2) / 3) + eps * size / step  # (3)
                left, right = -(4 * phi[2] - phi[1]) / (2 * step), (4 * phi[3] - phi[4]) / (2 * step)  # (4)
                scale = np.abs(np.append(best[0], derivative))
                scale = scale.max(initial=0, where=np.isfinite(scale)) or 1.0
                smooth = np.abs(right - left) <= SAME_SIDED * scale + 8 * eps * size / step  # False for NaN
                settled = smooth & (error <= SETTLED * scale + 8 * eps * size / step)
            found = np.stack([derivative, np.where(np.isfinite(error), error, np.inf), left, right])
            better = (found[1] < best[1, todo]) | ~smooth  # at a kink the smallest step knows the two sides
            best[:, todo[better]] = found[:, better]
            kinks[todo] = ~smooth
            todo = todo[~settled]
            if not todo.size:
                break
            h[todo] /= SHRINK
        derivative, error, left, right = best
        return Differences(entries, directions, derivative, error, left, right, kinks)

    def _evaluate(self, values, dys, lines, steps):
        """phi at every offset of every line, (6, lines), and eps' factor |f| |dy|."""
        batch = BATCH if lines.shape[1] <= 10**5 else DIRECTIONS
        center = [np.asarray(y) for y in self._center(values)]
        size = float(
            sum(np.abs(c).max(initial=0) * np.abs(dy).max(initial=0) for c, dy in zip(center, dys, strict=True))
        )
        phis = []
        for first in range(0, len(lines), batch):
            part, step = lines[first : first + batch], steps[first : first + batch]
            short = batch - len(part)  # one shape, so that one compilation serves all
            part = np.pad(part, ((0, short), (0, 0)))
            t = np.pad(step, (0, short), constant_values=1.0)[:, None] * OFFSETS
            phi = self._phi(values, center, dys, part, t)
            phis.append(np.asarray(phi, np.float64)[: batch - short].T)
        return np.concatenate(phis, axis=1), size

    def _phis(self, values, center, dys, lines, t):
        """phi at t along the lines, directions in the flat point."""
        shapes, ends = [v.shape for v in values], np.cumsum([v.size for v in values])
        point = jnp.concatenate([v.ravel() for v in values])

        def phi(line_and_step):
            line, step = line_and_step
            step = step.astype(point.dtype)
            parts = jnp.split(point + step * line.astype(point.dtype), ends[:-1])
            ys = self._value([part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)])
            return sum(((y - c) * dy).sum(dtype=float) for y, c, dy in zip(ys, center, dys, strict=True))

        # lax.map, not vmap: a convolution batched over its weight is a grouped one, which XLA on CPU runs slowly
        return lax.map(phi, (jnp.repeat(lines, t.shape[1], axis=0), t.reshape(-1))).reshape(t.shape)


def _directions(rng, size):
    """Random directions of unit norm; no more than the argument has entries."""
    directions = rng.standard_normal((min(DIRECTIONS, size), size))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)
