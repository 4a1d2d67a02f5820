"""How XLA is brought to compute the formulas of the layers fast; nothing here changes a value.

A reader of the layers never needs this package. `program` holds what shapes the compiled program, `onednn` the calls of
that library, `convolution` the two correlations and the sum of a convolution layer, `fold` the idea behind the narrow
ones, `phases` that behind dx of a strided one. Measured by `python -m benchmarks.speed`; docs/speed.md has the figures,
and what was tried and lost.
"""

from .convolution import correlate, kernel_gradient, sum_over_positions
from .program import LABELS, compiler_options, materialized, quick_jit

__all__ = [
    "LABELS",
    "compiler_options",
    "correlate",
    "kernel_gradient",
    "materialized",
    "quick_jit",
    "sum_over_positions",
]
