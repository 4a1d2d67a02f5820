"""The smooth units, and the two with kinks that are newer: values, limits, kinks, PyTorch's opinion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_autograd import assert_same_as_torch

from jaxcnn import (
    ELU,
    GELU,
    GELUTanh,
    HardSwish,
    InputError,
    LeakyReLU,
    SiLU,
    Softplus,
    elu,
    gelu,
    gelu_tanh,
    hard_swish,
    leaky_relu,
    silu,
    softplus,
)
from jaxcnn.verify.tolerances import relative_error, tolerance

SPECS = {
    leaky_relu: LeakyReLU(),
    elu: ELU(),
    gelu: GELU(),
    gelu_tanh: GELUTanh(),
    silu: SiLU(),
    softplus: Softplus(),
    hard_swish: HardSwish(),
}
THEIRS = {
    leaky_relu: (lambda F, u: F.leaky_relu(u, 0.3), {"slope": 0.3}),
    elu: (lambda F, u: F.elu(u, 1.7), {"alpha": 1.7}),
    gelu: (lambda F, u: F.gelu(u), {}),
    gelu_tanh: (lambda F, u: F.gelu(u, approximate="tanh"), {}),
    silu: (lambda F, u: F.silu(u), {}),
    softplus: (lambda F, u: F.softplus(u), {}),
    hard_swish: (lambda F, u: F.hardswish(u), {}),
}
every = pytest.mark.parametrize("op", SPECS, ids=lambda op: op.name)


@every
def test_value_and_gradient_are_torchs(op, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    theirs, static = THEIRS[op]
    u = rng.uniform(-6, 6, (3, 7, 2))
    assert_same_as_torch(op, lambda u: theirs(torch.nn.functional, u), [u], **static)


@every
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_far_out_values_and_both_derivatives_are_the_limits(op, dtype):
    """At ±1e4 and ±1e30, where e^|u|, u^2 or u^3 overflow, and value and gradient at infinity."""
    below = {leaky_relu: 0.01}.get(op, 0)
    u = jnp.array([-1e30, -1e4, 1e4, 1e30], dtype)
    left = {leaky_relu: u[:2] * jnp.asarray(0.01, dtype), elu: -1}.get(op, 0)
    np.testing.assert_array_equal(op(u)[:2], left)
    np.testing.assert_array_equal(op(u)[2:], u[2:])
    slopes = jnp.asarray([below, below, 1, 1], dtype)
    np.testing.assert_array_equal(jax.vmap(jax.grad(op))(u), slopes)
    np.testing.assert_array_equal(jax.vmap(jax.grad(jax.grad(op)))(u), 0)
    ends = jnp.array([-jnp.inf, jnp.inf], dtype)
    np.testing.assert_array_equal(op(ends), [{leaky_relu: -jnp.inf, elu: -1}.get(op, 0), jnp.inf])
    np.testing.assert_array_equal(jax.vmap(jax.grad(op))(ends), slopes[1:3])


@every
def test_values_keep_their_digits(op):
    """In float32 against float64, entry by entry: 1 + tanh, 1 + erf, log(1 + e^u) and e^u - 1 would cancel."""
    u = np.array([-9.0, -7.0, -5.0, -1e-6, 0.3, 5.0, 9.0], np.float32)
    with jax.enable_x64(True):
        truth = np.array(op(jnp.asarray(u, jnp.float64)))
    y = np.asarray(op(jnp.asarray(u)))
    worst = max(relative_error(a, b) for a, b in zip(y, truth, strict=True))
    # erfc and exp of v magnify its rounding by |v|: 40 in Phi(-9), 2 sqrt(2/pi) (9 + 0.0447 9^3) = 66 in gelu_tanh
    assert worst < 70 * tolerance(jnp.float32, 1)


@every
def test_nan_stays_nan_and_integers_are_refused(op):
    assert jnp.isnan(op(jnp.array(jnp.nan)))
    with pytest.raises(InputError, match=f"{op.name}: u is of type int32 but must be a floating-point array"):
        op(jnp.arange(3))
    _, residuals = op.forward(jnp.ones(3))
    with pytest.raises(InputError, match=rf"{op.name}.backward: dy has shape \(2,\) but must have shape \(3,\)"):
        op.backward(residuals, jnp.ones(2))


def test_the_derivatives_at_the_kinks_are_those_that_are_stated():
    """And those of automatic differentiation of the forward: 0 and 1 where hard swish is straight, else the leak's."""
    for op, static, at, expected in (
        (leaky_relu, {"slope": 0.3}, [-0.0, 0.0], [0.3, 0.3]),
        (elu, {"alpha": 0.3}, [-0.0, 0.0], [0.3, 0.3]),
        (hard_swish, {}, [-3.0, 3.0], [0.0, 1.0]),
    ):
        u = jnp.array(at)
        expected = np.float32(expected)
        np.testing.assert_array_equal(op.backward(op.forward(u, **static)[1], jnp.ones(2), **static)[0], expected)
        for f in (op, lambda u, op=op, **static: op.forward(u, **static)[0]):
            np.testing.assert_array_equal(jax.vmap(jax.grad(lambda u, f=f, s=static: f(u, **s)))(u), expected)


def test_a_gelu_is_u_times_the_share_below_u():
    """Phi(1) = 0.8413447 and, to 4 digits, the approximation's 0.8411920."""
    assert float(gelu(1.0)) == pytest.approx(0.8413447, abs=1e-7)
    assert float(gelu_tanh(1.0)) == pytest.approx(0.8411920, abs=1e-7)


@pytest.mark.parametrize(("op", "spec", "name"), [(leaky_relu, LeakyReLU, "slope"), (elu, ELU, "alpha")])
def test_a_slope_or_an_alpha_out_of_range_is_refused(op, spec, name):
    for value in (0, -0.1, jnp.inf, jnp.nan, "a"):
        for call in (lambda v=value: op(jnp.ones(2), **{name: v}), lambda v=value: spec(v)):
            with pytest.raises(InputError) as error:
                call()
            assert str(error.value) == f"{op.name}: {name} is {value!r} but must be a finite number above 0"


@pytest.mark.parametrize(("op", "name"), [(leaky_relu, "slope"), (elu, "alpha")])
def test_a_number_of_numpy_leaves_the_dtype_alone(op, name):
    u, static = jnp.array([-1.0, 2.0], jnp.bfloat16), {name: np.float64(0.5)}
    y, residuals = op.forward(u, **static)
    assert y.dtype == op.backward(residuals, y, **static)[0].dtype == jnp.bfloat16


@every
def test_the_spec_is_the_operation_with_its_static_arguments(op, rng):
    u = jnp.asarray(rng.standard_normal((2, 3)), jnp.float32)
    for spec in (SPECS[op], *{leaky_relu: (LeakyReLU(0.2),), elu: (ELU(0.2),)}.get(op, ())):
        static = {name: getattr(spec, name) for name in op.static}
        y, residuals = spec.forward({}, u)
        np.testing.assert_array_equal(y, op(u, **static))
        np.testing.assert_array_equal(spec.backward(residuals, y)[0], op.backward(residuals, y, **static)[0])
