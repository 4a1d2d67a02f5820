import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import AvgPool2d, InputError, Subsample2d, subsample2d, summary


@pytest.mark.usefixtures("float64")
def test_the_gradients_are_b4_and_b9_as_written(rng):
    x, beta, bias = rng.standard_normal((1, 4, 6, 2)), rng.standard_normal(2), rng.standard_normal(2)
    delta = rng.standard_normal((1, 2, 3, 2))
    _, residuals = subsample2d.forward(x, beta, bias, 2)
    dx, dbeta, dbias = subsample2d.backward(residuals, jnp.asarray(delta), window_size=2)
    for j in range(2):
        down = x[0, :, :, j].reshape(2, 2, 3, 2).sum(axis=(1, 3))
        np.testing.assert_allclose(dx[0, :, :, j], beta[j] * np.kron(delta[0, :, :, j], np.ones((2, 2))), rtol=1e-13)
        np.testing.assert_allclose(dbeta[j], (delta[0, :, :, j] * down).sum(), rtol=1e-12)
        np.testing.assert_allclose(dbias[j], delta[0, :, :, j].sum(), rtol=1e-12)


def test_rows_beyond_the_last_block_count_for_nothing():
    x = jnp.ones((1, 5, 3, 1))
    y, residuals = subsample2d.forward(x, jnp.ones(1), jnp.zeros(1), 2)
    np.testing.assert_array_equal(y[0, :, :, 0], [[4], [4]])
    dx, _, _ = subsample2d.backward(residuals, y, window_size=2)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[4, 4, 0]] * 4 + [[0, 0, 0]])


def test_it_starts_as_mean_pooling_and_counts_two_parameters_for_each_map(rng):
    layer, x = Subsample2d((2, 3)), jnp.asarray(rng.standard_normal((2, 4, 6, 5)).astype(np.float32))
    params = layer.init(jax.random.key(0), x.shape[1:])
    np.testing.assert_allclose(layer.apply(params, x), AvgPool2d((2, 3)).apply({}, x), rtol=1e-5, atol=1e-6)
    total = summary(Subsample2d(2), (28, 28, 6)).total
    assert (total.parameters, total.multiply_adds, total.output_shape) == (12, 14 * 14 * 6, (14, 14, 6))


def test_errors_are_one_sentence():
    x = jnp.ones((1, 4, 4, 3))
    for call, message in (
        (
            lambda: subsample2d(x, jnp.ones(2), jnp.ones(3), 2),
            "subsample2d: beta has shape (2,) but must have shape (3,)",
        ),
        (
            lambda: subsample2d(x, jnp.ones(3), jnp.ones(()), 2),
            "subsample2d: bias has shape () but must have shape (3,)",
        ),
        (
            lambda: subsample2d(x, jnp.ones(3), jnp.ones(3), 5),
            "subsample2d: a window of height 5 does not fit the input of height 4 with padding (0, 0); "
            "it must be at most 4",
        ),
        (
            lambda: Subsample2d(2).init(jax.random.key(0), (12,)),
            "subsample2d: the input has shape (12,) but must have shape (height, width, channels)",
        ),
        (lambda: Subsample2d(2).apply({}, x), "Subsample2d: params has [] but must have 'beta'"),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == message
