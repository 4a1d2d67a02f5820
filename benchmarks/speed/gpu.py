"""All that is to be measured on one GPU, within nine minutes: `python -m benchmarks.speed --gpu`.

Compilation takes most of the time. So each group of parts has its share of what is left, does its parts in order, the
most telling first, and is broken off when the share is over: what is missing is named in "left_out". After every part
the result is handed over, so that nothing is lost if the whole is killed.
"""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import InputError
from jaxcnn.kernels import compiler_options
from jaxcnn.layers.pool import max_pool2d
from jaxcnn.verify import OPERATIONS, check_operations

from . import lax_nets
from .children import Child
from .nets import (
    BATCH,
    Task,
    autodiff_step,
    both_steps,
    find_net,
    of_all,
    our_step,
    peer_steps,
    scan_variant,
    step_in_float64,
    step_rows,
)
from .operations import Workload, case_rows, choose_cases, dispatch, product_row
from .peers import check_names, started
from .precision import precisions
from .report import Measurements, measurements
from .timing import Row

LIMIT = 540.0  # seconds
STEP_SECONDS, OPERATION_SECONDS = 2.0, 0.5  # for the variants of one computation together
LARGE = 512  # batch of single operations: at 128 a call takes longer to begin than to run
RUNS, SHAPE = 20, (128, 32, 32, 32)
PROCESSES = 8  # that verify
SETTINGS = ({}, {"xla_gpu_deterministic_ops": True})
Parts = Iterator[tuple[str, Iterator[Row]]]  # the name of each and its rows, computed as they are asked for


class Late(BaseException):
    """The time is over; no `except Exception` stops it."""


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """`Late` is raised inside the block once the seconds are over; in the main thread alone.

    >>> with alarm(0.01):
    ...     time.sleep(10)
    Traceback (most recent call last):
    benchmarks.speed.gpu.Late
    """

    def late(*_):
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), 5.0)  # again, if the first was lost in a destructor
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check_device(backend: str) -> None:
    """Whether JAX's backend of this name is a GPU.

    Raises:
        InputError: it is not.

    >>> check_device("cpu")
    Traceback (most recent call last):
    jaxcnn.errors.InputError: gpu is given but the device of JAX is a cpu; it must be a GPU
    """
    if backend != "gpu":
        raise InputError(f"gpu is given but the device of JAX is a {backend}; it must be a GPU")


def measure_gpu(
    net_names: Sequence[str],
    op: str | None,
    *,
    peer_names: Sequence[str],
    verified: Sequence[str] = tuple(OPERATIONS),
    limit: float = LIMIT,
    report: Callable[[str], None] = lambda line: None,
    save: Callable[[Measurements], None] = lambda result: None,
) -> Measurements:
    """The bits of the max-pool gradient, the steps, the verifier's checks, then single operations.

    Args:
        net_names: of `NETS`.
        op: one of `OPERATION_NAMES`, "all", or None: the operations to time at batch 512.
        peer_names: of `PEERS`: whom to compare with; those that are not installed are left out.
        verified: operations to verify.
        limit: seconds for everything; what compiles when they are over is waited for.
        report: called with what is done next.
        save: called with the result so far, after every part.

    Returns:
        See `measure_all`.

    Raises:
        InputError: a name is not known.
    """
    for name in net_names:
        find_net(name)
    cases = () if op is None else choose_cases(op)
    check_names(peer_names)
    result, end = measurements(), time.monotonic() + limit
    groups = [  # share of the time, whom it needs, its parts
        (1, (), lambda _: iter([("determinism", determinism())])),
        (11, peer_names, lambda peers: _steps(net_names, peers)),
        (3, (), lambda _: iter([("verify", verifications(verified))] if verified else [])),
        (6, [name for name in peer_names if name == "torch"], lambda peers: _operations(cases, peers)),
    ]
    while groups:
        share, names, parts_of = groups[0]
        with started(names) as (peers, versions, left_out):
            result["versions"] |= versions
            result["left_out"] |= left_out
            seconds = (end - time.monotonic()) * share / sum(share for share, *_ in groups)
            do(parts_of(peers), seconds, result, report, save)
        groups.pop(0)
    return result


def do(
    parts: Parts,
    seconds: float,
    result: Measurements,
    report: Callable[[str], None],
    save: Callable[[Measurements], None],
) -> None:
    """Add the rows of the parts to the result until the seconds are over; a part that fails is left out."""
    waiting = dict(parts)
    try:
        with alarm(seconds):
            for name in list(waiting):
                report(name)
                try:
                    for row in waiting[name]:
                        result["rows"].append(row)
                except Exception as error:
                    first, *_ = str(error).splitlines() or [""]
                    result["left_out"][name] = f"{type(error).__name__}: {first}"
                del waiting[name]
                save(result)
    except Late:
        result["left_out"] |= dict.fromkeys(waiting, "the time was over")
        save(result)


def determinism(
    shape: tuple[int, ...] = SHAPE, runs: int = RUNS, settings: Sequence[Mapping[str, Any]] = SETTINGS
) -> Iterator[Row]:
    """Rows "determinism": how many runs of max pooling's gradient equal the first bit by bit, 3x3 windows, stride 2.

    Args:
        shape: of x, (N, H, W, C).
        runs: how many.
        settings: compile options; where they are refused, "refused" says why.
    """
    geometry = {"window_size": 3, "stride": 2, "padding": 1}
    x, dy = (jax.random.normal(jax.random.key(i), shape) for i in range(2))
    dy = dy[:, ::2, ::2]
    for dtype in ("float32", "bfloat16"):
        x, dy = (jnp.round(4 * x).astype(dtype), dy.astype(dtype))  # many ties
        kept = jax.jit(lambda x: max_pool2d.forward(x, **geometry)[1])(x)
        variants = {
            "ours": (lambda kept, dy: max_pool2d.backward(kept, dy, **geometry)[0], kept),
            "jax.grad": (lambda x, dy: jax.vjp(partial(lax_nets.max_pool, **geometry), x)[1](dy)[0], x),
        }
        for options in settings:
            for variant, (f, arg) in variants.items():
                about = {"table": "determinism", "op": "max_pool2d", "variant": variant, "precision": dtype}
                about |= {"options": ", ".join(f"{name}={value}" for name, value in options.items()), "runs": runs}
                program = jax.jit(f, compiler_options=dict(options))
                try:
                    first, *others = (np.asarray(program(arg, dy)).tobytes() for _ in range(runs))
                except Exception as error:
                    yield about | {"refused": str(error).splitlines()[0]}
                else:
                    yield about | {"equal": 1 + others.count(first)}


def verifications(ops: Sequence[str]) -> Iterator[Row]:
    """The rows of `verification`, as they come, from several processes: they compile, and nothing is timed."""
    with multiprocessing.get_context("spawn").Pool(min(len(ops), PROCESSES)) as pool:
        yield from pool.imap_unordered(verification, ops)


def verification(op: str) -> Row:
    """The row "verify": what `jaxcnn verify --op` finds; "failures" are its sentences."""
    checks = [check for found in check_operations([op]) for check in found]
    failures = [str(check) for check in checks if not check.passed]
    return {"table": "verify", "op": op, "variant": "ours", "checks": len(checks), "failures": failures}


def _steps(names: Sequence[str], peers: dict[str, Child]) -> Parts:
    truths = {name: step_in_float64(find_net(name)[0]) for name in names}
    for precision in precisions():
        for name in names:
            yield f"step of {name}, {precision.name}", _step(name, precision, truths[name], peers)


def _step(name, precision, truth, peers):
    with precision.active():
        task = Task.draw(*find_net(name), BATCH, precision)
        ours, autodiff = both_steps(task)
        scanned = [
            scan_variant(f"{variant.name}, scanned", step, compiler_options(), task)
            for variant, step in ((ours, our_step), (autodiff, autodiff_step))
        ]
        variants = [ours, autodiff, *scanned, *of_all(peers, peer_steps, task)]
        yield from step_rows(name, task, variants, truth(task), STEP_SECONDS)


def _operations(cases: Sequence[Workload], peers: dict[str, Child]) -> Parts:
    if cases:
        yield "dispatch", dispatch(peers, OPERATION_SECONDS)
    for precision in precisions() if cases else ():
        product = cache(partial(product_row, precision, OPERATION_SECONDS))
        yield f"matrix product, {precision.name}", _product(precision, product)
        for case in cases:
            yield f"{case.op} {case}, {precision.name}", _operation(case, precision, product, peers)


def _product(precision, product):
    with precision.active():
        yield product()


def _operation(case, precision, product, peers):
    with precision.active():
        yield from case_rows(case, LARGE, precision, product(), peers, OPERATION_SECONDS)
