import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, StochasticPool2d, expected_pool2d, spec_from_json, spec_to_json, stochastic_pool2d

WINDOW = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 10.0]])
KEY = jax.random.key(7)


def chi_square(counts, p):
    expected = counts.sum() * p
    return ((counts - expected)[p > 0] ** 2 / expected[p > 0]).sum()


def test_positions_are_drawn_with_probability_a_over_sum_a():
    """[F6]: chi-square of 20,000 draws; with 4 degrees of freedom it exceeds 33.4 once in a million times."""
    x = jnp.tile(WINDOW.astype(np.float32)[None, :, :, None], (200, 1, 1, 100))
    y, (k, _) = stochastic_pool2d.forward(x, KEY, (2, 3))
    counts, p = np.bincount(np.asarray(k).ravel(), minlength=6), WINDOW.ravel() / WINDOW.sum()
    assert counts[0] == 0
    assert chi_square(counts, p) < 33.4
    assert chi_square(counts, np.where(p > 0, 0.2, 0)) > 1000
    np.testing.assert_array_equal(np.asarray(y), WINDOW.ravel()[np.asarray(k)])
    deviation = np.sqrt((p * WINDOW.ravel() ** 2).sum() - (p * WINDOW.ravel()).sum() ** 2)
    assert abs(float(y.mean()) - float(expected_pool2d(x, (2, 3))[0, 0, 0, 0])) < 5 * deviation / np.sqrt(20_000)


def test_the_same_key_draws_the_same_under_jit_and_scan_and_vmap_over_keys_is_a_loop():
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (2, 6, 4, 3)).astype(np.float32))
    keys = jax.random.split(KEY, 4)

    def pooled(key):
        return stochastic_pool2d(x, key, 2)

    loop = jnp.stack([pooled(key) for key in keys])
    np.testing.assert_array_equal(jax.jit(pooled)(keys[2]), loop[2])
    np.testing.assert_array_equal(jax.lax.scan(lambda n, key: (n, pooled(key)), 0, keys)[1], loop)
    np.testing.assert_array_equal(jax.vmap(pooled)(keys), loop)
    assert (loop[0] != loop[1]).any()


def test_the_draw_does_not_depend_on_the_dtype():
    x = np.random.default_rng(1).integers(0, 9, (2, 6, 4, 3))
    with jax.enable_x64(True):
        draws = [
            stochastic_pool2d.forward(jnp.asarray(x, d), KEY, 2)[1][0] for d in (jnp.bfloat16, jnp.float32, jnp.float64)
        ]
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[1], draws[2])


def test_a_window_of_zeros_gives_zero_and_its_first_position_owns_dy():
    x, dy = jnp.zeros((1, 2, 4, 1)).at[0, 1, 3, 0].set(5.0), jnp.array([2.0, 3.0]).reshape(1, 1, 2, 1)
    y, residuals = stochastic_pool2d.forward(x, KEY, 2)
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, 5]])
    dx, dkey = stochastic_pool2d.backward(residuals, dy, window_size=2)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[2, 0, 0, 0], [0, 0, 0, 3]])
    assert dkey is None
    y, residuals = expected_pool2d.forward(x, 2)
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, 5]])
    (dx,) = expected_pool2d.backward(residuals, dy, window_size=2)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[2, 0, -3, -3], [0, 0, -3, 3]])


def test_the_expectation_is_as_written():
    p = WINDOW / WINDOW.sum()
    x = jnp.asarray(WINDOW.reshape(1, 2, 3, 1), jnp.float32)
    y, residuals = expected_pool2d.forward(x, (2, 3))
    assert float(y[0, 0, 0, 0]) == pytest.approx((p * WINDOW).sum(), rel=1e-6)
    (dx,) = expected_pool2d.backward(residuals, jnp.ones((1, 1, 1, 1)), window_size=(2, 3))
    np.testing.assert_allclose(dx[0, :, :, 0], (2 * WINDOW - (p * WINDOW).sum()) / WINDOW.sum(), rtol=1e-5)


@pytest.mark.parametrize("name", ["stochastic_pool2d", "expected_pool2d"])
def test_negative_input_is_refused_where_it_is_seen_and_nan_where_it_is_not(name):
    pool = {
        "stochastic_pool2d": lambda x: stochastic_pool2d(x, KEY, 2),
        "expected_pool2d": lambda x: expected_pool2d(x, 2),
    }
    x = jnp.ones((1, 2, 4, 1)).at[0, 1, 2, 0].set(-0.5)
    with pytest.raises(InputError) as error:
        pool[name](x)
    assert str(error.value) == f"{name}: x has the entry -0.5 but must have none below 0; put a ReLU before it"
    y = np.asarray(jax.jit(pool[name])(x))[0, 0, :, 0]
    assert y[0] == 1
    assert np.isnan(y[1])


def test_train_chooses_and_the_explicit_chain_is_jax_grad(rng):
    layer = StochasticPool2d((2, 3), stride=2)
    x = jnp.asarray(rng.uniform(0, 1, (2, 6, 7, 3)).astype(np.float32))
    for train, expected in (
        (True, stochastic_pool2d(x, KEY, (2, 3), stride=2)),
        (False, expected_pool2d(x, (2, 3), stride=2)),
    ):
        y, residuals = jax.jit(lambda x, train=train: layer.forward({}, x, train=train, key=KEY))(x)
        np.testing.assert_allclose(y, expected, rtol=1e-6)
        gradient = jax.grad(lambda x, train=train: (layer.apply({}, x, train=train, key=KEY) ** 2).sum() / 2)(x)
        np.testing.assert_allclose(layer.backward(residuals, y)[0], gradient, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="stochastic_pool2d: key is None but must be a key"):
        layer.apply({}, x, train=True)
    assert spec_from_json(spec_to_json(layer)) == layer
