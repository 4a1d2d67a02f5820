from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    SGD,
    Conv2d,
    Cosine,
    Dense,
    Dropout,
    Flatten,
    InputError,
    MaxPool2d,
    NonFiniteLoss,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    SquaredError,
    evaluate,
    fit,
    gradients,
    init_state,
    train_epoch,
    train_step,
)
from jaxcnn.training import epoch_order

NETWORK = Sequential((Conv2d(4, 3), ReLU(), MaxPool2d(2), Flatten(), Dropout(0.2), Dense(3)))
LOSS = SoftmaxCrossEntropy()
OPTIMIZER = SGD(Cosine(0.1, 100), momentum=0.9)


@pytest.fixture
def images(rng):
    """Three classes that differ in the corner that is bright."""
    labels = rng.integers(0, 3, 50)
    x = rng.standard_normal((50, 6, 6, 1)) / 2
    for i, label in enumerate(labels):
        x[i, 4 * (label % 2) :, 4 * (label // 2) :][:2, :2] += 3
    return jnp.asarray(x, jnp.float32), jnp.asarray(labels)


def start(seed=0, optimizer=OPTIMIZER):
    return init_state(NETWORK, optimizer, jax.random.key(seed), (6, 6, 1))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True))


def test_fit_learns_and_reports(images):
    seen = []
    state, history = fit(
        NETWORK, LOSS, OPTIMIZER, start(), *images, batch_size=8, epochs=15, test=images,
        on_epoch=lambda state, metrics: seen.append((int(state.step), metrics)),
    )  # fmt: skip
    assert history[-1]["test_accuracy"] > 0.9 > history[0]["accuracy"]
    assert [metrics for _, metrics in seen] == history
    assert [step for step, _ in seen] == [6 * n for n in range(1, 16)]
    assert set(history[0]) == {"epoch", "step", "loss", "accuracy", "seconds", "test_loss", "test_accuracy"}
    assert int(state.epoch) == 15


def test_the_same_seed_gives_the_same_parameters_bit_for_bit(images):
    runs = [fit(NETWORK, LOSS, OPTIMIZER, start(s), *images, batch_size=8, epochs=3)[0] for s in (1, 1, 2)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.usefixtures("float64")
def test_an_epoch_is_its_steps(images):
    x, labels = images[0].astype(float), images[1]
    one = start()
    state, metrics = train_epoch(NETWORK, LOSS, OPTIMIZER, one, x, labels, 8)
    for i, chosen in enumerate(epoch_order(one.key, 1, 50, 8)):
        one, step_metrics = train_step(NETWORK, LOSS, OPTIMIZER, one, x[chosen], labels[chosen])
        np.testing.assert_allclose(step_metrics["loss"], metrics["loss"][i], rtol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), state.params, one.params)


def test_epochs_are_shuffled_apart_and_use_no_sample_twice():
    key = jax.random.key(0)
    first, second = epoch_order(key, 1, 50, 8), epoch_order(key, 2, 50, 8)
    assert first.shape == (6, 8)
    assert len(np.unique(first)) == 48
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, epoch_order(key, 1, 50, 8))


def test_dropout_draws_anew_at_every_step(images):
    x, labels = images[0][:8], images[1][:8]
    still = SGD(0.0)
    state = start(optimizer=still)
    losses = []
    for _ in range(2):
        state, metrics = train_step(NETWORK, LOSS, still, state, x, labels)
        losses.append(float(metrics["loss"]))
    assert losses[0] != losses[1]


@pytest.mark.usefixtures("float64")
def test_gradients_are_jax_grad_of_the_plain_forward(images):
    state, key, x, labels = start(), jax.random.key(3), images[0][:8].astype(float), images[1][:8]
    grads, E, outputs = gradients(NETWORK, LOSS, state.params, x, labels, key=key)

    def plain(params):
        return LOSS.forward(NETWORK.forward(params, x, train=True, key=key)[0], labels)[0]

    value, expected = jax.value_and_grad(plain)(state.params)
    np.testing.assert_allclose(value, E, rtol=1e-12)
    assert outputs.shape == (8, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), grads, expected)


def test_both_stopping_rules_of_t1(images):
    _, history = fit(NETWORK, LOSS, OPTIMIZER, start(), *images, batch_size=8, epochs=4)
    assert len(history) == 4
    _, history = fit(NETWORK, LOSS, OPTIMIZER, start(), *images, batch_size=8, epochs=50, target_error=0.4)
    assert history[-1]["loss"] <= 0.4 < min(epoch["loss"] for epoch in history[:-1])
    assert len(history) < 50


def test_a_diverging_run_stops_and_keeps_the_last_good_parameters(images):
    wild = SGD(3e4)
    with pytest.raises(NonFiniteLoss) as error:
        fit(NETWORK, SquaredError(), wild, start(optimizer=wild), *images, batch_size=8, epochs=10)
    bad, state = error.value.step, error.value.state
    assert error.value.history == []
    assert f"at step {bad}; the parameters after step {int(state.step)} were kept" in str(error.value)
    assert int(state.step) == bad - 2
    assert all(bool(jnp.isfinite(w).all()) for w in jax.tree.leaves(state.params))

    again, finite = start(optimizer=wild), []
    for epoch in (1, 2):
        for chosen in epoch_order(again.key, epoch, 50, 8):
            if int(again.step) == int(state.step):
                assert same(again, state)
            again, metrics = train_step(NETWORK, SquaredError(), wild, again, images[0][chosen], images[1][chosen])
            finite.append(bool(jnp.isfinite(metrics["loss"])))
    assert finite.index(False) + 1 == bad


@dataclass(frozen=True)
class OnlyAt:
    """A schedule: the learning rate at one step, zero at all others."""

    step: int
    learning_rate: float

    def __call__(self, step):
        return jnp.where(step == self.step, self.learning_rate, 0.0)


def test_divergence_in_the_last_update_of_an_epoch_is_seen_before_the_next(images):
    """An update so large that the next loss overflows, at the last step of epoch 1."""
    at_last = SGD(OnlyAt(step=5, learning_rate=1e30))
    with pytest.raises(NonFiniteLoss) as error:
        fit(NETWORK, SquaredError(), at_last, start(optimizer=at_last), *images, batch_size=8, epochs=3)
    assert error.value.step == 6
    assert "after step 6; the parameters after step 5 were kept" in str(error.value)
    assert int(error.value.state.step) == 5
    assert error.value.history == []
    assert same(error.value.state, start(optimizer=at_last))


def test_divergence_seen_only_at_the_first_step_of_an_epoch_replays_the_epoch_before(images):
    """The test images are zeros, which hide the overflow of the weights."""
    at_last, plain = SGD(OnlyAt(step=11, learning_rate=1e30)), Sequential((Flatten(), Dense(3, bias=False)))
    state = init_state(plain, at_last, jax.random.key(0), (6, 6, 1))
    blind = jnp.zeros((4, 6, 6, 1)), jnp.zeros(4, int)
    with pytest.raises(NonFiniteLoss) as error:
        fit(plain, SquaredError(), at_last, state, *images, batch_size=8, epochs=3, test=blind)
    assert error.value.step == 13
    assert int(error.value.state.step) == 11
    assert [epoch["epoch"] for epoch in error.value.history] == [1, 2]
    assert same(error.value.state, state)


def test_the_sum_reports_means(images):
    """E of a sum grows with the batch; what is reported and compared with target_error does not."""
    params = start().params
    mean = evaluate(NETWORK, SoftmaxCrossEntropy(), params, *images)
    for batch_size in (7, 50):
        summed = evaluate(NETWORK, SoftmaxCrossEntropy("sum"), params, *images, batch_size=batch_size)
        assert summed.loss == pytest.approx(mean.loss, rel=1e-5)
    _, metrics = train_step(NETWORK, SoftmaxCrossEntropy("sum"), SGD(0.0), start(optimizer=SGD(0.0)), *images)
    _, expected = train_step(NETWORK, SoftmaxCrossEntropy(), SGD(0.0), start(optimizer=SGD(0.0)), *images)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)


def test_evaluate_counts_every_sample_once(images):
    state = start()
    whole = evaluate(NETWORK, LOSS, state.params, *images)
    pieces = evaluate(NETWORK, LOSS, state.params, *images, batch_size=7)
    assert whole.loss == pytest.approx(pieces.loss, rel=1e-5)
    np.testing.assert_array_equal(whole.predictions, pieces.predictions)
    expected = NETWORK.apply(state.params, images[0]).argmax(axis=-1)
    np.testing.assert_array_equal(whole.predictions, expected)
    assert whole.confusion.sum() == 50
    assert whole.accuracy == np.trace(whole.confusion) / 50 == float((expected == images[1]).mean())
    np.testing.assert_array_equal(whole.confusion.sum(axis=1), np.bincount(images[1], minlength=3))


def test_bfloat16_and_float64_train_too(images):
    for dtype in (jnp.bfloat16, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            state = init_state(NETWORK, OPTIMIZER, jax.random.key(0), (6, 6, 1), dtype=dtype)
            state, history = fit(NETWORK, LOSS, OPTIMIZER, state, *images, batch_size=8, epochs=10)
            assert {w.dtype for w in jax.tree.leaves(state.params)} == {jnp.dtype(dtype)}
            assert history[-1]["accuracy"] > 0.8


def test_errors_are_one_sentence(images):
    state = start()
    for arguments, message in (
        ({"batch_size": 8, "epochs": 0}, "fit: epochs is 0 but must be an int of at least 1"),
        ({"batch_size": 0, "epochs": 1}, "batch_size is 0 but must be from 1 to 50, the number of training samples"),
        ({"batch_size": 51, "epochs": 1}, "batch_size is 51 but must be from 1 to 50, the number of training samples"),
        (
            {"batch_size": 8, "epochs": 1, "target_error": -1.0},
            "fit: target_error is -1.0 but must be a finite number of at least 0",
        ),
    ):
        with pytest.raises(InputError) as error:
            fit(NETWORK, LOSS, OPTIMIZER, state, *images, **arguments)
        assert str(error.value) == message
    for x, labels, message in (
        (images[0], images[1][:5], r"labels has shape \(5,\) and type int32 but must be an integer for each of the 50"),
        (images[0], jnp.ones((50, 3)), r"labels has shape \(50, 3\) and type float32 but must be an integer"),
        (images[0], images[1] + 1, "labels go from 1 to 3 but the network has 3 outputs"),
        (images[0], images[1] - 1, "labels go from -1 to 1 but the network has 3 outputs"),
        (images[0][:0], images[1][:0], "must be an integer for each of the 0 images, at least one"),
    ):
        with pytest.raises(InputError, match=message):
            fit(NETWORK, LOSS, OPTIMIZER, state, x, labels, batch_size=8, epochs=1)
    with pytest.raises(InputError, match="labels go from 0 to 3 but the network has 3 outputs"):
        evaluate(NETWORK, LOSS, state.params, images[0][:2], np.array([0, 3]))
