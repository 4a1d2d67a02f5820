"""The oracles: differences of f, a reference in NumPy, the value under the rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rules import FAST, lines, rule

from jaxcnn.verify import check_rule


def test_without_plain_the_differences_find_the_entry(rng):
    def backward(args, dy):
        return ((2 * args[0] * dy).at[1, 2].mul(1.001),)

    report = check_rule(rule(lambda x: x * x, backward), rng.standard_normal((3, 4)), **FAST)
    (check,) = (c for c in report.checks if c.oracle == "differences")
    assert check.index == (1, 2)
    assert check.value == pytest.approx(1.001 * check.truth)
    assert check.note == "wrong only where the index along axis 0 is 1; wrong in 1 of 12 entries"


def test_in_a_large_argument_a_fault_in_one_per_cent_of_the_entries_is_found(rng):
    x = rng.standard_normal(5000)
    off = np.where(np.arange(5000) % 100 == 7, 1.01, 1.0)
    assert not check_rule(rule(jnp.sin, lambda a, dy: (jnp.cos(a[0]) * dy,)), x, **FAST).failed
    report = check_rule(rule(jnp.sin, lambda a, dy: (jnp.cos(a[0]) * dy * off,)), x, **FAST)
    assert ("differences", "x") in lines(report)


def test_steps_adapt_to_the_function():
    x = np.array([1e-4, 1e-2, 1.0, 300.0])
    report = check_rule(rule(jnp.log, lambda a, dy: (dy / a[0],)), x, **FAST)
    assert not report.failed
    wrong = check_rule(rule(jnp.log, lambda a, dy: (dy / a[0] * np.array([1.01, 1, 1, 1]),)), x, **FAST)
    assert lines(wrong)["differences", "x"].index == (0,)


def test_a_numpy_reference_is_an_oracle(rng):
    f = rule(lambda x, w: x @ w, lambda a, dy: (dy @ a[1].T, 3 * a[0].T @ dy))
    arguments = rng.standard_normal((2, 3)), rng.standard_normal((3, 4))
    report = check_rule(f, *arguments, reference=lambda x, w, dy: (dy @ w.T, x.T @ dy), **FAST)
    assert lines(report)["reference", "w"].note == "scaled by 3, the size of axis 0"
    assert ("reference", "x") not in lines(report)
    assert "the NumPy reference" in report.facts["oracles"]


def test_a_forward_pass_that_computes_something_else_is_caught():
    f = jax.custom_vjp(lambda x: x * x)
    f.defvjp(lambda x: (x * x + 1e-3, x), lambda x, dy: (2 * x * dy,))
    report = check_rule(f, np.array([1.0, 2.0]), plain=lambda x: x * x, **FAST)
    assert set(lines(report)) == {("value", "f and its forward pass under the rule")}
