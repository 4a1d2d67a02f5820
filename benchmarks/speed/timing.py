"""Variants of one computation, each checked and then timed: in turn, in one process, so that drift hits all alike."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

Row = dict[str, Any]
LEAST_ROUNDS = 7


@dataclass(frozen=True)
class Variant:
    """One way to compute the same.

    Attributes:
        name: as the tables show it.
        run: does the work once and waits for it.
        answer: what the work gives, arrays in one order for all variants.
        steps: how many steps one run makes.
    """

    name: str
    run: Callable[[], Any]
    answer: Callable[[], Sequence[Any]]
    steps: int = 1


def measure(variants: Sequence[Variant], truth: Sequence[Any], allowed: float, seconds: float) -> list[Row]:
    """Check every variant against the truth, then time those that are right; the first is the one that is compared.

    Args:
        variants: the first is ours.
        truth: the right answer.
        allowed: largest error, the L2 norm of the deviation over that of the truth.
        seconds: for all variants together; every variant is timed at least seven times.

    Returns:
        A row for each variant: "variant"; "error"; and, unless that is above what is allowed, "milliseconds" of a step
        (median), their "quartiles", "ratio" (median time of the first variant over that of this one),
        "ratio_quartiles" (of the ratios within each round) and "rounds".

    >>> right = Variant("ours", lambda: sum(range(1000)), lambda: [np.ones(3)])
    >>> wrong = Variant("theirs", lambda: None, lambda: [np.zeros(3)])
    >>> rows = measure([right, wrong], [np.ones(3)], 1e-4, seconds=0.01)
    >>> ["milliseconds" in row for row in rows], rows[0]["ratio"], rows[1]["error"]
    ([True, False], 1.0, 1.0)
    """
    errors = [distance(variant.answer(), truth) for variant in variants]
    rows: list[Row] = [
        {"variant": variant.name, "error": error if np.isfinite(error) else None}
        for variant, error in zip(variants, errors, strict=True)
    ]
    right = [i for i, error in enumerate(errors) if error <= allowed]
    times = _round_robin([variants[i].run for i in right], seconds)
    milliseconds = {i: 1e3 * taken / variants[i].steps for i, taken in zip(right, times, strict=True)}
    for i, taken in milliseconds.items():
        rows[i] |= {"milliseconds": float(np.median(taken)), "quartiles": _quartiles(taken), "rounds": len(taken)}
        if 0 in milliseconds:
            ours = milliseconds[0]
            rows[i] |= {
                "ratio": float(np.median(ours) / np.median(taken)),
                "ratio_quartiles": _quartiles(ours / taken),
            }
    return rows


def distance(values: Sequence[Any], truth: Sequence[Any]) -> float:
    """The L2 norm of the deviation of all arrays together over that of the truth; infinite where a shape differs.

    >>> distance([np.array([3.0, 4.5])], [np.array([3.0, 4.0])])
    0.1
    """
    values, truth = ([np.asarray(a, np.float64) for a in arrays] for arrays in (values, truth))
    if [a.shape for a in values] != [a.shape for a in truth]:
        return np.inf
    deviation = sum(float(((a - b) ** 2).sum()) for a, b in zip(values, truth, strict=True))
    if not np.isfinite(deviation):
        return np.inf
    scale = sum(float((b**2).sum()) for b in truth)
    return float(np.sqrt(deviation / (scale or 1)))


def compiled(f: Callable, options: Any, *args):
    """f compiled for these arguments, and the seconds that took."""
    started = time.perf_counter()
    program = jax.jit(f).lower(*args).compile(compiler_options=options)
    return program, time.perf_counter() - started


def waiting(program: Callable, *args) -> Callable[[], Any]:
    """The program on these arguments, as a function without any that waits for the result."""
    return lambda: jax.block_until_ready(program(*args))


def _round_robin(runs, seconds):
    """Seconds of every run in every round: (runs, rounds).

    Each runs once more before it is timed, as in a loop of its own: what ran before leaves the caches to itself and
    memory given back, which costs the next, whichever it is (docs/speed.md).
    """
    rounds, end = [], time.perf_counter() + seconds
    while len(rounds) < LEAST_ROUNDS or time.perf_counter() < end:
        rounds.append([(run(), _seconds(run))[1] for run in runs])
    return np.array(rounds).T


def _seconds(run):
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _quartiles(values) -> list[float]:
    return [float(q) for q in np.quantile(values, (0.25, 0.75))]
