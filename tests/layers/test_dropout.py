import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import Dropout, InputError, dropout


def test_the_share_and_the_mean_are_right():
    """Binomial: n = 100,000 entries, five standard deviations."""
    n, rate = 100_000, 0.3
    y = dropout(jnp.ones(n), jax.random.key(3), rate=rate)
    dropped = float((y == 0).mean())
    assert abs(dropped - rate) < 5 * math.sqrt(rate * (1 - rate) / n)
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.7)}


def test_backward_replays_the_draw_of_the_forward():
    x, key = jnp.ones((50, 40)), jax.random.key(1)
    y, residuals = dropout.forward(x, key, rate=0.5)
    dx, dkey = dropout.backward(residuals, jnp.full((50, 40), 3.0), rate=0.5)
    np.testing.assert_array_equal(dx, 3 * y)
    assert dkey is None
    np.testing.assert_array_equal(jax.grad(lambda x: (3 * dropout(x, key, rate=0.5)).sum())(x), dx)


def test_the_same_key_draws_the_same_and_vmap_over_keys_is_a_loop():
    x, keys = jnp.ones((6, 5)), jax.random.split(jax.random.key(0), 4)
    loop = jnp.stack([dropout(x, key, rate=0.4) for key in keys])
    np.testing.assert_array_equal(jax.vmap(lambda key: dropout(x, key, rate=0.4))(keys), loop)
    np.testing.assert_array_equal(jax.jit(lambda key: dropout(x, key, rate=0.4))(keys[2]), loop[2])
    assert (loop[0] != loop[1]).any()


def test_the_layer_does_nothing_in_evaluation_and_needs_a_key_in_training():
    x = jnp.ones((2, 3))
    layer = Dropout(0.5)
    y, residuals = layer.forward({}, x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(layer.backward(residuals, 2 * x)[0], 2 * x)
    with pytest.raises(InputError, match="dropout: key is None but must be a key"):
        layer.apply({}, x, train=True)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2, math.nan])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(InputError, match="dropout: rate is .* but must be at least 0 and below 1"):
        dropout(jnp.ones(3), jax.random.key(0), rate=rate)
