"""Can the rule be run, and have its gradients the trees, shapes and dtypes of the arguments?"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from .context import Context, words
from .problem import Problem, is_floating
from .report import Check


def check_structure(context: Context) -> tuple[list[Check], bool]:
    """The rule can be run, and gradients have the shapes and dtypes of their arguments; integers have none.

    Returns the checks, and whether the rule can be run: if not, there is nothing else to ask.
    """
    checks = []
    if context.dtype != np.float64:
        reason = f"f returns {context.dtype} for float64 arguments; compared within its rounding"
        checks.append(context.check("float64", reason=reason))
    values, dys = context.values(0), context.cotangents(0)
    try:
        _, _, grads, _ = jax.eval_shape(context.rule, values, dys)  # the trace is kept for the call
        _differentiate_by_all(context.problem, values, dys)
    except Exception as error:
        checks.append(context.check("structure", error=math.inf, note=words(error)))
        return [*checks, context.check("gradients", reason="the rule cannot be run")], False
    wrong = []
    for name, value, grad in zip(context.problem.names, values, grads, strict=True):
        if grad.dtype != value.dtype or grad.shape != value.shape:
            note = f"the gradient is {grad.dtype}{grad.shape} but must be {value.dtype}{value.shape}"
            wrong.append(context.check("structure", name, math.inf, note=note))
    right = context.check("structure", note="trees, shapes and dtypes are those of the arguments")
    return [*checks, *(wrong or [right])], True


def _differentiate_by_all(problem: Problem, values, dys):
    """All arguments at once through `jax.vjp`: raises what JAX has to say about gradients of integers."""
    leaves, tree = jax.tree.flatten(problem.rebuild(values))
    if len(leaves) == len(problem.places):
        return

    def all_gradients(leaves, dys):
        f = problem.f
        _, pull = jax.vjp(lambda *l: [y for y in jax.tree.leaves(f(*tree.unflatten(l))) if is_floating(y)], *leaves)
        return [g for g, l in zip(pull(dys), leaves, strict=True) if is_floating(l)]

    jax.eval_shape(all_gradients, [jnp.asarray(l) if not hasattr(l, "dtype") else l for l in leaves], dys)


def residuals(context: Context) -> str:
    """The bytes that the rule keeps for the way back, beside those of autodiff of plain."""
    problem, values = context.problem, context.values(0)
    kept = f"{_residual_bytes(problem, problem.f, values):,} bytes"
    if problem.plain is None:
        return kept
    return f"{kept}; autodiff of plain keeps {_residual_bytes(problem, problem.plain, values):,}"


def _residual_bytes(problem, f, values) -> int:
    kept = jax.eval_shape(lambda v: jax.vjp(lambda *v: problem.value(v, f), *v)[1], values)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
