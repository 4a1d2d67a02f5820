"""How a convolution is computed fast on each platform; nothing here changes a value.

A reader of the layers never needs this package. `correlations` are the operations that it has, `program` shapes the
compiled program. On CPU `onednn` calls that library where it is built, `convolution` is what XLA does without it.
Measured by `python -m benchmarks.speed`; docs/speed.md has the figures, and what was tried and lost.
"""

from .convolution import sum_over_positions
from .correlations import correlate, input_gradient, kernel_gradient, kernel_gradient_and_squares
from .moments import patch_moments
from .program import LABELS, compiler_options, materialized, quick_jit

__all__ = [
    "LABELS",
    "compiler_options",
    "correlate",
    "input_gradient",
    "kernel_gradient",
    "kernel_gradient_and_squares",
    "materialized",
    "patch_moments",
    "quick_jit",
    "sum_over_positions",
]
