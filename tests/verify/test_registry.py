"""The checks can fail: every fault below is a trap that others fell into, and each must be seen."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import Dense, InputError, SoftmaxCrossEntropy, conv2d
from jaxcnn.verify import OPERATIONS, Check, check_network, check_operations, find_operation, rows, table
from jaxcnn.verify.cases import Draw
from jaxcnn.verify.tolerances import relative_error, tolerance


def spoiled(op, backward):
    """The operation whose explicit backward is another than its rule."""
    other = op.with_rule(op.backward)
    other.backward = backward
    return other


def test_an_explicit_backward_that_is_not_the_rule_is_caught(monkeypatch):
    good = OPERATIONS["relu"]
    twice = spoiled(good.op, lambda y, dy: (2 * good.op.backward(y, dy)[0],))
    wrong = dataclasses.replace(good, op=twice, cases=good.cases[:1])
    monkeypatch.setitem(OPERATIONS, "relu", wrong)
    (checks,) = check_operations(["relu"])
    assert {(c.oracle, c.note[:13]) for c in checks if not c.passed} == {("explicit", "scaled by 1/2")}


def test_an_explicit_backward_with_a_gradient_for_labels_is_caught(monkeypatch):
    good = OPERATIONS["softmax_cross_entropy"]

    def wrong(residuals, dy, **hyper):
        return good.op.backward(residuals, dy, **hyper)[0], jnp.zeros(5)

    wrong = dataclasses.replace(good, op=spoiled(good.op, wrong), cases=good.cases[:1])
    monkeypatch.setitem(OPERATIONS, "softmax_cross_entropy", wrong)
    (checks,) = check_operations(["softmax_cross_entropy"])
    assert [c.oracle for c in checks if not c.passed] == ["explicit"]


def test_the_gradient_check_of_a_network_sees_a_fault(monkeypatch):
    network = Dense(3)
    params = network.init(jax.random.key(0), (4,))
    arguments = (SoftmaxCrossEntropy(), params, jnp.ones((2, 4)), jnp.array([0, 2]), jax.random.key(1))
    assert check_network(network, *arguments) < 1e-14

    class Wrong(Dense):
        def backward(self, residuals, dy):
            dx, grads = super().backward(residuals, dy)
            return dx, grads | {"bias": 1.001 * grads["bias"]}

    assert check_network(Wrong(3), *arguments) == pytest.approx(1e-3)


def test_the_reference_sees_a_fault(monkeypatch):
    from reference.__main__ import check_case

    def not_rotated(residuals, dy, **hyper):
        x, weight, bias = residuals
        return conv2d.backward((x, weight[::-1, ::-1], bias), dy, **hyper)

    monkeypatch.setitem(
        OPERATIONS, "conv2d", dataclasses.replace(OPERATIONS["conv2d"], op=spoiled(conv2d, not_rotated))
    )
    checks = check_case("conv2d", OPERATIONS["conv2d"].cases[0], 0)
    assert {(c.oracle, c.argument) for c in checks if not c.passed} == {
        (oracle, "x") for oracle in ("reference", "autodiff", "differences")
    }


def test_x64_is_left_as_it_was():
    assert jnp.ones(1).dtype == jnp.float32
    list(check_operations(["relu"]))
    assert jnp.ones(1).dtype == jnp.float32


def test_the_table_shows_failures():
    checks = [Check("conv2d", "autodiff", "a", "dx", 1e-16, 1e-10), Check("conv2d", "autodiff", "b", "dx", 0.5, 1e-10)]
    assert [(row.cases, row.passed, row.error) for row in rows(checks)] == [(2, False, 0.5)]
    assert "conv2d                     2    5.0e-01  FAILED" in table(checks)
    assert "FAILED  conv2d(b): dx against autodiff: relative error 5.0e-01, allowed 1.0e-10" in table(checks)


def test_nan_never_passes():
    assert relative_error([1.0, float("nan")], [1.0, 2.0]) == float("inf")
    assert relative_error([1.0], [1.0, 2.0]) == float("inf")
    assert not Check("a", "b", "c", "d", relative_error([float("nan")], [float("nan")]), 1.0).passed


def test_tolerances_follow_eps_and_the_length_of_the_sum():
    assert tolerance(jnp.bfloat16, 4) == 2 * 2**-7 * 3
    assert tolerance(jnp.float32, 100) / tolerance(jnp.float32, 1) == 5.5
    assert tolerance(jnp.float32, 10**6) < 1e-2 * 0.1


def test_probes_of_operations_with_kinks_stay_away_from_them():
    import numpy as np

    values = np.sort(Draw((2, 7, 5, 3), "apart")(np.random.default_rng(0)).ravel())
    assert np.diff(values).min() >= 0.02 - 1e-12
    assert np.abs(values).min() >= 0.01 - 1e-12


def test_an_unknown_operation_is_named():
    with pytest.raises(InputError, match="op is 'conv3d' but must be one of conv2d, conv_transpose2d, max_pool2d"):
        find_operation("conv3d")


def test_the_command_of_the_reference(capsys, monkeypatch):
    from reference.__main__ import main

    monkeypatch.setattr(sys, "argv", ["reference", "--op", "relu"])
    assert main() == 0
    assert (
        "operation              cases      value  reference   autodiff differences  verdict" in capsys.readouterr().out
    )
    monkeypatch.setattr(sys, "argv", ["reference", "--op", "nope"])
    assert main() == 2
    assert "op is 'nope' but must be one of" in capsys.readouterr().err
