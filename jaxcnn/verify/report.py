"""What was checked and what came out: one Check a line, a Report of them, and the table of a whole registry."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..tables import aligned

COLUMNS = ("check", "argument", "worst entry", "rule", "oracle", "error", "allowed", "verdict")
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
        numbers = {name: _finite(getattr(self, name)) for name in ("error", "tolerance", "value", "truth")}
        return vars(self) | numbers | {"verdict": self.verdict, "index": None if self.index is None else [*self.index]}


def _finite(number):
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Report:
    """The outcome of `check_rule`.

    `checks` in order; `facts` names the device, the versions, the precision and the seed; `arrays` holds, for each
    argument that an oracle was compared with entry by entry, the rule's gradient, the oracle's, and what the error is
    measured against.
    """

    checks: tuple[Check, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray, float]] = field(default_factory=dict, repr=False)

    @property
    def passed(self) -> bool:
        """Everything was checked and nothing failed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> bool:
        """Something failed."""
        return any(check.verdict == "FAILED" for check in self.checks)

    @property
    def verdict(self) -> str:
        """In words; it never says that all passed where something was not checked."""
        count = {verdict: sum(c.verdict == verdict for c in self.checks) for verdict in ("FAILED", "not checked")}
        if self.failed:
            return f"FAILED: {count['FAILED']} of {len(self.checks)} checks"
        if not self.passed:
            return f"nothing failed, but {count['not checked']} of {len(self.checks)} things were not checked"
        return f"all {len(self.checks)} checks passed"

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
