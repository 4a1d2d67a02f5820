"""`check_rule` for anybody's rule: what it says of right ones, of wrong ones, and of bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rules import FAST, rule

from jaxcnn import InputError
from jaxcnn.verify import check_rule
from jaxcnn.verify.context import words
from jaxcnn.verify.problem import Problem


def test_an_exception_is_told_to_its_end_on_one_line():
    two = rule(lambda x, y: x * y, lambda a, dy: (dy, dy))
    with pytest.raises(InputError, match=r"Binding failed with the error: missing a required argument: 'y'$"):
        check_rule(two, np.ones(2))
    long = words(ValueError("a\n\n" + 100 * "word "))
    assert long.startswith("ValueError: a word word ")
    assert long.endswith(" word ...")
    assert len(long) <= 400


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


def test_argnums_choose():
    f = rule(lambda x, y: x * y, lambda a, dy: (a[1] * dy, 2 * a[0] * dy))
    arguments = np.array([1.0, 2.0]), np.array([3.0, 5.0])
    assert not check_rule(f, *arguments, argnums=0, **FAST).failed
    assert check_rule(f, *arguments, argnums=(1,), **FAST).failed


@pytest.mark.parametrize(
    ("backward", "oracle", "sentence"),
    [
        (lambda a, dy: (dy.sum(),), "structure", "shapes do not match"),
        (lambda a, dy: 2 * a[0] * dy, "structure", "PyTreeDef(*) for primal input structure PyTreeDef((*,))."),
        (lambda a, dy: ((2 * a[0] * dy).astype(jnp.float32),), "structure", "the gradient is float32(3,) but must be"),
        (lambda a, dy: (2 * a[0] * dy + 1e-3,), "dy = 0", "gives another gradient than 0 for ['x']"),
        (lambda a, dy: (2 * a[0] * jnp.clip(dy, -0.1, 0.1),), "linear in dy", ""),
        (lambda a, dy: (jax.lax.stop_gradient(2 * a[0]) * dy,), "grad of grad", "a second derivative is not that"),
    ],
)  # fmt: skip
def test_structure_linearity_and_second_derivatives(backward, oracle, sentence):
    report = check_rule(rule(lambda x: x * x, backward), np.array([1.0, -2.0, 0.5]), **FAST)
    found = [check for check in report.checks if check.oracle == oracle and check.verdict == "FAILED"]
    assert found
    assert sentence in found[0].note


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
