"""`check_rule` for anybody's rule: what it says of right ones, of wrong ones, and of what it could not check."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.verify import check_rule
from jaxcnn.verify.problem import Problem

FAST = {"dtypes": ("float64",)}


def rule(value, backward):
    """A custom_vjp of `value(*args)` with `backward(args, dy)`."""
    f = jax.custom_vjp(value)
    f.defvjp(lambda *args: (value(*args), args), backward)
    return f


def lines(report, verdict="FAILED"):
    return {(check.oracle, check.argument): check for check in report.checks if check.verdict == verdict}


def test_a_right_rule_on_trees_and_several_outputs(rng):
    def plain(params, x, label):
        u = x @ params["w"] + params["b"]
        return {"out": jnp.tanh(u), "which": label, "sum": u.sum()}

    params = {"w": rng.standard_normal((3, 2)), "b": rng.standard_normal(2)}
    report = check_rule(jax.checkpoint(plain), params, rng.standard_normal((4, 3)), np.array([1, 2]), plain=plain)
    assert report.passed, str(report)
    assert {check.argument for check in report.checks if check.oracle == "autodiff"} == {
        "params['w']", "params['b']", "x"}  # fmt: skip
    assert report.verdict == f"all {len(report.checks)} checks passed"
    assert {"device", "versions", "precision", "seed", "oracles", "residuals"} <= set(report.facts)
    assert jnp.ones(1).dtype == jnp.float32


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


def test_a_kink_is_reported_apart_and_judged_by_the_stated_convention():
    x = np.array([1.0, 0.0, -2.0])
    right = rule(lambda x: jnp.where(x > 0, x, 0), lambda a, dy: (jnp.where(a[0] > 0, dy, 0),))
    report = check_rule(right, x, plain=lambda x: jnp.maximum(x, 0), **FAST)
    assert not report.failed
    assert not report.passed
    assert report.verdict == f"nothing failed, but 1 of {len(report.checks)} things were not checked"
    reason = lines(report, "not checked")["kinks", "x"].reason
    assert reason.startswith("kink at (1,): ")
    assert "no convention was stated" in reason
    # relu'(0) = 0 is the derivative from below for a positive dy and from above, on the flat side, for none
    for convention, wanted in (("left", True), ("right", False), ("mean", False)):
        assert check_rule(right, x, kinks=convention, **FAST).failed is not wanted, convention
    halved = check_rule(right, x, plain=lambda x: jnp.maximum(x, 0), kinks="autodiff", **FAST)
    assert set(lines(halved)) == {("autodiff", "x"), ("kinks", "x")}
    resampled = [c for c in report.checks if c.note == "resampled away from the kinks"]
    assert [c.verdict for c in resampled] == ["ok"]


def test_a_numpy_reference_is_an_oracle(rng):
    f = rule(lambda x, w: x @ w, lambda a, dy: (dy @ a[1].T, 3 * a[0].T @ dy))
    arguments = rng.standard_normal((2, 3)), rng.standard_normal((3, 4))
    report = check_rule(f, *arguments, reference=lambda x, w, dy: (dy @ w.T, x.T @ dy), **FAST)
    assert lines(report)["reference", "w"].note == "scaled by 3, the size of axis 0"
    assert ("reference", "x") not in lines(report)
    assert "the NumPy reference" in report.facts["oracles"]


def test_argnums_choose():
    f = rule(lambda x, y: x * y, lambda a, dy: (a[1] * dy, 2 * a[0] * dy))
    arguments = np.array([1.0, 2.0]), np.array([3.0, 5.0])
    assert not check_rule(f, *arguments, argnums=0, **FAST).failed
    assert check_rule(f, *arguments, argnums=(1,), **FAST).failed


@pytest.mark.parametrize(
    ("backward", "oracle", "words"),
    [
        (lambda a, dy: (dy.sum(),), "structure", "shapes do not match"),
        (lambda a, dy: ((2 * a[0] * dy).astype(jnp.float32),), "structure", "the gradient is float32(3,) but must be"),
        (lambda a, dy: (2 * a[0] * dy + 1e-3,), "dy = 0", "gives another gradient than 0 for ['x']"),
        (lambda a, dy: (2 * a[0] * jnp.clip(dy, -0.1, 0.1),), "linear in dy", ""),
        (lambda a, dy: (jax.lax.stop_gradient(2 * a[0]) * dy,), "grad of grad", "a second derivative is not that"),
    ],
)  # fmt: skip
def test_structure_linearity_and_second_derivatives(backward, oracle, words):
    report = check_rule(rule(lambda x: x * x, backward), np.array([1.0, -2.0, 0.5]), **FAST)
    found = [check for check in report.checks if check.oracle == oracle and check.verdict == "FAILED"]
    assert found
    assert words in found[0].note


def test_a_forward_pass_that_computes_something_else_is_caught():
    f = jax.custom_vjp(lambda x: x * x)
    f.defvjp(lambda x: (x * x + 1e-3, x), lambda x, dy: (2 * x * dy,))
    report = check_rule(f, np.array([1.0, 2.0]), plain=lambda x: x * x, **FAST)
    assert set(lines(report)) == {("value", "f and its forward pass under the rule")}


def test_a_rule_that_does_not_vmap_is_told():
    def backward(a, dy):
        if dy.ndim == 1 and type(dy).__name__.endswith("BatchTracer"):
            raise TypeError("no batches")
        return (2 * a[0] * dy,)

    report = check_rule(rule(lambda x: x * x, backward), np.array([1.0, 2.0]), **FAST)
    assert "raises TypeError" in lines(report)["vmap", ""].note


def test_a_dtype_that_f_does_not_take_is_not_checked():
    def cube(x):
        if x.dtype == jnp.bfloat16:
            raise TypeError("no bfloat16 here")
        return x**3

    report = check_rule(cube, np.array([1.0, 2.0]), dtypes=("float64", "bfloat16"))
    assert not report.failed
    assert not report.passed
    assert (
        "f does not take bfloat16: TypeError: no bfloat16 here" in lines(report, "not checked")["bfloat16", ""].reason
    )


def test_a_value_rounded_to_float32_is_compared_within_its_rounding():
    f = rule(lambda x: (x * x).astype(jnp.float32), lambda a, dy: ((2 * a[0] * dy).astype(a[0].dtype),))
    report = check_rule(f, np.array([1.0, -2.0, 0.5]), **FAST)
    assert not report.failed
    assert "f returns float32 for float64 arguments" in lines(report, "not checked")["float64", ""].reason


@pytest.mark.parametrize(
    ("arguments", "keywords", "sentence"),
    [
        ((np.ones(2),), {"kinks": "up"}, "kinks is 'up' but must be one of autodiff, reference, left, right, mean"),
        ((np.ones(2),), {"kinks": "autodiff"}, "kinks is 'autodiff' but plain is None"),
        ((np.ones(2),), {"dtypes": ("float8",)}, "dtypes has 'float8' but must have names among float64"),
        ((np.ones(2),), {"argnums": 1}, "argnums has 1 but must have positions of the 1 arguments"),
        ((np.arange(2),), {}, "no argument is floating point"),
        (("a",), {}, "x is of type str but must be an array"),
        ((np.ones(2, complex),), {}, "x is complex but must be real"),
        ((np.ones((2, 3)),), {}, "cannot be called: TypeError"),
    ],
)
def test_bad_input_gets_one_sentence(arguments, keywords, sentence):
    with pytest.raises(InputError, match=sentence):
        check_rule(lambda x: x @ x @ jnp.ones(2), *arguments, **keywords)


def test_no_floating_output_is_refused():
    with pytest.raises(InputError, match="returns no floating-point array"):
        check_rule(lambda x: x > 0, np.ones(2))


def test_names_of_arguments():
    assert Problem.of(jnp.dot, (np.ones(2), np.ones(2)), None, None, None).names == ("a", "b")
    assert Problem.of(lambda *a: a[0], (np.ones(2), np.ones(2)), None, None, None).names == ("arg0", "arg1")


def test_the_report_raises_and_is_json(rng):
    report = check_rule(rule(lambda x: x * x, lambda a, dy: (a[0] * dy,)), np.array([1.0, 2.0]), **FAST)
    with pytest.raises(AssertionError, match="scaled by 1/2"):
        report.raise_if_failed()
    found = json.loads(report.to_json())
    assert (found["failed"], found["passed"]) == (True, False)
    assert {check["verdict"] for check in found["checks"]} == {"ok", "FAILED"}
    page = report.to_html()
    assert "scaled by 1/2" in page
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    check_rule(lambda x: x * x, np.array([1.0]), **FAST).raise_if_failed()
