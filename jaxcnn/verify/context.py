"""What all questions about one problem share, built once; and the lines that they answer with."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..kernels import quick_jit
from .differences import Prober
from .explain import of_change
from .problem import Problem
from .report import Check, Comparison
from .tolerances import rounding_terms, tolerance


@dataclass(frozen=True, eq=False)
class Context:
    """A problem, its name in the report, and its functions, compiled at the first call.

    `rule` is `(values, dys) -> (f's value, its outputs under the rule, the rule's gradients, others by name)`, `truth`
    `(values, dys) -> (outputs, gradients)` by automatic differentiation of plain, or None without plain.
    """

    problem: Problem
    name: str
    case: str
    convention: str | None  # at kinks
    seed: int
    expect: str  # "right" or "changed"
    outputs: Sequence[jax.ShapeDtypeStruct]  # the floating-point ones
    dtype: np.dtype  # of the comparisons: float64 unless f returns less
    given_terms: int | None
    rule: Any
    truth: Callable | None
    prober: Prober
    arrays: dict[tuple[str, str], tuple] = field(default_factory=dict)  # the report's, as the comparisons add them

    @staticmethod
    def of(
        problem: Problem,
        name: str,
        case: str,
        others: Mapping[str, Callable],
        convention: str | None,
        terms: int | None,
        seed: int,
        expect: str = "right",
    ) -> "Context":
        """Call f abstractly, and compile nothing yet.

        Raises:
            InputError: f cannot be called with its arguments, or returns nothing to differentiate.
        """
        try:
            outputs = jax.eval_shape(problem.value, problem.values(np.float64))
        except Exception as error:
            raise InputError(f"{name}({case}) cannot be called: {words(error)}") from error
        if not outputs:
            raise InputError(f"{name}({case}) returns no floating-point array; there must be one to differentiate")
        dtype = jnp.result_type(*outputs)
        if dtype != np.float64:
            outputs = jax.eval_shape(problem.value, problem.values(dtype))
        zeros = [np.zeros(y.shape, y.dtype) for y in outputs]

        def both(values, dys):
            under_rule, grads = problem.pullback(problem.f)(values, dys)
            return problem.value(values), under_rule, grads, {of: other(values, dys) for of, other in others.items()}

        rule, truth = quick_jit(both), None
        if problem.plain is not None:
            _check_plain(problem, outputs, f"plain of {name}({case})")
            # jaxlib 0.10.2's simplifier ends the process at some derivatives of plain convolutions: docs/others.md
            truth = quick_jit(problem.pullback(problem.plain), xla_disable_hlo_passes="algsimp")
        prober = Prober(problem.value, lambda values: rule(values, zeros)[0])
        return Context(problem, name, case, convention, seed, expect, outputs, dtype, terms, rule, truth, prober)

    @cached_property
    def terms(self) -> int:
        """Products in the longest sum; counted in the traced rule unless given."""
        if self.given_terms is not None:
            return self.given_terms
        return rounding_terms(self.rule.trace(self.values(0), self.cotangents(0)).jaxpr)

    def allowed(self, dtype=None) -> float:
        """The tolerance in `dtype`, that of the comparisons unless given."""
        return tolerance(self.dtype if dtype is None else dtype, self.terms)

    def values(self, draw: int, dtype=None) -> list[jax.Array]:
        """The arguments themselves at first, then moved at random."""
        return self.problem.values(dtype or self.dtype, None if draw == 0 else self.seed + 7919 * draw)

    def cotangents(self, draw: int, dtype=None) -> list[np.ndarray]:
        """Random ones, drawn in the outputs' own dtypes."""
        rng = np.random.default_rng((self.seed, 1000 + draw))
        drawn = [np.asarray(rng.standard_normal(y.shape)).astype(y.dtype) for y in self.outputs]
        return [dy.astype(dtype or dy.dtype) for dy in drawn]

    def check(self, oracle: str, argument="", error=0.0, allowed=0.0, **more: Any) -> Check:
        """A line of the report."""
        return Check(self.name, oracle, self.case, argument, error, allowed, **more)

    def compared(self, line: Check, found: Sequence | np.ndarray, **counted: Any) -> Check:
        """The line; of a changed rule one that agrees or differs, unless what was `found` is not finite."""
        if self.expect == "right" or not all(np.isfinite(g).all() for g in found):
            return line
        told = Comparison(**vars(line) | counted)
        return replace(told, note="; ".join(filter(None, [told.extent, of_change(line.note)])))


def _check_plain(problem, outputs, what):
    try:
        found = jax.eval_shape(lambda values: problem.value(values, problem.plain), problem.values(np.float64))
    except Exception as error:
        raise InputError(f"{what} cannot be called: {words(error)}") from error
    shapes, expected = ([y.shape for y in ys] for ys in (found, outputs))
    if shapes != expected:
        raise InputError(f"{what} returns arrays of shapes {shapes} but must return {expected}, as the rule's function")


def words(error: Exception) -> str:
    """An exception with its type, on one line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 400, placeholder=" ...")


def numpy_arrays(parts) -> list[np.ndarray]:
    """As NumPy arrays: JAX's arithmetic outside of jit is compiled for every shape."""
    return [np.asarray(part) for part in parts]
