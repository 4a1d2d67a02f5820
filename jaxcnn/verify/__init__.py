"""The gradient verifier: any backward rule against oracles that never pass through it."""

from .cases import OPERATIONS, find_operation
from .engine import check_rule
from .registry import check_network, check_operations, chosen_cases
from .report import Check, Comparison, Report, rows, table

__all__ = [
    "OPERATIONS",
    "Check",
    "Comparison",
    "Report",
    "check_network",
    "check_operations",
    "check_rule",
    "chosen_cases",
    "find_operation",
    "rows",
    "table",
]
