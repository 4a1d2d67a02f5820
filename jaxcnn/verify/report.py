"""What was checked and what came out: one Check a line, a Report of them, and the table of a whole registry."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..tables import aligned

COLUMNS = ("check", "argument", "worst entry", "rule", "oracle", "error", "allowed", "verdict")
COMPARED = {  # oracles of a gradient, and their words in the verdict on a changed rule
    "autodiff": "the true gradient",
    "differences": "the true gradient",
    "kinks": "the derivative stated at kinks",
    "reference": "the reference",
}
ORACLES = ("value", "reference", "autodiff", "differences", "explicit", "float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Check:
    """One comparison: an operation's result against an oracle's, or a property such as "vmap".

    `index` is the worst entry, where the rule has `value` and the oracle `truth`; `note` the diagnosis. `reason` says
    why a thing was not checked.
    """

    op: str
    oracle: str
    case: str
    argument: str
    error: float
    tolerance: float
    index: tuple[int, ...] | None = None
    value: float = math.nan
    truth: float = math.nan
    note: str = ""
    reason: str = ""

    @property
    def passed(self) -> bool:
        """It was checked, and the error is within the tolerance."""
        return not self.reason and self.error <= self.tolerance

    @property
    def verdict(self) -> str:
        """ "ok", "FAILED" or "not checked"."""
        return "not checked" if self.reason else "ok" if self.passed else "FAILED"

    @property
    def cells(self) -> tuple[str, ...]:
        """What a report's table shows in COLUMNS."""
        entry = ("", "", "") if self.index is None else (str(self.index), f"{self.value:.5g}", f"{self.truth:.5g}")
        numeric = not self.reason and self.tolerance > 0
        errors = (f"{self.error:.1e}", f"{self.tolerance:.1e}") if numeric else ("", "")
        return (self.oracle, self.argument, *entry, *errors, self.verdict)

    def __str__(self):
        what = f"{self.op}({self.case}): {self.argument} against {self.oracle}".replace(":  against", ":")
        if self.reason:
            return f"{what}: not checked: {self.reason}"
        where = f", worst at {self.index}: {self.value:.6g}, not {self.truth:.6g}" if self.index is not None else ""
        error = f": relative error {self.error:.1e}, allowed {self.tolerance:.1e}" if self.tolerance else ""
        return f"{what}{error}{where}{': ' + self.note if self.note else ''}"

    def to_dict(self) -> dict[str, Any]:
        """JSON's values alone: None for what is not finite."""
        numbers = {name: _finite(number) for name, number in vars(self).items() if isinstance(number, float)}
        return vars(self) | numbers | {"verdict": self.verdict, "index": None if self.index is None else [*self.index]}


@dataclass(frozen=True)
class Comparison(Check):
    """A line about a rule that was changed on purpose: where it agrees with the gradient, and where it differs.

    `differing` of the `entries` that were compared differ; `cosine` is that of the angle between the rule's gradient
    and the oracle's. Both are left out (0 entries, NaN) where not every entry was compared.
    """

    differing: int = 0
    entries: int = 0
    cosine: float = math.nan

    @property
    def verdict(self) -> str:
        """ "agrees", "differs" or "not checked"."""
        return "not checked" if self.reason else "agrees" if self.passed else "differs"

    @property
    def extent(self) -> str:
        """In how many entries it differs, and the cosine; "" if that is not known or in none.

        >>> Comparison("relu", "autodiff", "(7,)", "x", 1.0, 1e-10, differing=3, entries=7, cosine=0.7071).extent
        'in 3 of 7 entries (cosine 0.71)'
        """
        cosine = f" (cosine {self.cosine:.2f})" if math.isfinite(self.cosine) else ""
        return f"in {self.differing} of {self.entries} entries{cosine}" if self.differing else ""


def _finite(number):
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Report:
    """The outcome of `check_rule`.

    `checks` in order; `facts` names the device, the versions, the precision and the seed; `arrays` holds, for each
    argument that an oracle was compared with entry by entry, the rule's gradient, the oracle's, and what the error is
    measured against. `expect` is "right", or "changed" for a rule that is another than the gradient on purpose.
    """

    checks: tuple[Check, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray, float]] = field(default_factory=dict, repr=False)
    expect: str = "right"

    @property
    def passed(self) -> bool:
        """Everything was checked and nothing failed; never of a rule that was changed on purpose."""
        return self.expect == "right" and all(check.passed for check in self.checks)

    @property
    def failed(self) -> bool:
        """Something failed; that a changed rule differs from the gradient is no failure."""
        return any(check.verdict == "FAILED" for check in self.checks)

    @property
    def verdict(self) -> str:
        """In words; it never says that all passed where something was not checked."""
        count = {verdict: sum(c.verdict == verdict for c in self.checks) for verdict in ("FAILED", "not checked")}
        if self.failed:
            return f"FAILED: {count['FAILED']} of {len(self.checks)} checks"
        if self.expect == "changed":
            left_out = f"; {count['not checked']} of {len(self.checks)} things were not checked"
            return f"changed: {self._changed()}{left_out if count['not checked'] else ''}"
        if not self.passed:
            return f"nothing failed, but {count['not checked']} of {len(self.checks)} things were not checked"
        return f"all {len(self.checks)} checks passed"

    def _changed(self):
        """Where a changed rule differs: the worst that was found of each argument, in words."""
        found: dict[str, list[Check]] = {}
        for check in self.checks:
            if check.oracle in COMPARED and check.argument:
                found.setdefault(check.argument, []).append(check)
        order, oracles = ("differs", "agrees", "not checked"), list(COMPARED)
        worst = [min(of, key=lambda c: (order.index(c.verdict), oracles.index(c.oracle))) for of in found.values()]
        words = ", ".join(f"d{check.argument} {_compared(check)}" for check in worst)
        differing = [check.oracle for check in self.checks if check.verdict == "differs"]
        if "linear in dy" in differing or "dy = 0" in differing:
            return f"{words}; not linear in dy"
        return words if differing else f"{words}; at the points tried nothing was found changed"

    def raise_if_failed(self) -> None:
        """Raise an AssertionError with the table as its message if a check failed."""
        if self.failed:
            error = AssertionError(str(self))
            error.report = self  # pyright: ignore[reportAttributeAccessIssue]  read by the pytest plugin
            raise error

    def __str__(self):
        facts = "\n".join(f"{name}: {value}" for name, value in self.facts.items())
        head, *rows = aligned([COLUMNS, *(check.cells for check in self.checks)], left=range(len(COLUMNS)))
        notes = [check.reason or check.note for check in self.checks]
        lines = [f"{row}  {note}".rstrip() for row, note in zip(rows, notes, strict=True)]
        return "\n".join([facts, "", head.rstrip(), "-" * len(head), *lines, "", self.verdict])

    def to_json(self) -> str:
        """One JSON object: passed, failed, verdict, the facts and every check."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """What `to_json` writes."""
        outcome = {"passed": self.passed, "failed": self.failed, "verdict": self.verdict}
        return outcome | {"facts": dict(self.facts), "checks": [check.to_dict() for check in self.checks]}

    def to_html(self) -> str:
        """A page that needs nothing else: the table, and for each argument a heat map of the error over its entries."""
        from .html import page

        return page(self)


def _compared(check):
    if check.verdict == "differs":
        extent = check.extent if isinstance(check, Comparison) else ""
        return f"differs from {COMPARED[check.oracle]} {extent}".rstrip()
    return "agrees" if check.verdict == "agrees" else "was not compared"


@dataclass(frozen=True)
class OracleRow:
    """All checks of one operation against one oracle: the largest error and how many cases."""

    op: str
    oracle: str
    error: float
    cases: int
    passed: bool


def rows(checks: Iterable[Check]) -> list[OracleRow]:
    """The checks by operation and oracle, in order of appearance."""
    groups: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        groups.setdefault((check.op, check.oracle), []).append(check)
    return [
        OracleRow(op, oracle, max(c.error for c in group), len({c.case for c in group}), all(c.passed for c in group))
        for (op, oracle), group in groups.items()
    ]


def table(checks: Iterable[Check]) -> str:
    """Operation x oracle: the largest relative error; the cases and the verdict; below it every check that failed.

    What is no comparison with an oracle, such as "vmap", is counted: those that hold of those that were checked.

    >>> checks = [Check("relu", "autodiff", "(7,)", "u", 3e-17, 1e-10), Check("relu", "vmap", "(7,)", "", 0, 1e-10)]
    >>> print(table(checks))
    operation              cases   autodiff  properties  verdict
    ------------------------------------------------------------
    relu                       1    3.0e-17         1/1  ok
    """
    checks = list(checks)
    found = {(row.op, row.oracle): row for row in rows(checks)}
    oracles = [oracle for oracle in dict.fromkeys(check.oracle for check in checks) if oracle in ORACLES]
    properties = [check for check in checks if check.oracle not in ORACLES]
    widths = [max(10, len(oracle)) for oracle in oracles] + ([11] if properties else [])
    head = f"{'operation':22} {'cases':>5} {_columns(oracles + ['properties'] * bool(properties), widths)}  verdict"
    lines = [head, "-" * len(head)]
    for op in dict.fromkeys(check.op for check in checks):
        mine = [found.get((op, oracle)) for oracle in oracles]
        cells = ["" if row is None else f"{row.error:.1e}" for row in mine]
        held = [check.passed for check in properties if check.op == op]
        cells += [f"{sum(held)}/{len(held)}"] * bool(properties)
        of_op = Report(tuple(check for check in checks if check.op == op))
        cases = len({check.case for check in of_op.checks})
        verdict = "ok" if of_op.passed else "FAILED" if of_op.failed else "not all checked"
        lines.append(f"{op:22} {cases:5} {_columns(cells, widths)}  {verdict}")
    return "\n".join(lines + [f"{c.verdict}  {c}" for c in checks if not c.passed])


def _columns(cells, widths):
    return " ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
