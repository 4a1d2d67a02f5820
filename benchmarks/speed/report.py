"""The rows of a result as tables: as text for the terminal, the steps as Markdown for the README."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from typing import Any

import jax

from jaxcnn.tables import aligned

from .timing import Row

MARK, SHORT_MARK = 1.15, 1.5  # an operation that takes longer than this many times PyTorch's time is marked; below 1 ms
Measurements = dict[str, Any]


def measurements() -> Measurements:
    """A result without rows: "device", "cores", "versions", "left_out", "rows".

    >>> list(measurements()["versions"])
    ['jax', 'jaxlib', 'python']
    """
    versions = {"jax": jax.__version__, "jaxlib": version("jaxlib"), "python": platform.python_version()}
    device = {"device": jax.devices()[0].device_kind, "cores": len(os.sched_getaffinity(0))}
    return {**device, "versions": versions, "left_out": {}, "rows": []}


def text(result: Measurements) -> str:
    """Every table of the result.

    >>> row = {"table": "residuals", "net": "lenet28", "batch": 128, "variant": "ours", "bytes": 10}
    >>> print(text({"device": "cpu", "cores": 2, "versions": {"jax": "0.10.2"}, "left_out": {}, "rows": [row]}))
    cpu, 2 cores; jax 0.10.2
    <BLANKLINE>
    bytes kept from forward to backward
    net      batch  variant  bytes  ours / it
    -----------------------------------------
    lenet28    128  ours        10       1.00
    """
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = [f"{result['device']}, {result['cores']} cores; {versions}"]
    for table, (title, render) in _TABLES.items():
        rows = [row for row in result["rows"] if row["table"] == table]
        if rows:
            batches = ", ".join(dict.fromkeys(str(row.get("batch", 128)) for row in rows))
            parts.append(f"{title.format(batches=batches)}\n{_aligned(*render(rows))}")
    if ratios := by_batch(result["rows"]):
        parts.append(f"operations, ours / torch\n{ratios}")
    marked = [pair for pair in _pairs(result["rows"]) if pair.marked]
    said = [f"more than {pair.limit} times PyTorch: {pair.name}, {pair.ratio:.1f}" for pair in marked]
    failed = [row["failed"] for row in result["rows"] if "failed" in row]
    left_out = [f"left out: {name}: {reason}" for name, reason in result["left_out"].items()]
    return "\n\n".join([*parts, *("\n".join(lines) for lines in (said, [*dict.fromkeys(failed)], left_out) if lines)])


def markdown(result: Measurements) -> str:
    """Ours over each variant, for the step at batch 128: ratio of medians, quartiles of the rounds' ratios below it."""
    rows = [row for row in result["rows"] if row["table"] == "step" and row["batch"] == 128]
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    variants = [name for name in dict.fromkeys(row["variant"] for row in rows) if name != "ours"]
    lines = ["| ours / | " + " | ".join(variants) + " | ours, ms |", "|---" * (len(variants) + 2) + "|"]
    for (net, precision), group in _grouped(rows, "net", "precision").items():
        found = {row["variant"]: row for row in group}
        cells = [_ratio(found.get(variant, {})) for variant in variants]
        name = net if len(precisions) == 1 else f"{net}, {precision}"
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {_milliseconds(found['ours'])} |")
    return "\n".join(lines)


def wrong(rows: Sequence[Row]) -> list[str]:
    """Ours where it was wrong: a gradient too far from float64, one that differs from run to run, a failed check."""
    found = []
    for row in rows:
        if row.get("variant") != "ours":
            continue
        about = (
            f"{row.get('net') or ' '.join([row.get('op', ''), row.get('case', '')]).strip()}, {row['table']}".lstrip(
                ", "
            )
        )
        if row["table"] == "verify":
            found += [f"{about}: {failure}" for failure in row["failures"]]
        elif row["table"] == "determinism":
            if row.get("equal") != row["runs"]:
                found.append(f"{about}: {row.get('refused', 'the runs differ')}")
        elif not row.get("passed", "milliseconds" in row or "error" not in row):
            found.append(f"{about}: {row.get('failed', 'error ' + str(row['error']))}")
    return found


def slower_than_torch(rows: Sequence[Row]) -> dict[str, float]:
    """Our time over that of PyTorch's better format for the operations that are marked.

    Those above 1.15 are, and where both take less than a millisecond those above 1.5.
    """
    return {pair.name: pair.ratio for pair in _pairs(rows) if pair.marked}


@dataclass(frozen=True)
class _Pair:
    """Our time of one operation beside PyTorch's."""

    row: Row
    ours: float
    torch: float

    @property
    def name(self):
        row = self.row
        more = [f"batch {row['batch']}", row["precision"]] if "batch" in row else []
        return ", ".join([row["op"], row["case"], row["direction"], *more])

    @property
    def ratio(self):
        return self.ours / self.torch

    @property
    def limit(self):
        return SHORT_MARK if max(self.ours, self.torch) < 1 else MARK

    @property
    def marked(self):
        return self.ratio > self.limit


def _pairs(rows) -> list[_Pair]:
    """Of the operations that both have a right answer of."""
    groups = _alike([row for row in rows if row["table"] == "operation"])
    return [pair for pair in map(_pair, groups) if pair is not None]


def _pair(group) -> _Pair | None:
    ours, torch = _best(group, "ours"), _best(group, "torch")
    return None if ours is None or torch is None else _Pair(group[0], ours, torch)


def _alike(rows) -> list[list[Row]]:
    """The rows of one operation each."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in _OPERATION), []).append(row)
    return list(groups.values())


_OPERATION = ("op", "case", "batch", "direction", "precision")
_TEXTS = ("op", "case", "direction", "precision", "net", "variant", "change", "options", "call", "outcome")


def _timings(rows):
    about = [name for name in ("net", "precision", "batch", "change") if name in rows[0]]
    head = [*about, "variant", "ms", "quartiles", "ours / it", "quartiles", "error"]
    return head, [
        [
            *(str(row[name]) for name in about),
            row["variant"],
            _milliseconds(row),
            _spread(row.get("quartiles")),
            f"{row['ratio']:.2f}" if "ratio" in row else "",
            _spread(row.get("ratio_quartiles")),
            _error(row),
        ]
        for row in rows
    ]


def _growth(rows):
    head = ["net", "batch", "change", "multiply-adds", "ours", "jax.grad"]
    base = {(row["net"], row["variant"]): row for row in rows if row["change"] == "as it is"}
    lines = []
    for (net, batch, change), group in _grouped(rows, "net", "batch", "change").items():
        if change != "as it is":
            before = base[net, "ours"]
            times = [_times(base[net, row["variant"]], row) for row in group]
            work = group[0]["multiply_adds"] / before["multiply_adds"]
            lines.append([net, str(batch), change, f"x {work:.1f}", *times])
    return head, lines


def _operations(rows):
    about = [name for name in _OPERATION if name in rows[0]]
    head = [*about, "ours", "jax.grad", "torch", "product", "ours / torch", ""]
    lines = []
    for group in _alike(rows):
        pair, product = _pair(group), group[0].get("product_milliseconds")
        times = [*(_best(group, name) for name in ("ours", "jax.grad", "torch")), product, pair and pair.ratio]
        mark = "<-" if pair and pair.marked else ""
        lines.append([*(str(group[0][name]) for name in about), *map(_short, times), mark])
    return head, lines


def by_batch(rows: Sequence[Row]) -> str:
    """How far single operations are from PyTorch's at each batch size, a table; "" where none is told.

    >>> by_batch([])
    ''
    """
    groups: dict[tuple, list[_Pair]] = {}
    for pair in _pairs(rows):
        if "batch" in pair.row:
            groups.setdefault((pair.row["batch"], pair.row["precision"]), []).append(pair)
    lines = []
    for (batch, precision), pairs in groups.items():
        middle, above = median(pair.ratio for pair in pairs), sum(pair.marked for pair in pairs)
        lines.append([str(batch), precision, str(len(pairs)), f"{middle:.2f}", str(above)])
    return _aligned(["batch", "precision", "operations", "median", "above"], lines) if lines else ""


def _dispatch(rows):
    lines = [
        [row["call"], row["variant"], f"{1e3 * row['milliseconds']:.1f}" if "milliseconds" in row else "wrong"]
        for row in rows
    ]
    return ["call", "variant", "microseconds"], lines


def _busy(rows):
    head = ["net", "precision", "batch", "variant", "quiet", "busy", "busy / quiet"]
    return head, [
        [row["net"], row["precision"], str(row["batch"]), row["variant"], _milliseconds(row)]
        + [_short(row.get(name)) for name in ("busy_milliseconds", "busy_ratio")]
        for row in rows
    ]


def _determinism(rows):
    def outcome(row):
        return f"refused: {row['refused']}" if "refused" in row else f"{row['equal']} of {row['runs']} equal"

    head = ["op", "precision", "variant", "options"]
    return [*head, "outcome"], [[*(row[name] for name in head), outcome(row)] for row in rows]


def _verify(rows):
    return ["op", "checks", "failed"], [[row["op"], str(row["checks"]), str(len(row["failures"]))] for row in rows]


def _against_ours(column: str, show: Callable[[Any], str]):
    def render(rows):
        about = [name for name in ("net", "precision", "batch") if name in rows[0]]
        ours = {tuple(row[name] for name in about): row[column] for row in rows if row["variant"] == "ours"}
        lines = [
            [
                *(str(row[name]) for name in about),
                row["variant"],
                show(row[column]),
                f"{ours[tuple(row[name] for name in about)] / row[column]:.2f}",
            ]
            for row in rows
        ]
        return [*about, "variant", column, "ours / it"], lines

    return render


def _product(rows):
    lines = [[str(row["size"]), row["precision"], _milliseconds(row), f"{row['gigaflops']:.0f}"] for row in rows]
    return ["size", "precision", "ms", "GFLOP/s"], lines


_TABLES = {
    "step": ("one SGD step", _timings),
    "evaluation": ("the forward pass alone", _timings),
    "compile": ("compilation of the step", _against_ours("seconds", "{:.2f}".format)),
    "memory": ("bytes that the step needs besides its arguments and results", _against_ours("bytes", "{:,}".format)),
    "residuals": ("bytes kept from forward to backward", _against_ours("bytes", "{:,}".format)),
    "numerics": (
        "error of the gradient with float64's decisions, relative in the L2 norm",
        _against_ours("error", "{:.1e}".format),
    ),
    "growth": ("time and work, times those of the net as it is", _growth),
    "product": ("matrix product", _product),
    "dispatch": ("what a call costs whatever it computes", _dispatch),
    "operation": (
        "one operation at batch {batches}, ms; product: a matrix product of as many multiply-adds",
        _operations,
    ),
    "busy": ("one SGD step, ms, beside busy processes", _busy),
    "determinism": ("runs of the gradient equal to the first, bit by bit", _determinism),
    "verify": ("checks of the hand-written backwards", _verify),
}


def _grouped(rows, *names) -> dict[tuple, list[Row]]:
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def _best(group, name):
    times = [row["milliseconds"] for row in group if row["variant"].split(",")[0] == name and "milliseconds" in row]
    return min(times, default=None)


def _times(before, after):
    if "milliseconds" not in before or "milliseconds" not in after:
        return "wrong"
    return f"x {after['milliseconds'] / before['milliseconds']:.1f}"


def _milliseconds(row):
    return _short(row["milliseconds"]) if "milliseconds" in row else "failed" if "failed" in row else "wrong"


def _ratio(row):
    return f"{row['ratio']:.2f} ({_spread(row['ratio_quartiles'])})" if "ratio" in row else "-"


def _spread(quartiles):
    return "" if quartiles is None else "-".join(map(_short, quartiles))


def _short(value):
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _error(row):
    return "" if "failed" in row else "not finite" if row["error"] is None else f"{row['error']:.0e}"


def _aligned(head, lines):
    """Columns: text to the left, numbers to the right."""
    left = [i for i, name in enumerate(head) if name in _TEXTS]
    shown = aligned([head, *lines], left)
    return "\n".join(line.rstrip() for line in (shown[0], "-" * len(shown[0]), *shown[1:]))
