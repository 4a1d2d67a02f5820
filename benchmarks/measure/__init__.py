"""What single samples' measures cost beside a plain step, and other libraries': `python -m benchmarks.measure`.

A step of SGD with a measure in the same compiled program takes turns with our plain step, with `vmap(grad)` of the
plain network in one `jax.jit`, and with the libraries that measure the same, each in a process. Every answer is
compared with float64 before it is timed. A run of everything is kept in benchmarks/results/measure.json.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks.speed import nets, peers
from benchmarks.speed.children import Child
from benchmarks.speed.precision import FLOAT32
from benchmarks.speed.report import Measurements, measurements
from benchmarks.speed.timing import Row, Variant, measure
from jaxcnn.errors import InputError
from jaxcnn.kernels import compiler_options

from .steps import (
    OURS,
    PARTS,
    PLAIN_JAX,
    checked_by,
    fill_variant,
    peer_variants,
    plain,
    step_program,
    step_variant,
    truth_of,
)

RESULT = Path(__file__).parents[1] / "results" / "measure.json"
NETS = ("lenet28", "cnn28", "vgg32", "resnet32")
MEASURES = ("samples", "norms", "clipped", "kfac")
PEERS = {  # what each has
    "jax_privacy": ("clipped",),
    "opacus": ("samples", "norms", "clipped"),
    "backpack": ("samples", "norms", "clipped", "kfac"),
}
BATCH = nets.BATCH
FUNCTIONS = {"samples": "sample_gradients", "norms": "gradient_norms", "clipped": "clipped_gradient", "kfac": "kfac"}
OTHERS = ("vmap(grad)", "jax_privacy", "Opacus", "Opacus, ghost", "BackPACK")


def check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Whether all are known.

    Raises:
        InputError: one is not.

    >>> check_names("measure", ["norm"], MEASURES)
    Traceback (most recent call last):
    jaxcnn.errors.InputError: measure is 'norm' but must be of samples, norms, clipped, kfac
    """
    for name in names:
        if name not in known:
            raise InputError(f"{what} is {name!r} but must be of {', '.join(known)}")


def measure_all(
    names: Iterable[str] = NETS,
    measures: Iterable[str] = MEASURES,
    peer_names: Iterable[str] = tuple(PEERS),
    *,
    seconds: float = 20.0,
    report: Callable[[str], None] = lambda line: None,
) -> Measurements:
    """The rows of each network and measure.

    Args:
        names: of `NETS`.
        measures: of `MEASURES`.
        peer_names: of `PEERS`; those that are not installed are named in "left_out".
        seconds: for the variants of one measure together; each is timed at least seven times.
        report: called with what is measured next.

    Returns:
        "device", "cores", "versions", "left_out" and "rows"; see `rows`.

    Raises:
        InputError: a name is not known.
    """
    names, measures, peer_names = list(names), list(measures), list(peer_names)
    check_names("net", names, NETS)
    check_names("measure", measures, MEASURES)
    check_names("peers", peer_names, PEERS)
    result = measurements()
    with peers.started(peer_names) as (children, versions, left_out):
        result["versions"] |= versions
        result["left_out"] |= left_out
        for peer, reason in left_out.items():
            report(f"{peer} is left out: {reason}")
        for name in names:
            result["rows"] += rows(name, measures, children, seconds, report)
    return result


def rows(
    name: str, measures: Iterable[str], children: dict[str, Child], seconds: float, report: Callable[[str], None]
) -> Iterator[Row]:
    """The rows of one network: those of `timing.measure`, of which the first variant is our plain step.

    With them "net", "measure", "load", of the machine in the minute before, and of programs in JAX "bytes", which the
    step needs besides its arguments.
    """
    report(f"{name}: the truth, in float64")
    network, in_shape = nets.find_net(name)
    with FLOAT32.active():
        task = nets.Task.draw(network, in_shape, BATCH, FLOAT32)
        truth, limit = truth_of(task)
        for of in measures:
            report(f"{name}: {of}")
            variants, needed = in_jax(of, task, limit)
            asked = [checked_by(v, PARTS["plain" if v.name == "plain step" else of], truth) for v in variants]
            if of == "samples":
                asked.append(checked_by(fill_variant(task), (), truth))
            for peer, child in children.items():
                if of in PEERS[peer]:
                    found = child.variants(peer_variants, peer, of, task, limit)
                    asked += [checked_by(variant, PARTS[of], truth) for variant in found]
            load = os.getloadavg()[0]
            allowed = task.allowed
            if of == "kfac":  # sums of up to N H W squares, whose roundings walk as the root of that
                allowed = max(allowed, nets.EPS * math.sqrt(task.x.size / task.x.shape[-1]))
            for row in measure(asked, truth, allowed, seconds):
                count = {"bytes": needed[row["variant"]]} if row["variant"] in needed else {}
                yield {"net": name, "measure": of, "load": load, **row, **count}


def in_jax(of: str, task: nets.Task, limit: float) -> tuple[list[Variant], dict[str, int]]:
    """Our plain step, ours with the measure, and by `vmap(grad)`; and the bytes that each needs."""
    ways = {
        "plain step": ("plain", plain, compiler_options()),
        "ours": (of, OURS[of], compiler_options()),
    }
    if of in PLAIN_JAX:  # not KFAC
        ways["vmap(grad)"] = of, PLAIN_JAX[of], None
    variants, needed = [], {}
    for name, (what, way, options) in ways.items():
        program = step_program(way, options, task, limit)
        memory = program.memory_analysis()
        needed[name] = memory.temp_size_in_bytes + memory.output_size_in_bytes
        variants.append(step_variant(name, what, program, task))
    return variants, needed


def table(given: Measurements | None = None) -> str:
    """The rows as Markdown; of the file unless they are given."""
    result: Measurements = given or json.loads(RESULT.read_text())
    head = ["network", "with", "ms", "/ plain step", "memory / its", *(f"{other} / ours" for other in OTHERS)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in result["rows"]:
        groups.setdefault((row["net"], row["measure"]), {})[row["variant"]] = row
    for (name, of), found in groups.items():
        cells = [name, f"`{FUNCTIONS[of]}`", *_ours(of, found), *(_times(found, other) for other in OTHERS)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_notes(result)])


def _ours(of, found):
    """Milliseconds, over the plain step with quartiles, memory over its."""
    plain, ours = found["plain step"], found["ours"]
    if not _timed(plain, ours):
        return "wrong", "-", "-"
    low, high = (1 / ratio for ratio in reversed(ours["ratio_quartiles"]))
    over = f"{1 / ours['ratio']:.2f} ({low:.2f}-{high:.2f})"
    memory = f"{ours['bytes'] / plain['bytes']:.2f}"
    if of == "samples":
        budget = 2 * plain["milliseconds"] + found["fill"]["milliseconds"]
        over += f"; {ours['milliseconds'] / budget:.2f} of two and the time to fill the memory"
    return f"{ours['milliseconds']:.2f}", over, memory


def _times(found, other):
    row = found.get(other, {})
    if not row:
        return ""
    if "failed" in row:
        return "fails"
    return f"{row['milliseconds'] / found['ours']['milliseconds']:.1f}" if _timed(row, found["ours"]) else "wrong"


def _timed(*rows):
    return all("milliseconds" in row for row in rows)


def _notes(result):
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    loads = [row["load"] for row in result["rows"]]
    failed = dict.fromkeys(f"{row['net']}: {row['failed']}." for row in result["rows"] if "failed" in row)
    left_out = [f"{name} is left out: {reason}." for name, reason in result["left_out"].items()]
    where = f"{result['device']}, {result['cores']} cores, float32, batch {BATCH}; {versions}"
    empty = "Where nothing stands the library has no such measure."
    return [f"{where}; load {min(loads):.1f} to {max(loads):.1f}.", empty, *failed, *left_out]
