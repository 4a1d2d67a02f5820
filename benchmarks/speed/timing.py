"""Variants of one computation, each checked and then timed: in turn, so that drift hits all alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

Row = dict[str, Any]
Answer = Sequence[Any] | Mapping[str, Sequence[Any]]
LEAST_ROUNDS = 7
NAP = 0.01  # seconds
WARM = 0.02  # seconds that a turn begins with
QUEUED = 20  # runs in a turn on a GPU


class Failed(Exception):
    """A variant, or the process that it has for itself, broke off: one sentence that names it."""


@dataclass(frozen=True)
class Variant:
    """One way to compute the same.

    Attributes:
        name: as the tables show it.
        turn: does the work, and gives the seconds that it takes; see `in_turn`.
        answer: what the work gives, arrays in one order for all variants, or a dict of such lists; raises `Failed`.
        steps: how many steps one run makes.
    """

    name: str
    turn: Callable[[], float]
    answer: Callable[[], Answer]
    steps: int = 1


def in_turn(run: Callable[[], Any], wait: Callable[[Any], Any] = jax.block_until_ready) -> Callable[[], float]:
    """The turn of a function that begins the work once; `wait` is given what it returns, and waits for its end.

    Before it is timed it runs once, and again for `WARM` seconds, as in a loop of its own: what ran before leaves the
    caches to itself and memory given back, and threads asleep, which costs the next (docs/speed.md). On a GPU several
    runs are begun before the last is waited for, as in a training loop: else the way there and back would be timed.

    >>> in_turn(lambda: sum(range(1000)))() > 0
    True
    """
    runs = QUEUED if jax.default_backend() == "gpu" else 1

    def turn():
        end = time.perf_counter() + WARM
        wait(run())
        while time.perf_counter() < end:
            wait(run())
        started = time.perf_counter()
        for _ in range(runs - 1):
            run()
        wait(run())
        return (time.perf_counter() - started) / runs

    return turn


def settle(most: float = 1.0) -> None:
    """Wait until the threads of this process are asleep: those of OpenMP spin for some milliseconds after a call.

    Args:
        most: seconds to wait at most.

    >>> settle()
    """
    end = time.perf_counter() + most
    while time.perf_counter() < end:
        before = time.process_time()  # of all threads
        time.sleep(NAP)
        if time.process_time() - before < NAP / 10:
            return


def measure(variants: Sequence[Variant], truth: Answer, allowed: float, seconds: float) -> list[Row]:
    """Check every variant against the truth, then time those that are right; the first is the one that is compared.

    Args:
        variants: the first is ours.
        truth: the right answer.
        allowed: largest error, the L2 norm of the deviation over that of the truth; see `distance`.
        seconds: for all variants together; every variant is timed at least seven times.

    Returns:
        A row for each variant: "variant"; "error"; and, unless that is above what is allowed, "milliseconds" of a step
        (median), their "quartiles", "ratio" (median time of the first variant over that of this one),
        "ratio_quartiles" (of the ratios within each round) and "rounds". One that failed has "failed", the sentence.

    >>> right = Variant("ours", lambda: 0.5, lambda: [np.ones(3)])
    >>> wrong = Variant("theirs", lambda: 0.5, lambda: [np.zeros(3)])
    >>> rows = measure([right, wrong], [np.ones(3)], 1e-4, seconds=0.01)
    >>> ["milliseconds" in row for row in rows], rows[0]["ratio"], rows[1]["error"]
    ([True, False], 1.0, 1.0)
    """
    rows = [_checked(variant, truth) for variant in variants]
    right = [i for i, row in enumerate(rows) if row["error"] is not None and row["error"] <= allowed]
    times = _round_robin([variants[i].turn for i in right], seconds)
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


def distance(values: Answer, truth: Answer) -> float:
    """The L2 norm of the deviation of all arrays together over that of the truth; infinite where a shape differs.

    Of a dict of arrays it is the largest of the distances, so that none hides behind another.

    >>> distance([np.array([3.0, 4.5])], [np.array([3.0, 4.0])])
    0.1
    >>> distance({"a": [np.array(100.0)], "b": [np.array(1.5)]}, {"a": [np.array(100.0)], "b": [np.array(1.0)]})
    0.5
    """
    if isinstance(values, Mapping) and isinstance(truth, Mapping):
        return max(distance(values[name], truth[name]) for name in truth)
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


def compiled_variant(name: str, f: Callable, options: Any, *args) -> Variant:
    """f compiled for these arguments, on them; the answer is what it returns."""
    program, _ = compiled(f, options, *args)
    return Variant(name, in_turn(partial(program, *args)), lambda: [program(*args)])


def _checked(variant, truth) -> Row:
    try:
        error = distance(variant.answer(), truth)
    except Failed as failed:
        return {"variant": variant.name, "error": None, "failed": str(failed)}
    return {"variant": variant.name, "error": error if np.isfinite(error) else None}


def _round_robin(turns, seconds):
    """Seconds of every variant in every round: (variants, rounds)."""
    rounds, end = [], time.perf_counter() + seconds
    while len(rounds) < LEAST_ROUNDS or time.perf_counter() < end:
        rounds.append([turn() for turn in turns])
    return np.array(rounds).T


def _quartiles(values) -> list[float]:
    return [float(q) for q in np.quantile(values, (0.25, 0.75))]
