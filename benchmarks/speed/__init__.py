"""The hand-written rules timed beside automatic differentiation and other frameworks: `python -m benchmarks.speed`.

All variants of a computation take turns in one process, and each has its answer compared with automatic
differentiation of the plain network in float64 before it is timed: a wrong answer has no time. Read the ratios: the
milliseconds of a shared machine drift. `timing` measures, `lax_nets` is what a user of plain JAX writes, `nets`
and `operations` are what is measured, `numerics` how exact it is, `peers` reaches the code in `benchmarks/peers/`.
"""

import os
import platform
from collections.abc import Callable, Iterable
from importlib.metadata import version

import jax

from . import nets, numerics, operations, peers
from .nets import NETS
from .operations import OPERATION_NAMES
from .peers import PEERS
from .report import Measurements, markdown, slower_than_torch, text, wrong

__all__ = [
    "NETS",
    "OPERATION_NAMES",
    "PEERS",
    "Measurements",
    "markdown",
    "measure_all",
    "slower_than_torch",
    "text",
    "wrong",
]


def measure_all(
    net_names: Iterable[str] = (),
    op: str | None = None,
    *,
    peer_names: Iterable[str] = PEERS,
    growth: bool = False,
    exactness: bool = False,
    seconds: float = 2.0,
    report: Callable[[str], None] = lambda line: None,
) -> Measurements:
    """Measure networks and operations.

    Args:
        net_names: of `NETS`.
        op: one of `OPERATION_NAMES`, "all", or None.
        peer_names: of `PEERS`; those that are not installed are left out and named in "left_out".
        growth: measure how the time grows with channels and image size, too.
        exactness: measure the error of the gradients, too.
        seconds: for each group of variants that take turns; twenty times that for the step at batch 128.
        report: called with what is measured next.

    Returns:
        "device", "cores", "versions", "left_out" and "rows", a flat list of dicts of JSON values, each with its
        "table"; see `timing.measure` for their columns.

    Raises:
        InputError: a name is not known.
    """
    net_names = list(net_names)
    for name in net_names:
        nets.find_net(name)
    cases = () if op is None else operations.choose_cases(op)
    modules, left_out = peers.import_peers(list(peer_names))
    for name, reason in left_out.items():
        report(f"{name} is left out: {reason}")
    rows = []
    for name in net_names:
        rows += nets.steps(name, modules, seconds, report)
        if growth:
            rows += nets.growth(name, seconds, report)
        if exactness:
            rows += numerics.numerics(name, report)
    if cases:
        rows += operations.operations(cases, modules, seconds, report)
    versions = {"jax": jax.__version__, "jaxlib": version("jaxlib"), "python": platform.python_version()}
    for module in modules.values():
        versions |= module.VERSIONS
    device = {"device": jax.devices()[0].device_kind, "cores": len(os.sched_getaffinity(0))}
    return {**device, "versions": versions, "left_out": left_out, "rows": rows}
