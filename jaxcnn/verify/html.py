"""A report as one page that needs nothing else: the table, and heat maps of the error over the entries."""

import itertools
import math
from html import escape

import numpy as np

from ..html import document, fact_list
from .report import COLUMNS, Check, Report

CELL = 14
LARGEST = 4096  # entries of one map; larger arrays are shown in blocks, each by its worst entry
COLOURS = {"ok": "#1a7f37", "FAILED": "#cf222e", "not checked": "#9a6700"}
CHANGED_COLOURS = COLOURS | {"ok": "#59636e", "agrees": "#59636e", "differs": "#0969da"}  # nothing of it is green


def page(report: Report) -> str:
    """The HTML of a report.

    >>> page(Report((), {"rule": "f(x)"})).startswith("<!doctype html>")
    True
    """
    colours = COLOURS if report.expect == "right" else CHANGED_COLOURS
    otherwise = "not checked" if report.expect == "right" else "differs"
    colour = colours["FAILED" if report.failed else "ok" if report.passed else otherwise]
    head = "".join(f"<th>{column}</th>" for column in (*COLUMNS, ""))
    rows = "".join(_row(check, colours) for check in report.checks)
    what = "error" if report.expect == "right" else "difference"
    maps = "".join(_map(what, name, oracle, *arrays) for (name, oracle), arrays in report.arrays.items())
    body = (
        f'<p style="color:{colour}"><strong>{escape(report.verdict)}</strong></p>{fact_list(report.facts)}'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{maps}"
    )
    return document(str(report.facts.get("rule", "a backward rule")), body)


def _row(c: Check, colours):
    body = "".join(f'<td class="n">{escape(cell)}</td>' for cell in c.cells[:-1])
    verdict = f'<td class="n" style="color:{colours[c.verdict]}">{c.verdict}</td>'
    return f"<tr>{body}{verdict}<td>{escape(c.reason or c.note)}</td></tr>"


def _map(what, name, oracle, found, truth, scale):
    """The relative error of every entry on a logarithmic scale; the last two axes are an image's rows and columns."""
    title = f"<h2>{escape(name)} against {escape(oracle)}</h2>"
    if found.shape != truth.shape or not found.size:
        return f"{title}<p>The shapes differ: {found.shape} and {truth.shape}.</p>"
    with np.errstate(invalid="ignore"):
        error = np.abs(found - truth) / (scale or 1)
    error = np.where(np.isfinite(error), error, np.inf)
    panels = _panels(error)
    block = 1
    while sum(math.ceil(p.shape[0] / block) * math.ceil(p.shape[1] / block) for p, _ in panels) > LARGEST:
        block += 1
    shown = panels[: max(1, LARGEST * block * block // max(1, panels[0][0].size))]
    drawn = "".join(_panel(_blocks(p, block), label, block) for p, label in shown)
    left_out = f" The first {len(shown)} of {len(panels)} panels." if len(shown) < len(panels) else ""
    blocks = f" Each cell is the worst of {block} x {block} entries." if block > 1 else ""
    legend = "".join(
        f'<span style="background:{_colour(10.0**e)};padding:.1rem .5rem">1e{e}</span>' for e in range(-16, 1, 4)
    )
    words = f"The {what} of each entry over the largest entry of the gradient"
    return f"{title}<p>{words}; largest {error.max():.1e}.{blocks}{left_out} {legend}</p>{drawn}"


def _panels(error):
    """Images (rows, columns) with their labels: NHWC is shown by sample and channel."""
    if error.ndim < 2:
        return [(error.reshape(1, -1), "")]
    if error.ndim == 4:
        samples, _, _, channels = error.shape
        return [(error[n, :, :, c], f"[{n}, :, :, {c}]") for n, c in np.ndindex(samples, channels)]
    leading = np.ndindex(error.shape[:-2])
    return [(error[i], f"[{', '.join(map(str, i))}, :, :]" if i else "") for i in leading]


def _blocks(panel, block):
    rows, columns = (math.ceil(size / block) for size in panel.shape)
    padded = np.zeros((rows * block, columns * block))
    padded[: panel.shape[0], : panel.shape[1]] = panel
    return padded.reshape(rows, block, columns, block).max(axis=(1, 3))


def _panel(error, label, block):
    height, width = (size * CELL for size in error.shape)
    cells = "".join(
        f'<rect x="{j * CELL}" y="{i * CELL + 16}" width="{CELL - 1}" height="{CELL - 1}" '
        f'fill="{_colour(error[i, j])}">'
        f"<title>({i * block}, {j * block}): {error[i, j]:.1e}</title></rect>"
        for i, j in np.ndindex(error.shape)
    )
    text = f'<text x="0" y="11" font-size="11" font-family="sans-serif" fill="#59636e">{escape(label)}</text>'
    size = f'width="{max(width, 90)}" height="{height + 16}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(label)}" {size}>{text}{cells}</svg>'


def _colour(error):
    """Light grey for rounding in float64, through yellow to dark red for an error of 1."""
    t = 0.0 if error <= 1e-16 else 1.0 if error >= 1 else 1 + math.log10(error) / 16
    stops = ((0.0, (234, 238, 242)), (0.4, (255, 243, 191)), (0.7, (253, 141, 60)), (1.0, (165, 15, 21)))
    for (a, low), (b, high) in itertools.pairwise(stops):
        if t <= b:
            mix = (t - a) / (b - a)
            return "#" + "".join(f"{round(x + mix * (y - x)):02x}" for x, y in zip(low, high, strict=True))
    return "#a50f15"
