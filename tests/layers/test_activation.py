import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, relu, scaled_tanh, sigmoid, softmax, tanh


def test_relu_has_derivative_zero_at_zero_in_every_order():
    u = jnp.array([-1.0, -0.0, 0.0, 1.0])
    np.testing.assert_array_equal(jax.vmap(jax.grad(relu))(u), [0, 0, 0, 1])
    np.testing.assert_array_equal(relu.backward(relu.forward(u)[1], jnp.full(4, 3.0))[0], [0, 0, 0, 3])
    np.testing.assert_array_equal(jax.vmap(jax.grad(lambda u: relu(u) * jax.grad(relu)(u)))(u), [0, 0, 0, 1])


def test_nan_stays_nan():
    for f in (relu, sigmoid, tanh, scaled_tanh):
        assert jnp.isnan(f(jnp.array(jnp.nan)))


def test_the_softmax_example_of_d3():
    """Scores [2, 3, 4]: 0.0900 (misprinted as 0.0903), 0.2447, 0.6652."""
    np.testing.assert_allclose(softmax(jnp.array([2.0, 3.0, 4.0])), [0.0900, 0.2447, 0.6652], atol=5e-5)


def test_softmax_is_safe_for_large_scores_and_takes_the_last_axis():
    np.testing.assert_array_equal(softmax(jnp.array([[1000.0, 0.0], [-1000.0, -1000.0]])), [[1, 0], [0.5, 0.5]])
    assert softmax(jnp.ones((2, 3, 4))).sum(axis=-1) == pytest.approx(np.ones((2, 3)))


def test_softmax_backward_is_the_jacobian(rng):
    """[B12] against p_i ([i = k] - p_k) written as a matrix."""
    p, dp = np.array(softmax(jnp.asarray(rng.standard_normal(5)))), rng.standard_normal(5).astype(np.float32)
    np.testing.assert_allclose(softmax.backward(p, dp)[0], (np.diag(p) - np.outer(p, p)) @ dp, atol=1e-7)


def test_scaled_tanh_is_lenet5s():
    """1.7159 tanh(2u/3): f(1) = 1 and f(-1) = -1 to the digits that its constants have; it saturates at 1.7159."""
    np.testing.assert_allclose(scaled_tanh(jnp.array([-1.0, 1.0, 100.0])), [-1, 1, 1.7159], atol=1e-4)


@pytest.mark.parametrize("op", [relu, sigmoid, tanh, scaled_tanh, softmax])
def test_integers_are_refused(op):
    with pytest.raises(InputError, match=f"{op.__name__}: u is of type int32 but must be a floating-point array"):
        op(jnp.arange(3))
