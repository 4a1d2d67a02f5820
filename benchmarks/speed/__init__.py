"""The hand-written rules timed beside automatic differentiation and other frameworks: `python -m benchmarks.speed`.

All variants of a computation take turns, and each has its answer compared with automatic differentiation of the plain
network in float64 before it is timed: a wrong answer has no time. Other frameworks have a process each, and whoever
hands the turn on waits until its threads are asleep. Read the ratios: the milliseconds of a shared machine drift.
`timing` measures, `children` are the processes, `lax_nets` is what a user of plain JAX writes, `nets`, `operations`
and `busy` are what is measured, `numerics` how exact it is, `gpu` all of it on a GPU, `peers` reaches the code in
`benchmarks/peers/`.
"""

from collections.abc import Callable, Iterable, Sequence

from . import busy, nets, numerics, operations, peers
from .gpu import check_device, measure_gpu
from .nets import NETS
from .operations import OPERATION_NAMES
from .peers import PEERS
from .report import Measurements, by_batch, markdown, measurements, slower_than_torch, text, wrong

__all__ = [
    "NETS",
    "OPERATION_NAMES",
    "PEERS",
    "Measurements",
    "by_batch",
    "check_device",
    "markdown",
    "measure_all",
    "measure_gpu",
    "slower_than_torch",
    "text",
    "wrong",
]


def measure_all(
    net_names: Iterable[str] = (),
    op: str | None = None,
    *,
    batches: Sequence[int] = (nets.BATCH,),
    peer_names: Iterable[str] = PEERS,
    growth: bool = False,
    exactness: bool = False,
    beside_others: bool = False,
    seconds: float = 2.0,
    report: Callable[[str], None] = lambda line: None,
) -> Measurements:
    """Measure networks and operations.

    Args:
        net_names: of `NETS`.
        op: one of `OPERATION_NAMES`, "all", or None.
        batches: sizes at which operations are measured.
        peer_names: of `PEERS`; those that are not installed are left out and named in "left_out".
        growth: measure how the time grows with channels and image size, too.
        exactness: measure the error of the gradients, too.
        beside_others: measure the step beside busy processes, too.
        seconds: for each group of variants that take turns; twenty times that for the step at batch 128, five times
            for a step beside busy processes.
        report: called with what is measured next.

    Returns:
        "device", "cores", "versions", "left_out" and "rows", a flat list of dicts of JSON values, each with its
        "table"; see `timing.measure` for their columns.

    Raises:
        InputError: a name is not known, or a batch size is below 1.
        Failed: the process of a peer ended.
    """
    net_names, peer_names = list(net_names), list(peer_names)
    for name in net_names:
        nets.find_net(name)
    cases = () if op is None else operations.choose_cases(op)
    operations.check_batches(batches)
    peers.check_names(peer_names)
    result = measurements()
    rows = result["rows"]
    with peers.started(peer_names) as (children, versions, left_out):
        result["versions"] |= versions
        result["left_out"] |= left_out
        for name, reason in left_out.items():
            report(f"{name} is left out: {reason}")
        for name in net_names:
            rows += nets.steps(name, children, seconds, report)
            if growth:
                rows += nets.growth(name, seconds, report)
            if exactness:
                rows += numerics.numerics(name, report)
            if beside_others:
                rows += busy.busy(name, children, 5 * seconds, report)
        if cases:
            rows += operations.operations(cases, batches, children, seconds, report)
    return result
