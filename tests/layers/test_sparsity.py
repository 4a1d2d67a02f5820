import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import effective_inputs, entropy_penalty, l1_penalty
from jaxcnn import softmax as softmax_of_rows


def l1_of_c(c):
    """[B11] as written, through both hand-written rules: sum |alpha_ij| with alpha the softmax over i."""
    return l1_penalty(softmax_of_rows(c.T))


@pytest.mark.usefixtures("float64")
def test_l1_of_softmax_weights_is_constant_and_its_gradient_exactly_zero(rng):
    """sum_i |alpha_ij| = 1 always. Where alpha has no rounding error neither has the zero."""
    c = jnp.asarray(rng.standard_normal((5, 3)))
    assert float(l1_of_c(c)) == pytest.approx(3, rel=1e-15)
    alpha = np.asarray(softmax_of_rows(c.T)).T
    as_written = abs(alpha) - alpha * abs(alpha).sum(axis=0)
    assert abs(as_written).max() < 1e-15
    assert abs(jax.grad(l1_of_c)(c)).max() < 1e-15
    assert not jax.grad(l1_of_c)(jnp.zeros((4, 3))).any()


def test_l1_of_other_weights_is_not_constant():
    np.testing.assert_array_equal(jax.grad(l1_penalty)(jnp.array([2.0, -3.0, 0.0])), [1, -1, 0])


@pytest.mark.usefixtures("float64")
def test_the_gradient_of_the_entropy_is_b11_and_zero_only_where_all_inputs_count_alike(rng):
    c = rng.standard_normal((4, 3))
    alpha = np.exp(c) / np.exp(c).sum(axis=0)
    H = -(alpha * np.log(alpha)).sum(axis=0)
    E, residuals = entropy_penalty.forward(jnp.asarray(c))
    assert float(E) == pytest.approx(H.sum(), rel=1e-14)
    (dc,) = entropy_penalty.backward(residuals, 2.0)
    np.testing.assert_allclose(dc, -2 * alpha * (np.log(alpha) + H), rtol=1e-10)
    np.testing.assert_allclose(effective_inputs(jnp.asarray(c)), np.exp(H), rtol=1e-14)
    assert abs(jax.grad(entropy_penalty)(jnp.zeros((4, 3)))).max() < 1e-15
    np.testing.assert_allclose(effective_inputs(jnp.zeros((4, 3))), 4, rtol=1e-14)


def test_the_entropy_is_safe_where_alpha_underflows():
    c = jnp.array([[0.0], [-200.0]])
    assert entropy_penalty(c) == 0
    assert not jax.grad(entropy_penalty)(c).any()
