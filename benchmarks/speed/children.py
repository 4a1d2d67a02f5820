"""Processes of their own for the variants of a framework, so that its threads and its memory disturb no other.

Two OpenMP libraries in one process slow each other down, and the threads of one spin for some milliseconds after a
call. So each framework has a process to itself, and whoever hands the turn on waits until its own threads are asleep.
A child computes when asked, one call after the other, and is gone as soon as its parent is.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from .timing import Failed, Variant, settle

PATIENCE = 2.0  # seconds that a child has to end by itself


class Child:
    """A process for one framework; a context manager that ends it.

    Attributes:
        name: of what runs in it, for the sentence that says that it failed.

    >>> with Child("a child") as child:
    ...     child.call(divmod, 7, 2)
    (3, 1)
    >>> with Child("a child") as child:
    ...     child.call(divmod, 7, 0)
    Traceback (most recent call last):
    benchmarks.speed.timing.Failed: a child failed in its process: ZeroDivisionError: integer division or modulo by zero
    """

    def __init__(self, name: str):
        self.name = name
        spawning = multiprocessing.get_context("spawn")
        self._pipe, other = spawning.Pipe()
        self._process = spawning.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def call(self, f: Callable, *args) -> Any:
        """`f(*args)`, computed in the child with the precision of products that is set here.

        Raises:
            Failed: f raised, or the process ended.
        """
        precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
        try:
            self._pipe.send((f, args, precision))
            result, failure = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(PATIENCE)
            raise Failed(f"{self.name}: its process ended with exit code {self._process.exitcode}") from None
        if failure is not None:
            raise Failed(f"{self.name} failed in its process: {failure}")
        return result

    def variants(self, build: Callable[..., list[Variant]], *args) -> list[Variant]:
        """The variants of `build(*args)`, which live in the child, in place of those of the call before.

        There they are computed once, so that nothing is left to compile. The answer of one that raised is `Failed`;
        where `build` did, that of one with the child's name.
        """
        try:
            found = self.call(_hold, build, *args)
        except Failed as failed:
            found = [(self.name, 1, None, str(failed))]
        return [
            Variant(name, partial(self._turn, i), partial(_answer, answer, failure), steps)
            for i, (name, steps, answer, failure) in enumerate(found)
        ]

    def _turn(self, i):
        settle()
        return self.call(_turn, i)

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        self._pipe.close()
        if error is None:
            self._process.join(PATIENCE)
        self._process.kill()
        self._process.join()


def _answer(answer, failure):
    if failure is not None:
        raise Failed(failure)
    return answer


_held: list[Variant] = []  # in the child


def _serve(pipe):
    """The child: answers `(result, None)` or `(None, what was raised)` until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends this one
    os.dup2(2, 1)  # what a framework prints is none of the command's result
    with contextlib.suppress(EOFError, OSError):
        while True:
            f, args, precision = pipe.recv()
            with jax.default_matmul_precision(precision):
                pipe.send(_tried(f, *args))


def _hold(build, *args):
    """In the child: name, steps, answer, and the sentence if it failed, of each variant."""
    _held[:] = []
    _held[:] = build(*args)
    found = []
    for variant in _held:
        answer, failure = _tried(_computed, variant)
        sentence = None if failure is None else f"{variant.name} failed in its process: {failure}"
        found.append((variant.name, variant.steps, answer, sentence))
    settle()
    return found


def _computed(variant):
    answer = jax.device_get(variant.answer())
    variant.turn()
    return answer


def _turn(i):
    seconds = _held[i].turn()
    settle()
    return seconds


def _tried(f, *args):
    try:
        return f(*args), None
    except Exception as error:
        first, *_ = str(error).splitlines() or [""]
        return None, f"{type(error).__name__}: {first}"
