"""Rules that are another than the gradient on purpose: where they differ is told, and they are never called right."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rules import FAST, lines, rule

from jaxcnn import InputError, conv2d, relu
from jaxcnn.verify import Check, Comparison, Report, check_rule, html

STRAIGHT_THROUGH = relu.with_rule(lambda y, dy: (dy,))
GUIDED = relu.with_rule(lambda y, dy: (jnp.where((y > 0) & (dy > 0), dy, 0),))


def changed(f, *args, **more):
    return check_rule(f, *args, **FAST | {"expect": "changed"} | more)


def plain_relu(x):
    return jnp.maximum(x, 0)


def first_dy(shape):
    """The cotangent of the first draw, with the seed 0."""
    return np.random.default_rng((0, 1000)).standard_normal(shape)


def test_of_a_straight_through_relu_the_entries_and_the_angle_are_told(rng):
    x = rng.standard_normal((4, 6))
    report = changed(STRAIGHT_THROUGH, x, plain=plain_relu)
    dy, negative = first_dy(x.shape), x < 0
    cosine = np.linalg.norm(dy[~negative]) / np.linalg.norm(dy)
    extent = f"in {negative.sum()} of 24 entries (cosine {cosine:.2f})"
    for oracle in ("autodiff", "differences"):
        check = lines(report, "differs")[oracle, "x"]
        assert (check.differing, check.entries) == (negative.sum(), 24)
        assert check.cosine == pytest.approx(cosine)
        assert check.note == f"{extent}; only where the input is negative"
        assert (check.value, check.truth) == (np.abs(dy[negative]).max() * np.sign(check.value), 0)
        assert dy[check.index] == check.value
    assert report.verdict == f"changed: dx differs from the true gradient {extent}"
    assert {oracle for oracle, _ in lines(report, "agrees")} == {"linear in dy", "dy = 0"}
    assert {oracle for oracle, _ in lines(report, "ok")} == {"structure", "value", "two runs", "jit", "vmap", "scan"}
    assert (report.passed, report.failed) == (False, False)
    report.raise_if_failed()
    assert str(report).endswith(report.verdict)
    assert "expect: changed: " in str(report)


def test_a_guided_relu_is_told_to_be_not_linear(rng):
    x = rng.standard_normal((4, 6))
    report = changed(GUIDED, x, plain=plain_relu)
    dropped = (x > 0) & (first_dy(x.shape) < 0)
    assert lines(report, "differs")["linear in dy", ""].note == "not linear"
    assert lines(report, "differs")["autodiff", "x"].differing == dropped.sum()
    assert report.verdict.startswith(f"changed: dx differs from the true gradient in {dropped.sum()} of 24 entries (")
    assert report.verdict.endswith("; not linear in dy")
    assert not report.failed


def test_a_clipped_gradient_that_is_not_clipped_at_the_points_is_not_linear(rng):
    x, largest = rng.standard_normal(9), 1.001 * np.abs(first_dy(9)).max()
    report = changed(rule(lambda x: x + 1, lambda a, dy: (jnp.clip(dy, -largest, largest),)), x)
    assert report.verdict == "changed: dx agrees; not linear in dy"
    offset = changed(rule(lambda x: x + 1, lambda a, dy: (dy + 1e-3,)), x)
    assert lines(offset, "differs")["dy = 0", ""].note == "gives another gradient than 0 for ['x']"
    assert offset.verdict.endswith("; not linear in dy")
    assert not offset.failed
    only_at_0 = changed(rule(lambda x: x + 1, lambda a, dy: (jnp.where(dy == 0, 1, dy),)), x)
    assert only_at_0.verdict == "changed: dx agrees; not linear in dy"


def test_feedback_alignment_of_a_convolution_differs_in_dx_alone(rng):
    x, weight, bias = (rng.standard_normal(shape) for shape in ((2, 5, 4, 3), (3, 2, 3, 4), (4,)))
    feedback = rng.standard_normal(weight.shape)

    def backward(residuals, dy, **static):
        _, dweight, dbias = conv2d.backward(residuals, dy, **static)
        random = jnp.asarray(feedback, weight.dtype)
        return conv2d.backward((residuals[0], random, bias), dy, **static)[0], dweight, dbias

    aligned = conv2d.with_rule(backward)
    report = changed(aligned, x, weight, bias, plain=lambda x, weight, bias: conv2d.forward(x, weight, bias)[0])
    with jax.enable_x64(True):
        dy = first_dy(conv2d(x, weight, bias).shape)
        ours, true = (np.asarray(conv2d.backward((x, w, bias), dy)[0]).ravel() for w in (feedback, weight))
    cosine = ours @ true / np.linalg.norm(ours) / np.linalg.norm(true)
    assert report.verdict == (
        f"changed: dx differs from the true gradient in 120 of 120 entries (cosine {cosine:.2f}), "
        "dweight agrees, dbias agrees"
    )
    assert {argument for oracle, argument in lines(report, "agrees") if oracle == "autodiff"} == {"weight", "bias"}
    assert not report.failed


def test_a_right_rule_is_not_called_right(rng):
    report = changed(relu, rng.standard_normal((4, 6)), plain=plain_relu)
    assert report.verdict == "changed: dx agrees; at the points tried nothing was found changed"
    assert (report.passed, report.failed) == (False, False)


@pytest.mark.parametrize(
    ("backward", "oracle", "argument", "sentence"),
    [
        (lambda a, dy: (dy.sum(),), "structure", "", "shapes do not match"),
        (lambda a, dy: (dy.astype(jnp.float32),), "structure", "x", "the gradient is float32(3,) but must be float64"),
        (lambda a, dy: (dy.at[1].set(jnp.nan),), "autodiff", "x", "not finite in 1 of 3 entries"),
        (lambda a, dy: (dy / jnp.linalg.norm(dy),), "dy = 0", "", "gives another gradient than 0"),
        (lambda a, dy: (dy * (1 + isinstance(dy, jax.core.Tracer)),), "jit", "", "is not eager"),
        (lambda a, dy: (dy * (1 + ("Batch" in type(dy).__name__)),), "vmap", "", "is not a loop over the samples"),
    ],
    ids=["shape", "dtype", "nan", "nan at dy = 0", "jit", "vmap"],
)
def test_what_does_not_ask_for_the_gradient_fails(backward, oracle, argument, sentence):
    report = changed(rule(plain_relu, backward), np.array([1.0, -2.0, 0.5]), plain=plain_relu)
    assert sentence in lines(report)[oracle, argument].note
    assert report.verdict.startswith("FAILED: ")
    assert report.expect == "changed"
    with pytest.raises(AssertionError, match="FAILED"):
        report.raise_if_failed()


def test_another_value_fails(rng):
    report = changed(STRAIGHT_THROUGH, rng.standard_normal(5), plain=lambda x: jnp.maximum(x, 0.01))
    assert set(lines(report)) == {("value", "f and plain")}


def test_a_kink_hides_no_other_entry():
    x = np.array([1.5, 0.0, -2.0])
    report = changed(STRAIGHT_THROUGH, x, plain=plain_relu)
    for oracle in ("autodiff", "differences"):
        check = next(check for check in report.checks if check.oracle == oracle)
        assert (check.verdict, check.index, check.differing, check.entries) == ("differs", (2,), 1, 2)
    (kink,) = lines(report, "not checked").values()
    assert kink.reason.startswith("kink at (1,): ")
    assert "(2,)" not in kink.reason
    assert report.verdict.endswith(f"; 1 of {len(report.checks)} things were not checked")
    other = relu.with_rule(lambda y, dy: (jnp.where(y >= 0, dy, 0),), lambda x: (plain_relu(x), x))
    at_zero = changed(other, x, kinks="left")
    assert at_zero.verdict == "changed: du differs from the derivative stated at kinks"
    assert lines(at_zero, "differs")["kinks", "u"].note.endswith("; not that of left")


def test_a_reference_is_told_apart_from_the_gradient(rng):
    x = rng.standard_normal(7)
    own = changed(STRAIGHT_THROUGH, x, reference=lambda x, dy: dy)
    assert ("reference", "u") in lines(own, "agrees")
    assert own.verdict.startswith("changed: du differs from the true gradient in ")
    twice = changed(relu, x, reference=lambda x, dy: 2 * dy * (x > 0))
    assert twice.verdict.startswith("changed: du differs from the reference in ")
    assert lines(twice, "differs")["reference", "u"].note.endswith("(cosine 1.00); scaled by 1/2")
    both = changed(STRAIGHT_THROUGH, x, reference=lambda x, dy: 2 * dy)
    assert ("reference", "u") in lines(both, "differs")
    assert both.verdict.startswith("changed: du differs from the true gradient in ")
    narrow = changed(relu, x, reference=lambda x, dy: dy[:3])
    assert lines(narrow)["reference", "u"].note == "the shape is (7,) but must be (3,)"


def test_where_the_gradient_is_not_finite_a_finite_rule_differs():
    root = rule(jnp.sqrt, lambda a, dy: (jnp.where(a[0] > 0, dy / jnp.sqrt(jnp.where(a[0] > 0, a[0], 1)) / 2, 0),))
    report = changed(root, np.array([1.0, 0.0, 2.0]), plain=jnp.sqrt, kinks="autodiff")
    check = lines(report, "differs")["autodiff", "x"]
    assert (check.differing, check.note) == (1, "in 1 of 3 entries; the oracle is not finite")
    assert not report.failed


def test_other_dtypes_are_compared_with_the_rule_in_float64(rng):
    x = rng.standard_normal((4, 6))
    for kinks in (None, "autodiff"):
        more = {"kinks": kinks, "dtypes": ("float64", "float32", "bfloat16")}
        report = changed(STRAIGHT_THROUGH, x, plain=plain_relu, **more)
        assert {("float32", "x"), ("bfloat16", "x")} <= set(lines(report, "agrees"))
        assert not any(check.oracle == "slope" for check in report.checks)

    def of_dtype(a, dy):
        return (dy * {"float64": 1, "float32": 2, "bfloat16": jnp.nan}[dy.dtype.name],)

    several = changed(rule(lambda x: x + 1, of_dtype), x, dtypes=("float64", "float32"))
    assert lines(several, "differs")["float32", "x"].note == "in 24 of 24 entries (cosine 1.00); scaled by 2"
    assert several.verdict == "changed: dx agrees"
    assert not several.failed
    assert ("bfloat16", "x") in lines(changed(rule(lambda x: x + 1, of_dtype), x, dtypes=("bfloat16",)))


def test_in_a_large_argument_it_differs_without_a_count(rng):
    x = rng.standard_normal(500)
    assert changed(STRAIGHT_THROUGH, x).verdict == "changed: du differs from the true gradient"
    counted = changed(STRAIGHT_THROUGH, x, plain=plain_relu).verdict
    assert counted.startswith(f"changed: dx differs from the true gradient in {(x < 0).sum()} of 500 entries (")


def test_the_report_is_json(rng):
    x = rng.standard_normal((2, 3))
    found = json.loads(changed(STRAIGHT_THROUGH, x, plain=plain_relu).to_json())
    assert (found["passed"], found["failed"]) == (False, False)
    assert found["verdict"].startswith("changed: dx differs")
    assert {check["verdict"] for check in found["checks"]} == {"ok", "agrees", "differs"}
    (check,) = (check for check in found["checks"] if check["oracle"] == "autodiff")
    assert (check["differing"], check["entries"], 0 < check["cosine"] < 1) == ((x < 0).sum(), 6, True)
    (linear,) = (check for check in found["checks"] if check["oracle"] == "linear in dy")
    assert linear["cosine"] is None
    right = json.loads(check_rule(relu, x, **FAST).to_json())
    assert not any("cosine" in check for check in right["checks"])


def test_nothing_on_its_page_is_green(rng):
    x, green, red = rng.standard_normal((2, 3)), html.COLOURS["ok"], html.COLOURS["FAILED"]
    page = changed(STRAIGHT_THROUGH, x, plain=plain_relu).to_html()
    assert "changed: dx differs from the true gradient" in page
    assert "only where the input is negative" in page
    assert "The difference of each entry" in page
    assert green not in page
    assert red not in page
    assert green not in changed(relu, x, plain=plain_relu).to_html()
    assert red in changed(rule(plain_relu, lambda a, dy: (dy * jnp.nan,)), x).to_html()
    assert green in check_rule(relu, x, **FAST).to_html()


def test_what_was_not_compared_is_said():
    reason = Check("f", "differences", "", "x", 0, 0, reason="every line that was probed has a kink")
    agrees = Comparison("f", "differences", "", "w", 0, 1e-8)
    report = Report((reason, agrees), expect="changed")
    assert report.verdict == (
        "changed: dx was not compared, dw agrees; at the points tried nothing was found changed; "
        "1 of 2 things were not checked"
    )


def test_another_expectation_is_refused():
    with pytest.raises(InputError, match=r"^check_rule: expect is 'wrong' but must be one of right, changed$"):
        check_rule(relu, np.ones(2), expect="wrong")
