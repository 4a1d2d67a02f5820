"""Private training: who is drawn, how far one sample reaches, how much noise there is, and what the accountant says.

What is random is drawn from fixed keys and compared within five deviations of what the formula gives.
"""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corners import LOSS, NETWORK, OPTIMIZER, same, start
from scipy.stats import binom, norm

from jaxcnn import (
    SGD,
    BatchNorm,
    CombineMaps,
    Conv2d,
    Dense,
    Flatten,
    InputError,
    MaxPool2d,
    NonFiniteLoss,
    Sequential,
    SoftmaxCrossEntropy,
    Tanh,
    gradients,
    init_state,
)
from jaxcnn.private import PoissonSampling, epsilon, noise_for, private_fit, private_gradient

SMOOTH = Sequential((Conv2d(4, 3), Tanh(), MaxPool2d(2), Flatten(), Dense(6), Tanh(), Dense(3)))
IN_SHAPE = (6, 7, 2)
KEY = jax.random.key(5)


def drawn(network=SMOOTH, N=9, dtype=jnp.float32, in_shape=IN_SHAPE):
    params = network.init(jax.random.key(0), in_shape)
    x = 3 * jax.random.normal(jax.random.key(1), (N, *in_shape))
    return *jax.tree.map(lambda w: w.astype(dtype), (params, x)), jnp.arange(N) % 3


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


def close(found, expected, rtol):
    found, expected = flat(found), flat(expected)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


# ---- (2): how far one sample reaches


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("limit", [1e-3, 0.3, 5.0])
def test_a_sample_changes_the_sum_by_the_limit_at_most(limit):
    params, x, labels = drawn(N=24, dtype=jnp.float64)
    x = x.at[3].mul(1e8).at[4].set(0)
    how = {"limit": limit, "noise": 0.0, "expected": 1, "key": KEY}
    everyone = flat(private_gradient(SMOOTH, LOSS, params, x, labels, **how))
    reached = []
    for n in range(len(x)):
        others = jnp.arange(len(x)) != n
        without = flat(private_gradient(SMOOTH, LOSS, params, x, labels, mask=others, **how))
        removed = flat(private_gradient(SMOOTH, LOSS, params, *(jnp.delete(a, n, axis=0) for a in (x, labels)), **how))
        np.testing.assert_allclose(without, removed, rtol=1e-10, atol=1e-12 * limit)
        reached.append(np.linalg.norm(everyone - without))
    # sums of fewer than 2^13 terms, each at most limit N: an error below 2^13 2^-53 N
    assert max(reached) <= limit * (1 + 24 * 2**-40)
    assert limit == 5 or max(reached) >= limit * (1 - 24 * 2**-40)


def test_in_float32_it_is_the_limit_up_to_rounding():
    params, x, labels = drawn(N=24)
    x = x.at[3].mul(1e4)
    longest = max(w.size for w in jax.tree.leaves(params)) + 4 * 5  # of the sums: a norm's entries, and positions
    for n in range(len(x)):
        g = private_gradient(
            SMOOTH, LOSS, params, x, labels, limit=0.01, noise=0.0, expected=1, key=KEY, mask=jnp.arange(24) == n
        )
        np.testing.assert_allclose(np.linalg.norm(flat(g)), 0.01, rtol=longest * 2**-23)


@pytest.mark.usefixtures("float64")
def test_without_limit_and_noise_it_is_the_sampled_gradient_over_the_expected_number():
    params, x, labels = drawn(dtype=jnp.float64)
    mask = jnp.array([1, 0, 1, 1, 0, 0, 1, 0, 1])
    rows = jnp.flatnonzero(mask)
    found = private_gradient(SMOOTH, LOSS, params, x, labels, limit=1e9, noise=0.0, expected=4, key=KEY, mask=mask)
    mean = gradients(SMOOTH, LOSS, params, x[rows], labels[rows])[0]
    close(found, jax.tree.map(lambda g: g * 5 / 4, mean), 1e-12)


def test_what_stands_in_rows_outside_of_the_mask_does_not_matter():
    params, x, labels = drawn()
    mask = jnp.arange(9) < 5
    how = {"limit": 0.1, "noise": 1.0, "expected": 4, "key": KEY, "mask": mask}
    found = [
        flat(private_gradient(SMOOTH, LOSS, params, x.at[5:].set(garbage), labels.at[5:].set(label), **how))
        for garbage, label in ((0, 0), (7e3, 2), (jnp.inf, 1), (jnp.nan, 1))
    ]
    assert np.isfinite(found[0]).all()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_a_batch_that_nobody_is_in_is_noise():
    params, x, labels = drawn()
    g = private_gradient(
        SMOOTH, LOSS, params, x, labels, limit=1.0, noise=0.0, expected=4, key=KEY, mask=jnp.zeros(9, bool)
    )
    assert not flat(g).any()


# ---- (2): the noise


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.usefixtures("float64")
def test_the_noise_of_every_entry_has_the_deviation_sigma_limit_over_expected(dtype):
    network = Sequential((Dense(50, bias=False), Tanh(), Dense(50, bias=False), Tanh(), Dense(50, bias=False)))
    params, x, labels = drawn(network, dtype=dtype, in_shape=(50,))
    sigma, limit, expected = 1.7, 0.3, 6
    how = {"limit": limit, "expected": expected}
    each = []
    for key in jax.random.split(KEY, 2):
        with_noise = private_gradient(network, LOSS, params, x, labels, noise=sigma, key=key, **how)
        without = private_gradient(network, LOSS, params, x, labels, noise=0.0, key=key, **how)
        assert {g.dtype for g in jax.tree.leaves(with_noise)} == {jnp.dtype(dtype)}
        noise = jax.tree.map(lambda a, b: np.asarray(a - b, np.float64).ravel(), with_noise, without)
        each += [z * expected / (sigma * limit) for z in jax.tree.leaves(noise)]
    n = 50 * 50
    for z in each:  # n draws of N(0, 1): their mean has the deviation 1 / sqrt n, that of their squares sqrt(2 / n)
        assert abs(z.mean()) < 5 / math.sqrt(n)
        assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / n)
        assert 3 < np.abs(z).max() < 5.7  # 2 n Phi(-5.7) = 3e-5; (1 - 2 Phi(-3))^n = 1e-3
    products = np.corrcoef(each) - np.eye(len(each))  # of two leaves, and of two keys
    assert np.abs(products).max() < 5 / math.sqrt(n)


# ---- (1): who is drawn


def share_within(share, probability, draws):
    """Of independent draws."""
    assert np.abs(share - probability).max() < 5 * math.sqrt(probability * (1 - probability) / draws)


def indicators(sampling, draws):
    """Whether each sample is in each batch: (draws, N)."""
    rows, mask = jax.jit(jax.vmap(sampling.draw))(jax.random.split(KEY, draws))
    assert rows.shape == mask.shape == (draws, sampling.size)
    found = np.zeros((draws, sampling.count), int)
    for batch, own, valid in zip(found, np.asarray(rows), np.asarray(mask), strict=True):
        np.add.at(batch, own[valid], 1)
    assert found.max() == 1
    return found


def test_each_sample_is_drawn_with_its_probability_and_by_itself():
    draws, N, q = 4000, 40, 0.2
    found = indicators(PoissonSampling(N, expected=8, size=40), draws)
    share_within(found.mean(axis=0), q, draws)
    among = np.corrcoef(found.T) - np.eye(N)
    assert np.abs(among).max() < 5 / math.sqrt(draws)
    one_after_another = np.corrcoef(found[:-1].T, found[1:].T)[:N, N:]
    assert np.abs(one_after_another).max() < 5 / math.sqrt(draws)
    # the number drawn is binomial, not constant; the square of a nearly normal one has the deviation sqrt 2 variance
    drawn = found.sum(axis=1)
    assert abs(drawn.var() / (N * q * (1 - q)) - 1) < 5 * math.sqrt(2 / draws)


def test_a_batch_that_is_too_large_is_cut_to_a_random_part():
    draws, N = 4000, 10
    found = indicators(PoissonSampling(N, expected=5, size=5), draws)
    number = sum(math.comb(N, k) / 2**N * min(k, 5) for k in range(N + 1))
    assert found.sum(axis=1).max() == 5
    share_within(found.mean(axis=0), number / N, draws)


def test_all_are_drawn_where_all_are_expected():
    assert indicators(PoissonSampling(7, expected=7, size=7), 20).all()


@pytest.mark.parametrize(("count", "expected"), [(60_000, 1024), (1000, 30), (50, 1)])
def test_the_size_is_passed_with_the_probability_that_is_said(count, expected):
    sampling = PoissonSampling.of(count, expected)
    q = sampling.probability
    a = (
        sampling.size - 1
    ) / count  # which (4) does not allow; exp(...) is a bound but for the factor sqrt(8 N a (1 - a))
    assert binom.sf(sampling.size, count, q) < 1e-9
    assert binom.sf(sampling.size - 2, count, q) > 1e-9 / math.sqrt(8 * count * a * (1 - a))


SEEN = Sequential((Dense(3, bias=False),))  # of images that are the rows of I: row n of the weights is sample n's


def updates(noise, steps, limit, count=40):
    """g of each update of `private_fit`, (steps, N, 3), by one call for each; the weights hardly change."""
    optimizer = SGD(0.01)
    state = init_state(SEEN, optimizer, jax.random.key(2), (count,))
    how = {"sampling": PoissonSampling.of(count, expected=10), "limit": limit, "noise": noise}
    found = []
    for step in range(1, steps + 1):
        before = state.params
        state, _ = private_fit(SEEN, LOSS, optimizer, state, jnp.eye(count), jnp.arange(count) % 3, steps=step, **how)
        found.append(np.asarray(before["dense1"]["weight"] - state.params["dense1"]["weight"]))
    return np.array(found) / 0.01


def test_every_step_draws_anew_and_divides_by_the_expected_number():
    steps, N, q = 80, 40, 0.25
    found = updates(0.0, steps, limit=0.5)
    lengths = np.linalg.norm(found, axis=2)
    inside = lengths > 0
    # p is about a third each, so |p - t| is about 0.8 and clipped; a weight below 1 is rounded by at most 2^-25
    np.testing.assert_allclose(lengths[inside], 0.5 / 10, rtol=0, atol=2 * 3**0.5 * 2**-25 / 0.01 + 1e-7)
    share_within(inside.mean(), q, steps * N)
    both = (inside[:-1] & inside[1:]).mean()  # pairs with a step in common are correlated
    deviation = math.sqrt((q**2 * (1 - q**2) + 2 * (q**3 - q**4)) / ((steps - 1) * N))
    assert abs(both - q**2) < 5 * deviation


def test_every_step_has_its_own_noise():
    steps, N, sigma, limit = 20, 40, 1000.0, 1e-3
    z = updates(sigma, steps, limit).reshape(steps, -1) / (sigma * limit / 10)
    n = z.size  # what is clipped is at most 1 / sigma of this, and adds less than 3 / sigma to the mean square
    assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / n) + 3 / sigma
    between = np.corrcoef(z) - np.eye(steps)
    assert np.abs(between).max() < 5 / math.sqrt(3 * N)


# ---- training


def private(state, images, labels, **how):
    default = {"sampling": PoissonSampling.of(50, 10), "steps": 10, "limit": 1.0, "noise": 0.5}
    return private_fit(NETWORK, LOSS, OPTIMIZER, state, images, labels, **(default | how))


def test_it_learns_and_tells_nothing_of_the_training_images(images):
    told = []
    state, history = private(start(), *images, steps=103, validation=images, on_epoch=lambda p: told.append(p.history))
    assert [epoch["step"] for epoch in history] == [*range(5, 103, 5), 103]
    assert [epoch["epoch"] for epoch in history] == list(range(1, 22))
    assert (int(state.step), int(state.epoch)) == (103, 21)
    assert history[-1]["validation_accuracy"] > 0.9
    assert told[-1] == tuple(history)
    _, alone = private(start(), *images)
    assert [set(epoch) for epoch in alone] == [{"epoch", "step", "seconds"}] * 2


def test_where_it_is_cut_changes_no_bit(images):
    whole, _ = private(start(), *images, steps=12)
    part, first = private(start(), *images, steps=4)
    rest, then = private(part, *images, steps=12)
    assert same(whole, rest)
    assert [epoch["step"] for epoch in first + then] == [4, 5, 10, 12]
    other, _ = private(start(1), *images, steps=12)
    assert not same(whole, other)


def test_a_penalty_is_added_whole_and_neither_clipped_nor_divided():
    network = Sequential((CombineMaps(3, 3, entropy=2.0), Tanh(), Flatten(), Dense(3)))
    optimizer = SGD(1.0)
    state = init_state(network, optimizer, KEY, (6, 7, 2))
    _, x, labels = drawn(network, N=12)
    how = {"sampling": PoissonSampling.of(12, 3), "steps": 1, "limit": 1e-6, "noise": 0.0}
    trained, _ = private_fit(network, LOSS, optimizer, state, x, labels, **how)
    c, dc = (tree["combinemaps1"]["c"] for tree in (state.params, network.penalty(state.params)[1]))
    assert np.abs(dc).max() > 0.01
    np.testing.assert_allclose(c - trained.params["combinemaps1"]["c"], dc, atol=1e-6 * 12 / 3 + 2**-23 * 4)


def test_what_is_not_of_one_sample_is_refused(images):
    x, labels = images
    network = Sequential((Conv2d(3, 3), BatchNorm(), Flatten(), Dense(3)))
    state = init_state(network, OPTIMIZER, KEY, x.shape[1:])
    how = {"sampling": PoissonSampling.of(50, 10), "steps": 1, "limit": 1.0, "noise": 1.0}
    with pytest.raises(InputError, match="batchnorm1: is a BatchNorm in training, in which samples meet"):
        private_fit(network, LOSS, OPTIMIZER, state, x, labels, **how)
    weighted = {"class_weights": (1.0, 2.0, 3.0)}
    with pytest.raises(InputError, match="private_fit: loss is .*, a mean whose divisor all labels decide, but must"):
        private_fit(NETWORK, SoftmaxCrossEntropy(**weighted), OPTIMIZER, start(), x, labels, **how)
    with pytest.raises(InputError, match="private_gradient: loss is .*, a mean whose divisor all labels decide"):
        private_gradient(
            NETWORK,
            SoftmaxCrossEntropy(ignore=0),
            start().params,
            x,
            labels,
            limit=1.0,
            noise=1.0,
            expected=10,
            key=KEY,
        )
    private_fit(NETWORK, SoftmaxCrossEntropy(reduction="sum", **weighted), OPTIMIZER, start(), x, labels, **how)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"limit": 0}, "private_fit: limit is 0 but must be a finite number above 0"),
        ({"noise": -1.0}, "private_fit: noise is -1.0 but must be a finite number of at least 0"),
        ({"noise": math.nan}, "private_fit: noise is nan but must be a finite number of at least 0"),
        ({"steps": 0}, "private_fit: steps is 0 but must be an int of at least 1"),
        ({"sampling": 0.1}, "private_fit: sampling is 0.1 but must be a PoissonSampling, such as"),
        (
            {"sampling": PoissonSampling.of(60, 10)},
            "private_fit: sampling.count is 60 but must be 50, as of the images",
        ),
        ({"validation": 3}, "private_fit: validation is of type int but must be a pair"),
    ],
)
def test_bad_arguments_are_refused(images, how, sentence):
    with pytest.raises(InputError, match=sentence):
        private(start(), *images, **how)


def test_bad_gradients_are_refused():
    params, x, labels = drawn()
    how = {"limit": 1.0, "noise": 1.0, "expected": 4, "key": KEY}
    for changed, sentence in (
        ({"limit": -1.0}, "limit is -1.0 but must be a finite number above 0"),
        ({"expected": 0}, "expected is 0 but must be an int of at least 1"),
        ({"key": 0}, "key is 0 but must be a key"),
        ({"mask": jnp.ones(3)}, r"mask has shape \(3,\) but must have shape \(9,\)"),
    ):
        with pytest.raises(InputError, match=f"private_gradient: {sentence}"):
            private_gradient(SMOOTH, LOSS, params, x, labels, **(how | changed))
    coarse = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
    with pytest.raises(InputError, match="params are of type bfloat16 but must be float32 or float64"):
        private_gradient(SMOOTH, LOSS, coarse, x, labels, **how)


def test_parameters_that_are_not_finite_are_told_with_the_last_that_were(images):
    x, labels = images
    with pytest.raises(NonFiniteLoss, match="a parameter is not finite after step 5; the parameters after step 0") as e:
        private(start(), x.at[:].set(jnp.nan), labels)
    assert same(e.value.state, start())


# ---- the accountant


def moments(q, sigma, steps, delta):
    """Abadi et al., theorem 2: the moments of integer order up to 32, as they had them, by the binomial theorem."""

    def moment(order):
        a = order + 1
        terms = [
            math.comb(a, k) * (1 - q) ** (a - k) * q**k * math.exp((k * k - k) / (2 * sigma**2)) for k in range(a + 1)
        ]
        return math.log(math.fsum(terms))

    return min((steps * moment(order) + math.log(1 / delta)) / order for order in range(1, 33))


def test_the_example_of_the_paper():
    """Section 3.2: q = 0.01, sigma = 4, 10,000 steps, delta = 1e-5: epsilon is about 1.26 by their bound."""
    by_moments = moments(0.01, 4.0, 10_000, 1e-5)
    assert round(by_moments, 2) == 1.26
    found = epsilon(PoissonSampling.of(60_000, 600), 4.0, 10_000, 1e-5)
    assert 0.9 < found < by_moments


def delta_of(epsilon, q, sigma):
    """Of one step, exactly: the mixture (1 - q) N(0, sigma^2) + q N(1, sigma^2) against N(0, sigma^2)."""
    x = sigma**2 * math.log((math.exp(epsilon) - 1 + q) / q) + 0.5  # where the ratio of the densities is e^epsilon
    mixture = (1 - q) * norm.sf(x / sigma) + q * norm.sf((x - 1) / sigma)
    return mixture - math.exp(epsilon) * norm.sf(x / sigma)


@pytest.mark.parametrize(("expected", "sigma", "steps"), [(400, 1.5, 1), (10, 0.8, 1), (200, 0.6, 1), (400, 5.0, 9)])
def test_epsilon_is_the_exact_one_up_to_its_grid(expected, sigma, steps):
    """Of one step; of several where all samples are drawn, which are one with sigma / sqrt(steps)."""
    sampling = PoissonSampling(400, expected, 400)
    found = epsilon(sampling, sigma, steps, 1e-5)
    exact = {"q": sampling.probability, "sigma": sigma / math.sqrt(steps)}
    assert delta_of(found, **exact) <= 1e-5 < delta_of(found - 1e-4 * steps, **exact)


def test_epsilon_is_that_of_dp_accounting():
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, pld

    sampling = PoissonSampling.of(5000, 100)
    event = PoissonSampledDpEvent(100 / 5000, GaussianDpEvent(1.1))
    poisson = pld.PLDAccountant().compose(event, 300).get_epsilon(1e-5)
    assert abs(epsilon(sampling, 1.1, 300, 1e-5) - poisson) < 1e-6
    # batches that are often cut give away more, and noise-free ones all
    assert epsilon(PoissonSampling(5000, 100, 100), 1.1, 300, 1e-5) > 1.1 * poisson
    assert epsilon(sampling, 0.0, 300, 1e-5) == math.inf


def test_noise_is_found_for_an_epsilon():
    sampling = PoissonSampling.of(5000, 100)
    noise = noise_for(2.0, sampling, 300, 1e-5)
    assert epsilon(sampling, noise, 300, 1e-5) <= 2.0 < epsilon(sampling, noise - 0.005, 300, 1e-5)


def test_bad_arguments_of_the_accountant_are_refused(monkeypatch):
    sampling = PoissonSampling.of(500, 10)
    for call, sentence in (
        (lambda: epsilon(0.1, 1.0, 1, 1e-5), "epsilon: sampling is 0.1 but must be a PoissonSampling"),
        (lambda: epsilon(sampling, -1.0, 1, 1e-5), "epsilon: noise is -1.0 but must be a finite number of at least 0"),
        (lambda: epsilon(sampling, 1.0, 0, 1e-5), "epsilon: steps is 0 but must be an int of at least 1"),
        (lambda: epsilon(sampling, 1.0, 1, 1), "epsilon: delta is 1 but must be a number between 0 and 1"),
        (lambda: noise_for(0, sampling, 1, 1e-5), "noise_for: target is 0 but must be a finite number above 0"),
        (lambda: noise_for(1e4, sampling, 1, 1e-5), "target is 10000.0 but must be an epsilon of a noise of at least"),
        (lambda: PoissonSampling(0, 1, 1), "PoissonSampling: count is 0 but must be an int of at least 1"),
        (lambda: PoissonSampling(5, 6, 6), "PoissonSampling: expected is 6 but must be an int from 1 to 5"),
        (lambda: PoissonSampling(5, 3, 2), "PoissonSampling: size is 2 but must be an int from 3 to 5"),
    ):
        with pytest.raises(InputError, match=sentence):
            call()
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(InputError, match="epsilon needs dp-accounting: pip install '..privacy.' in a checkout"):
        epsilon(sampling, 1.0, 1, 1e-5)
