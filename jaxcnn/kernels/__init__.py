"""How XLA is brought to compute the formulas of the layers fast; nothing here changes a value.

A reader of the layers never needs this package. `correlations` are the operations that it has, `program` shapes the
compiled program. On CPU `convolution` chooses their formulations, `onednn` has the calls of that library, `fold` the
idea behind the narrow ones, `phases` that behind dx of a strided one. Measured by `python -m benchmarks.speed`;
docs/speed.md has the figures, and what was tried and lost.
"""

from .correlations import correlate, input_gradient, kernel_gradient, sum_over_positions
from .program import LABELS, compiler_options, materialized, quick_jit

__all__ = [
    "LABELS",
    "compiler_options",
    "correlate",
    "input_gradient",
    "kernel_gradient",
    "materialized",
    "quick_jit",
    "sum_over_positions",
]
