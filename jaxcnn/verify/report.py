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
    """Operation x oracle: largest relative error, cases, verdict; below it every check that failed.

    >>> print(table([Check("relu", "autodiff", "(7,)", "du", 3e-17, 1e-10)]))
    operation              oracle                    largest relative error  cases  verdict
    ---------------------------------------------------------------------------------------
    relu                   autodiff                                 3.0e-17      1  ok
    """
    checks = list(checks)
    head = f"{'operation':22} {'oracle':24} {'largest relative error':>23} {'cases':>6}  verdict"
    lines = [head, "-" * len(head)]
    last = None
    for row in rows(checks):
        name = row.op if row.op != last else ""
        last = row.op
        lines.append(f"{name:22} {row.oracle:24} {row.error:23.1e} {row.cases:6}  {'ok' if row.passed else 'FAILED'}")
    lines += [f"FAILED  {check}" for check in checks if not check.passed]
    return "\n".join(lines)
