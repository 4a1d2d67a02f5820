"""The checks can fail: every fault below is a trap that others fell into, and each must be seen."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import pytest

import jaxcnn.verify.cases
from jaxcnn import Dense, InputError, SoftmaxCrossEntropy, max_pool2d_forward
from jaxcnn.geometry import resolve_pool
from jaxcnn.layers import conv, pool
from jaxcnn.verify import OPERATIONS, Check, check_network, check_operations, find, rows, table
from jaxcnn.verify.cases import Draw
from jaxcnn.verify.tolerances import relative_error, tolerance


def spoil(index, change):
    """A backward function of which one gradient is changed."""

    def spoiled(backward):
        def wrong(residuals, dy, **hyper):
            grads = list(backward(residuals, dy, **hyper))
            grads[index] = None if grads[index] is None else change(grads[index], residuals, dy, hyper)
            return tuple(grads)

        return wrong

    return spoiled


def swapped_padding(backward):
    def wrong(residuals, dy, **hyper):
        if isinstance(hyper.get("padding"), tuple):
            (top, bottom), (left, right) = hyper["padding"]
            hyper = hyper | {"padding": ((bottom, top), (right, left))}
        return backward(residuals, dy, **hyper)

    return wrong


def assigned_instead_of_added(backward):
    def wrong(residuals, dy, *, window_size, **hyper):
        total = backward(residuals, dy, window_size=window_size, **hyper)[0]
        count = backward(residuals, jnp.ones_like(dy), window_size=window_size, **hyper)[0]
        return (jnp.where(count > 1, total / count, total),)

    return wrong


def without_stride(residuals, dy, **hyper):
    """(3) of the convolution with dy not dilated by the stride: right for stride 1."""
    x, weight, _ = residuals
    dx, _, dbias = conv.conv2d_backward(residuals, dy, **hyper)
    wrong = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), (1, 1), "VALID", dimension_numbers=conv.LABELS
    ).transpose(1, 2, 0, 3)
    return dx, wrong[: weight.shape[0], : weight.shape[1]], dbias


def ungrouped_order(residuals, dy, **hyper):
    """The channels of dx in the order of a kernel whose groups were not kept apart."""
    dx, dweight, dbias = conv.conv2d_backward(residuals, dy, **hyper)
    N, H, W, C = dx.shape
    groups = hyper["groups"]
    return dx.reshape(N, H, W, groups, C // groups).swapaxes(3, 4).reshape(dx.shape), dweight, dbias


def every_tie(residuals, dy, *, window_size, stride, padding):
    """(3) of max pooling with the full gradient for every entry that equals the maximum; x is probed as "tied"."""
    case = OPERATIONS["max_pool2d"].cases[0]
    x = jnp.asarray(case.draw(0)[0], dy.dtype)
    y, _ = max_pool2d_forward(x, window_size, stride=stride, padding=padding)
    window = resolve_pool("max_pool2d", x.shape[1:3], window_size, stride=stride, padding=padding)
    dx = jnp.zeros_like(x)
    for position in window.taps:
        at = [pool._placed_at(values, window, position) for values in (y, dy, jnp.ones_like(dy))]
        dx += jnp.where((x == at[0]) & (at[2] > 0), at[1], 0)
    return (dx,)


MUTANTS = {  # fault: operation, change of its backward, case that shows it (0 unless given)
    "kernel not rotated": ("conv2d", lambda b: lambda r, dy, **h: b((r[0], r[1][::-1, ::-1], r[2]), dy, **h)),
    "dy not dilated by the stride": ("conv2d", lambda b: without_stride, 2),
    "padding lo and hi swapped": ("conv2d", swapped_padding, 3),
    "groups not kept apart": ("conv2d", lambda b: ungrouped_order, 8),
    "dilated dx shifted": (
        "conv2d", lambda b: lambda r, dy, **h: (jnp.roll(b(r, dy, **h)[0], 1, 1), *b(r, dy, **h)[1:]), 7,
    ),
    "bias never learned": ("conv2d", spoil(2, lambda g, r, dy, h: 0 * g)),
    "bias summed over rows alone": ("conv2d", spoil(2, lambda g, r, dy, h: dy.sum((0, 1))[0])),
    "sum over the batch missing": (
        "conv2d", lambda b: lambda r, dy, **h: (b(r, dy, **h)[0], *b((r[0][:1], *r[1:]), dy[:1], **h)[1:]),
    ),
    "batch averaged twice": ("dense", spoil(1, lambda g, r, dy, h: g / len(dy))),
    "broadcast bias not summed": ("dense", spoil(2, lambda g, r, dy, h: dy)),
    "dweight transposed": ("dense", spoil(1, lambda g, r, dy, h: g.T)),
    "overlapping windows assigned": ("max_pool2d", assigned_instead_of_added, 1),
    "sliced from the unpadded input": ("max_pool2d", spoil(0, lambda g, r, dy, h: jnp.roll(g, 1, (1, 2))), 3),
    "mean not divided": ("avg_pool2d", spoil(0, lambda g, r, dy, h: 4 * g)),
    "border wrong": ("avg_pool2d", spoil(0, lambda g, r, dy, h: g.at[0, 0, 0, 0].mul(1.001))),
    "sign of relu": ("relu", spoil(0, lambda g, r, dy, h: dy - g)),
    "y instead of y (1 - y)": ("sigmoid", spoil(0, lambda g, r, dy, h: dy * r)),
    "1 - y": ("tanh", spoil(0, lambda g, r, dy, h: dy * (1 - r))),
    "scale forgotten": ("scaled_tanh", spoil(0, lambda g, r, dy, h: dy * (1.7159 - r * r / 1.7159))),
    "a new draw of the position": (
        "stochastic_pool2d", lambda b: lambda r, dy, **h: b((jnp.full_like(r[0], 1), r[1]), dy, **h),
    ),
    "p instead of (2 a - y) / sum a": (
        "expected_pool2d", lambda b: lambda r, dy, **h: (b(r, dy, **h)[0] - b((0 * r[0], *r[1:]), dy, **h)[0],),
    ),
    "the median of an even window owned by one entry": (
        "median_pool2d", lambda b: lambda r, dy, **h: b((r[0].at[1].set(r[0][0]), r[1]), dy, **h),
    ),
    "alpha's gradient for c's": ("combine_maps", spoil(2, lambda g, r, dy, h: jnp.einsum("npqi,npqj->ij", r[2], dy))),
    "alpha not transposed into dx": (
        "combine_maps", lambda b: lambda r, dy, **h: (b((*r[:3], r[3][:, ::-1]), dy, **h)[0], *b(r, dy, **h)[1:]),
    ),
    "sign forgotten": ("l1_penalty", spoil(0, lambda g, r, dy, h: dy * r)),
    "without H": ("entropy_penalty", spoil(0, lambda g, r, dy, h: -dy * jnp.exp(r[0]) * r[0])),
    "beta forgotten": ("subsample2d", lambda b: lambda r, dy, **h: b((r[0], jnp.ones_like(r[1]), r[2]), dy, **h)),
    "dbeta without down": ("subsample2d", spoil(1, lambda g, r, dy, h: dy.sum((0, 1, 2)))),
    "diagonal only": ("softmax", spoil(0, lambda g, r, dy, h: dy * r * (1 - r))),
    "map by map": ("flatten", spoil(0, lambda g, r, dy, h: g.swapaxes(1, -1).reshape(g.shape))),
    "not divided by 1 - rate": ("dropout", spoil(0, lambda g, r, dy, h: g * (1 - h["rate"])), 1),
    "a new draw": (
        "dropout",
        lambda b: lambda keep, dy, **h: b(jax.random.bernoulli(jax.random.key(9), 1 - h["rate"], dy.shape), dy, **h), 1,
    ),
    "1/N twice": ("squared_error", spoil(0, lambda g, r, dy, h: g / len(g))),
    "targets get the outputs' gradient": ("squared_error", spoil(1, lambda g, r, dy, h: -g)),
    "p - t for any t": (
        "softmax_cross_entropy", spoil(0, lambda g, r, dy, h: dy * (jnp.exp(r[0]) - r[1]) / len(g)), 4,
    ),
    "wrong dtype": ("relu", spoil(0, lambda g, r, dy, h: g.astype(jnp.float32))),
}  # fmt: skip


@pytest.mark.parametrize("fault", MUTANTS)
def test_a_wrong_backward_is_caught(monkeypatch, fault):
    name, change, *case = MUTANTS[fault]
    good = OPERATIONS[name]
    cases = (good.cases[case[0] if case else 0],)
    bad = dataclasses.replace(good, backward=change(good.backward), cases=cases)
    monkeypatch.setitem(OPERATIONS, name, bad)
    failed = {check.oracle for checks in check_operations([name]) for check in checks if not check.passed}
    assert {"autodiff", "differences"} <= failed


def test_the_full_gradient_for_every_tie_is_caught(monkeypatch):
    good = OPERATIONS["max_pool2d"]
    cases = tuple(case for case in good.cases if not case.smooth)
    monkeypatch.setitem(OPERATIONS, "max_pool2d", dataclasses.replace(good, backward=every_tie, cases=cases))
    (checks,) = check_operations(["max_pool2d"])
    assert {check.oracle for check in checks if not check.passed} >= {"autodiff", "rule"}


def test_a_rule_wired_to_another_backward_is_caught(monkeypatch):
    good = OPERATIONS["relu"]
    monkeypatch.setitem(OPERATIONS, "relu", dataclasses.replace(good, op=lambda u: jnp.where(u > 0, 2 * u, 0 * u)))
    failed = {check.oracle for checks in check_operations(["relu"]) for check in checks if not check.passed}
    assert failed == {"rule"}


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
        return conv.conv2d_backward((x, weight[::-1, ::-1], bias), dy, **hyper)

    monkeypatch.setitem(
        jaxcnn.verify.cases.OPERATIONS, "conv2d", dataclasses.replace(OPERATIONS["conv2d"], backward=not_rotated)
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
    with pytest.raises(InputError, match="op is 'conv3d' but must be one of conv2d, max_pool2d"):
        find("conv3d")


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
