"""The outcome of checks as a table."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One comparison: an operation's result against an oracle's."""

    op: str
    oracle: str
    case: str
    argument: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """The error is within the tolerance."""
        return self.error <= self.tolerance

    def __str__(self):
        return (
            f"{self.op}({self.case}): {self.argument} against {self.oracle}: "
            f"relative error {self.error:.1e}, allowed {self.tolerance:.1e}"
        )


@dataclass(frozen=True)
class Row:
    """All checks of one operation against one oracle: the largest error and how many cases."""

    op: str
    oracle: str
    error: float
    cases: int
    passed: bool


def rows(checks: Iterable[Check]) -> list[Row]:
    """The checks by operation and oracle, in order of appearance."""
    groups: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        groups.setdefault((check.op, check.oracle), []).append(check)
    return [
        Row(op, oracle, max(c.error for c in group), len({c.case for c in group}), all(c.passed for c in group))
        for (op, oracle), group in groups.items()
    ]


def table(checks: Iterable[Check]) -> str:
    """Operation x oracle: the largest relative error; the cases and the verdict; below it every check that failed.

    >>> print(table([Check("relu", "autodiff", "(7,)", "du", 3e-17, 1e-10)]))
    operation              cases   autodiff  verdict
    ------------------------------------------------
    relu                       1    3.0e-17  ok
    """
    checks = list(checks)
    found = {(row.op, row.oracle): row for row in rows(checks)}
    oracles = list(dict.fromkeys(check.oracle for check in checks))
    widths = [max(10, len(oracle)) for oracle in oracles]
    head = f"{'operation':22} {'cases':>5} {_columns(oracles, widths)}  verdict"
    lines = [head, "-" * len(head)]
    for op in dict.fromkeys(check.op for check in checks):
        mine = [found.get((op, oracle)) for oracle in oracles]
        errors = ["" if row is None else f"{row.error:.1e}" for row in mine]
        cases = max(row.cases for row in mine if row is not None)
        verdict = "ok" if all(row.passed for row in mine if row is not None) else "FAILED"
        lines.append(f"{op:22} {cases:5} {_columns(errors, widths)}  {verdict}")
    return "\n".join(lines + [f"FAILED  {check}" for check in checks if not check.passed])


def _columns(cells, widths):
    return " ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
