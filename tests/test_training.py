"""One step, one epoch, and evaluation."""

import jax
import numpy as np
import pytest
from corners import LOSS, NETWORK, OPTIMIZER, start

from jaxcnn import (
    SGD,
    SoftmaxCrossEntropy,
    evaluate,
    gradients,
    train_epoch,
    train_step,
)
from jaxcnn.training import epoch_order


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
