"""A training step on a machine that others use too: quiet, and beside processes that compute without end."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

from jaxcnn.kernels import compiler_options

from .children import Child
from .nets import BATCH, Task, find_net, of_all, our_step, peer_steps, step_in_float64, step_variant
from .precision import precisions
from .timing import Answer, Row, Variant, measure

PROCESSES = 2
SPIN = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[list[subprocess.Popen]]:
    """So many processes that compute in Python; they end with the block, or with this process if that is killed.

    >>> with busy_processes(1) as (process,):
    ...     process.poll() is None
    True
    >>> process.poll() is None
    False
    """
    processes = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen([sys.executable, "-c", SPIN, str(os.getpid())]))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def busy(name: str, peers: dict[str, Child], seconds: float, report: Callable[[str], None]) -> Iterator[Row]:
    """Rows "busy" of a network at batch 128: our step and that of PyTorch's better format; see `beside`."""
    network, in_shape = find_net(name)
    precision = precisions()[0]
    torch = {peer: child for peer, child in peers.items() if peer == "torch"}
    report(f"{name}: beside {PROCESSES} busy processes")
    with precision.active():
        task = Task.draw(network, in_shape, BATCH, precision)
        variants = [step_variant("ours", our_step, compiler_options(), task), *of_all(torch, peer_steps, task)]
        truth = step_in_float64(network)(task)
        for row in beside(variants, truth, task.allowed, seconds):
            yield {"table": "busy", "net": name, "precision": precision.name, "batch": BATCH, **row}


def beside(variants: list[Variant], truth: Answer, allowed: float, seconds: float) -> Iterator[Row]:
    """The first variant and the fastest of the others, quiet and beside busy processes.

    Args:
        variants, truth, allowed, seconds: see `timing.measure`; the seconds are those of either half.

    Returns:
        Rows with "variant", "error", and where it is right "milliseconds" (median, quiet), "busy_milliseconds" and
        "busy_ratio", how much longer it takes.
    """
    quiet = measure(variants, truth, allowed, seconds)
    others = sorted(
        (i for i, row in enumerate(quiet) if i and "milliseconds" in row), key=lambda i: quiet[i]["milliseconds"]
    )
    chosen = [0, *others[:1]]
    with busy_processes(PROCESSES):
        loud = measure([variants[i] for i in chosen], truth, allowed, seconds)
    for before, after in zip((quiet[i] for i in chosen), loud, strict=True):
        row = {name: before[name] for name in ("variant", "error", "failed", "milliseconds") if name in before}
        if "milliseconds" in before and "milliseconds" in after:
            taken = after["milliseconds"]
            row |= {"busy_milliseconds": taken, "busy_ratio": taken / before["milliseconds"]}
        yield row
