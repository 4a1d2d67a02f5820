r"""How far a correct result may lie from the truth: one table, from eps and the length of the sums.

The error of an array is its largest absolute deviation from the truth over the truth's largest entry. Rounding errors
are independent: a sum of n products carries an error of standard deviation at most eps/2 sqrt(n) on the scale of that
largest entry, and an entry beyond 4 standard deviations is one in ten thousand. The chain around the sum, of at most 4
more roundings of eps/2 each, adds 2 eps:

(1)  tolerance = 2 eps (sqrt(n) + 1)

In float64 the bound for the exact oracles is the project's own promise, 1e-10. Finite differences with a step of
1e-3 are exact to 3e-14 f''''' + 3e-13 |f| (reference/finite_difference.py); with |f| up to 1e3 that is 3e-10, and
nothing that a fault could hide behind lies between it and 1e-8.
"""

import math

import jax.numpy as jnp
import numpy as np

EXACT = 1e-10
FINITE_DIFFERENCE = 1e-8


def tolerance(dtype, terms: int) -> float:
    """Largest relative error of a correct result of `dtype` that sums `terms` products (1).

    >>> tolerance(jnp.float32, 9) == 2 * 2**-23 * 4
    True
    >>> tolerance(jnp.float64, 9)
    1e-10
    """
    if dtype == jnp.float64:
        return EXACT
    return 2 * float(jnp.finfo(dtype).eps) * (math.sqrt(terms) + 1)


def relative_error(value, truth) -> float:
    """Largest deviation over the truth's largest entry; infinite where a shape differs or a value is not finite.

    >>> relative_error([1.0, 2.5], [1.0, 2.0])
    0.25
    """
    value, truth = np.asarray(value, np.float64), np.asarray(truth, np.float64)
    if value.shape != truth.shape or not (np.isfinite(value).all() and np.isfinite(truth).all()):
        return math.inf
    scale = np.abs(truth).max(initial=0)
    return float(np.abs(value - truth).max(initial=0) / (scale or 1))
