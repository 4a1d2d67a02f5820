"""The noise scale: unbiased estimates, averaged before they are divided."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import Conv2d, Dense, Flatten, InputError, Sequential, SoftmaxCrossEntropy, SquaredError, Tanh
from jaxcnn.measure import NoiseScale, gradient_norms, noise_scale, sample_gradients

NETWORK = Sequential((Conv2d(2, 3), Tanh(), Flatten(), Dense(3)))
LOSS = SoftmaxCrossEntropy()


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def drawn(N):
    params = NETWORK.init(jax.random.key(0), (5, 4, 1))
    x = jax.random.normal(jax.random.key(1), (N, 5, 4, 1), jnp.float64)
    return jax.tree.map(lambda w: w.astype(jnp.float64), params), x, jnp.arange(N) % 3


def population(params, x, labels, loss=LOSS):
    """tr S and |G|^2 of a set of samples, by its definition."""
    each = sample_gradients(NETWORK, loss, params, x, labels)
    flat = np.concatenate([np.asarray(g).reshape(len(g), -1) for g in jax.tree.leaves(each)], axis=1)
    mean = flat.mean(axis=0)
    return ((flat - mean) ** 2).sum(axis=1).mean(), mean @ mean


@pytest.mark.parametrize("loss", [LOSS, SquaredError(reduction="sum")], ids=["mean", "sum"])
def test_over_all_batches_that_can_be_drawn_both_estimates_are_right_in_the_mean(loss):
    params, x, labels = drawn(4)
    total = None
    for rows in itertools.product(range(4), repeat=3):  # with replacement: samples of a batch are independent
        found = noise_scale(gradient_norms(NETWORK, loss, params, x[jnp.array(rows)], labels[jnp.array(rows)]))
        total = found if total is None else total + found
    trace, square = population(params, x, labels, loss)
    assert total.steps == 4**3
    np.testing.assert_allclose(total.trace / total.steps, trace, rtol=1e-10)
    np.testing.assert_allclose(total.square / total.steps, square, rtol=1e-10)
    np.testing.assert_allclose(total.scale, trace / square, rtol=1e-10)


def test_it_is_a_pytree_that_a_scan_carries():
    params, x, labels = drawn(8)

    def step(carried, batch):
        return carried + noise_scale(gradient_norms(NETWORK, LOSS, params, *batch)), None

    start = NoiseScale(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))
    batches = x.reshape(2, 4, *x.shape[1:]), labels.reshape(2, 4)
    found, _ = jax.jit(lambda: jax.lax.scan(step, start, batches))()
    one, two = (noise_scale(gradient_norms(NETWORK, LOSS, params, *(part[i] for part in batches))) for i in range(2))
    np.testing.assert_allclose(found.trace, one.trace + two.trace, rtol=1e-12)
    np.testing.assert_allclose(found.square, one.square + two.square, rtol=1e-12)
    assert found.steps == 2


def test_where_the_gradient_cannot_be_told_from_noise_it_says_so():
    found = NoiseScale(jnp.asarray(3.0), jnp.asarray(-0.5), jnp.asarray(2))
    assert np.isnan(found.scale)
    assert str(found) == "no noise scale: over 2 steps the estimate of |G|^2 is not above 0; average more"
    assert str(NoiseScale(jnp.asarray(3.0), jnp.asarray(0.5), jnp.asarray(1))) == "noise scale 6 samples over 1 step"


def test_one_sample_tells_nothing():
    params, x, labels = drawn(1)
    with pytest.raises(InputError, match="noise_scale: the batch has 1 sample but must have at least 2"):
        noise_scale(gradient_norms(NETWORK, LOSS, params, x, labels))
