"""The gradient verifier: every hand-written backward against oracles that never pass through it."""

from .cases import OPERATIONS, find
from .oracles import check_network, check_operations
from .report import Check, rows, table

__all__ = ["OPERATIONS", "Check", "check_network", "check_operations", "find", "rows", "table"]
