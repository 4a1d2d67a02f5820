r"""How far a correct result may lie from the truth: one table, from eps, the length of the sums and the values' scale.

The error of an array is its largest absolute deviation from the truth over the truth's largest entry. Rounding errors
are independent: a sum of n products carries an error of standard deviation at most eps/2 sqrt(n) on the scale of that
largest entry, and an entry beyond 4 standard deviations is one in ten thousand. The chain around the sum, of at most 4
more roundings of eps/2 each, adds 2 eps:

(1)  tolerance = 2 eps (sqrt(n) + 1)

In float64 the bound for the exact oracles is the project's own promise, 1e-10. Finite differences carry their own error
estimate (`jaxcnn.verify.differences`), to which 1e-8 is added.

(2)  slope = <value, truth> / <truth, truth>

In bfloat16 (1) exceeds 1 %, and yet an error of 1 % in every entry is seen: rounding errors average out in the slope
(2), such an error does not. A slope is right whose distance from 1 and 4 standard errors stay below FAULT, 1 %; it is
wrong if it lies further than SLOPE, half of that, from 1 by 4 standard errors; between the two more is drawn.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

EXACT = 1e-10
FINITE_DIFFERENCE = 1e-8
SLOPE = 0.005
FAULT = 0.01
NEGLIGIBLE = 1e-6  # an array whose largest entry is so much smaller than another's is zero but for rounding


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


def relative_error(value, truth, scale: float | None = None) -> float:
    """Largest deviation over `scale`, unless given the truth's largest entry.

    Infinite where a shape differs or a value is not finite.

    >>> relative_error([1.0, 2.5], [1.0, 2.0])
    0.25
    """
    value, truth = np.asarray(value, np.float64), np.asarray(truth, np.float64)
    if value.shape != truth.shape or not (np.isfinite(value).all() and np.isfinite(truth).all()):
        return math.inf
    scale = np.abs(truth).max(initial=0) if scale is None else scale
    return float(np.abs(value - truth).max(initial=0) / (scale or 1))


def scales(truths) -> list[float]:
    """What the error of each array is measured against: its largest entry, or the largest of all if it is negligible.

    >>> scales([np.array([1.0, -2.0]), np.array([1e-17])])
    [2.0, 2.0]
    """
    largest = [float(np.abs(truth).max(initial=0, where=np.isfinite(truth))) for truth in truths]
    top = max(largest, default=0.0)
    return [own if own > NEGLIGIBLE * top else top for own in largest]


def rounding_terms(jaxpr) -> int:
    """The number of roundings that an entry of the result can meet: the lengths of all sums, 1 for any other equation.

    >>> import jax
    >>> rounding_terms(jax.make_jaxpr(lambda x: (2 * x).sum())(jnp.ones(9)))
    10
    """
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        inner = [part for part in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr) if _is_jaxpr(part)]
        if inner and not equation.primitive.name.startswith(("scatter", "reduce")):
            repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            total += repeats * max(map(rounding_terms, inner))
        else:
            total += _sum_length(equation)
    return max(total, 1)


WITHOUT_ROUNDING = (
    "reshape transpose broadcast_in_dim slice squeeze expand_dims convert_element_type select_n pad concatenate rev "
    "copy copy_p neg max min abs sign gt ge lt le eq ne and or not iota gather dynamic_slice stop_gradient "
    "reduce_max reduce_min argmax argmin is_finite reduce_precision random_wrap random_unwrap random_bits"
)


def _is_jaxpr(part):
    return hasattr(part, "eqns") or hasattr(getattr(part, "jaxpr", None), "eqns")


def _sum_length(equation) -> int:
    name, params = equation.primitive.name, equation.params
    if name in WITHOUT_ROUNDING.split():
        return 0
    shapes: list[tuple[int, ...]] = [getattr(v.aval, "shape", ()) for v in equation.invars]
    if name == "dot_general":
        return math.prod(shapes[0][axis] for axis in params["dimension_numbers"][0][0])
    if name == "conv_general_dilated":
        return int(math.prod(shapes[1])) // shapes[1][params["dimension_numbers"].rhs_spec[0]]
    if name.startswith("reduce_window"):
        return int(math.prod(params.get("window_dimensions", (1,))))
    if name.startswith("scatter"):
        return math.prod(shapes[2])
    if name.startswith(("reduce", "cumsum", "cumlogsumexp")):
        return max(1, math.prod(shapes[0]) // max(1, math.prod(equation.outvars[0].aval.shape)))
    return 1
