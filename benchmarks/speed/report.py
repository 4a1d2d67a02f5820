"""The rows of a result as tables: as text for the terminal, the steps as Markdown for the README."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxcnn.tables import aligned

from .timing import Row

MARK = 1.5  # an operation that takes longer than this many times PyTorch's time is marked
Measurements = dict[str, Any]


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
            parts.append(f"{title}\n{_aligned(*render(rows))}")
    slow = slower_than_torch(result["rows"])
    if slow:
        parts.append("\n".join(f"more than {MARK} times PyTorch: {what}, {ratio:.1f}" for what, ratio in slow.items()))
    return "\n\n".join(parts)


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
    """Ours where it was wrong: a gradient too far from float64, or a numerics row that did not pass."""
    ours = [row for row in rows if row.get("variant") == "ours"]
    return [
        f"{row.get('net') or row['op'] + ' ' + row['case']}, {row['table']}: error {row['error']}"
        for row in ours
        if not row.get("passed", "milliseconds" in row or "error" not in row)
    ]


def slower_than_torch(rows: Sequence[Row]) -> dict[str, float]:
    """Our time over that of PyTorch's better format for the operations where it is above 1.5."""
    found = {}
    for key, group in _grouped([row for row in rows if row["table"] == "operation"], *_OPERATION).items():
        ours, torch = _best(group, "ours"), _best(group, "torch")
        if ours is not None and torch is not None and ours > MARK * torch:
            found[", ".join(key[:-1])] = ours / torch
    return found


_OPERATION = ("op", "case", "direction", "precision")
_TEXTS = (*_OPERATION, "net", "variant", "change")


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
    head = [*_OPERATION, "ours", "jax.grad", "torch", "product", "ours / torch", ""]
    lines = []
    for key, group in _grouped(rows, *_OPERATION).items():
        ours, autodiff, torch = (_best(group, name) for name in ("ours", "jax.grad", "torch"))
        ratio = None if ours is None or torch is None else ours / torch
        product = group[0].get("product_milliseconds")
        mark = "<-" if ratio is not None and ratio > MARK else ""
        lines.append([*key, *(_short(value) for value in (ours, autodiff, torch, product, ratio)), mark])
    return head, lines


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
    "operation": ("one operation at batch 128, ms; product: a matrix product of as many multiply-adds", _operations),
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
    return _short(row["milliseconds"]) if "milliseconds" in row else "wrong"


def _ratio(row):
    return f"{row['ratio']:.2f} ({_spread(row['ratio_quartiles'])})" if "ratio" in row else "-"


def _spread(quartiles):
    return "" if quartiles is None else "-".join(map(_short, quartiles))


def _short(value):
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _error(row):
    return "not finite" if row["error"] is None else f"{row['error']:.0e}"


def _aligned(head, lines):
    """Columns: text to the left, numbers to the right."""
    left = [i for i, name in enumerate(head) if name in _TEXTS]
    shown = aligned([head, *lines], left)
    return "\n".join(line.rstrip() for line in (shown[0], "-" * len(shown[0]), *shown[1:]))
