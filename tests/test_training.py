"""One step, one epoch, and evaluation."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corners import LOSS, NETWORK, OPTIMIZER, start

from jaxcnn import (
    SGD,
    Conv2d,
    Dense,
    InputError,
    Sequential,
    SoftmaxCrossEntropy,
    evaluate,
    fit,
    gradients,
    init_state,
    predict,
    softmax_cross_entropy,
    train_epoch,
    train_step,
    training,
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
    grads, E, outputs, _ = gradients(NETWORK, LOSS, state.params, x, labels, key=key)

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


def assert_close(ours, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, expected)


def test_a_step_inside_of_jit_scan_vmap_and_grad_is_the_step(images):
    x, labels = images[0][:24].reshape(3, 8, 6, 6, 1), images[1][:24].reshape(3, 8)
    still = SGD(0.1)
    state = expected = start(optimizer=still)
    losses = []
    for batch in zip(x, labels, strict=True):
        expected, metrics = train_step(NETWORK, LOSS, still, expected, *batch)
        losses.append(metrics["loss"])

    def step(state, batch):
        return train_step(NETWORK, LOSS, still, state, *batch)

    scanned, metrics = jax.lax.scan(step, state, (x, labels))
    assert_close((scanned.params, metrics["loss"]), (expected.params, jnp.array(losses)))
    for jitted in (lambda: jax.jit(step)(state, (x[0], labels[0])), jax.jit(lambda: step(state, (x[0], labels[0])))):
        assert_close(jitted()[1]["loss"], losses[0])
    many = jax.vmap(lambda x, labels: step(state, (x, labels))[1]["loss"])(x, labels)
    assert_close(many[0], losses[0])

    def loss_of(x):
        return step(state, (x, labels[0]))[1]["loss"]

    slope, moved = jax.grad(loss_of)(x[0]), 0.1 * jnp.sign(jax.grad(loss_of)(x[0]))
    change = float(loss_of(x[0] + 1e-2 * moved) - loss_of(x[0] - 1e-2 * moved))
    assert change == pytest.approx(float(2e-2 * (slope * moved).sum()), rel=0.05)


def test_an_epoch_a_prediction_and_a_start_go_inside_of_jit_and_vmap(images):
    state, expected = start(), train_epoch(NETWORK, LOSS, OPTIMIZER, start(), *images, 8)[0]
    inside, _ = jax.jit(lambda state, x, t: train_epoch(NETWORK, LOSS, OPTIMIZER, state, x, t, 8))(state, *images)
    assert_close(inside.params, expected.params)
    assert_close(
        jax.jit(lambda x: predict(NETWORK, state.params, x))(images[0]), predict(NETWORK, state.params, images[0])
    )
    keys = jax.random.split(jax.random.key(0), 2)
    both = jax.vmap(lambda key: init_state(NETWORK, OPTIMIZER, key, (6, 6, 1)))(keys)
    one = init_state(NETWORK, OPTIMIZER, keys[1], (6, 6, 1))
    assert_close(jax.tree.map(lambda w: w[1], both.params), one.params)


def test_what_returns_numbers_of_python_is_refused_inside_of_a_trace(images):
    state = start()
    for name, call in (
        ("evaluate", lambda state: evaluate(NETWORK, LOSS, state.params, *images)),
        ("fit", lambda state: fit(NETWORK, LOSS, OPTIMIZER, state, *images, batch_size=8, epochs=1)),
    ):
        for traced in (lambda call=call: jax.jit(call)(state), jax.jit(lambda call=call: call(state))):
            with pytest.raises(InputError) as error:
                traced()
            assert str(error.value) == (
                f"{name}: is called inside of jit, scan, grad or vmap but must be called outside of them"
            )


def test_images_of_any_numbers_are_cast_to_the_parameters_dtype(images):
    x, labels = (4 * images[0][:8]).clip(0, 255).astype(jnp.uint8), images[1][:8]
    state, exact = start(optimizer=SGD(0.1)), x.astype(jnp.float32)

    def results(state, x, labels):
        yield train_step(NETWORK, LOSS, SGD(0.1), state, x, labels)[0].params
        yield train_epoch(NETWORK, LOSS, SGD(0.1), state, x, labels, 4)[0].params
        yield predict(NETWORK, state.params, x)
        yield evaluate(NETWORK, LOSS, state.params, x, labels).loss
        yield gradients(NETWORK, LOSS, state.params, x, np.asarray(labels), key=jax.random.key(0))[0]
        yield fit(NETWORK, LOSS, SGD(0.1), state, x, labels, batch_size=4, epochs=1)[0].params

    expected = list(results(state, exact, labels))
    for given in (x, np.asarray(x), np.asarray(x, np.float64), x.tolist()):
        assert_close(list(results(state, given, labels.tolist())), expected)
    low = init_state(NETWORK, SGD(0.1), jax.random.key(0), (6, 6, 1), dtype=jnp.bfloat16)
    for params in list(results(low, exact, labels))[:2]:
        assert {w.dtype for w in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}


def test_a_key_is_of_jax_random_and_an_old_one_draws_the_same(images):
    with pytest.raises(InputError) as error:
        start_with(0)
    assert str(error.value) == "init_state: key is 0 but must be a key, such as jax.random.key(0)"
    with pytest.raises(InputError, match=r"init_state: key is of type key<fry> and shape \(2,\) but must be a key"):
        start_with(jax.random.split(jax.random.key(0)))
    old, new = start_with(jax.random.PRNGKey(3)), start_with(jax.random.key(3))
    assert old.key.dtype == new.key.dtype
    assert_close(old.params, new.params)


def start_with(key):
    return init_state(NETWORK, OPTIMIZER, key, (6, 6, 1))


def test_labels_of_another_device_are_looked_at_where_many_steps_follow(images, monkeypatch):
    """Pretended; on a GPU they are."""
    monkeypatch.setattr(training, "_at_hand", lambda array: False)
    x, labels = images
    state, wrong = start(), jnp.asarray(labels) + 1
    for call in (
        lambda: evaluate(NETWORK, LOSS, state.params, x, wrong),
        lambda: fit(NETWORK, LOSS, OPTIMIZER, state, x, wrong, batch_size=8, epochs=1),
        lambda: fit(NETWORK, LOSS, OPTIMIZER, state, x, labels, batch_size=8, epochs=1, validation=(x, wrong)),
    ):
        with pytest.raises(InputError, match="labels go from 1 to 3 but the network has 3 outputs"):
            call()


def test_errors_are_one_sentence(images):
    state, maps = start(), Sequential((Conv2d(4, 3),))
    other = init_state(maps, OPTIMIZER, jax.random.key(0), (6, 6, 1))
    flatten = (
        "network: the output for an image of shape (6, 6, 1) has shape (4, 4, 4) but must have shape (classes,), since "
        "labels has one for each image; add Flatten() and Dense(classes)"
    )
    high = "labels go from 1 to 3 but the network has 3 outputs"
    x, labels = images
    wrong = np.asarray(labels) + 1

    def step(network=NETWORK, loss=LOSS, optimizer=OPTIMIZER, state=state, x=x, labels=labels):
        return train_step(network, loss, optimizer, state, x, labels)

    for call, message in (
        (lambda: step(labels=wrong), high),
        (lambda: train_epoch(NETWORK, LOSS, OPTIMIZER, state, x, wrong, 8), high),
        (lambda: jax.jit(lambda state: step(state=state, labels=wrong))(state), high),
        (lambda: step(maps, state=other), flatten),
        (lambda: evaluate(maps, LOSS, other.params, x, labels), flatten),
        (lambda: fit(maps, LOSS, OPTIMIZER, other, x, labels, batch_size=8, epochs=1), flatten),
        (
            lambda: evaluate(NETWORK, LOSS, state.params, x, labels, batch_size=0),
            "evaluate: batch_size is 0 but must be an int of at least 1",
        ),
        (lambda: step(x="abc"), "x has shape () and type <U3 but must be numbers, (samples, ...)"),
        (lambda: step(x=[[1.0], [1.0, 2.0]]), "x has shape (2,) and type object but must be numbers, (samples, ...)"),
        (
            lambda: predict(NETWORK, state.params, None),
            "x has shape () and type object but must be numbers, (samples, ...)",
        ),
        (
            lambda: step(labels="abc"),
            "labels has shape () and type <U3 but must be an integer for each of the 50 images, at least one",
        ),
        (lambda: step(Dense), f"network is {Dense!r} but must be a layer, such as Sequential((a, b))"),
        (
            lambda: step(loss=softmax_cross_entropy),
            "loss is <operation softmax_cross_entropy> but must be a loss, such as SoftmaxCrossEntropy()",
        ),
        (
            lambda: step(optimizer="sgd"),
            "optimizer is 'sgd' but must be one, such as SGD(0.1) or Optax(optax.adam(1e-3))",
        ),
        (lambda: step(state=state.params), "state is of type dict but must be a TrainState, from init_state"),
        (
            lambda: step(optimizer=SGD(0.1)),
            "SGD: state is of another optimizer or other parameters but must be from its own init",
        ),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == message


def test_labels_that_are_traced_and_out_of_range_give_nan(images):
    _, metrics = jax.jit(lambda labels: train_step(NETWORK, LOSS, OPTIMIZER, start(), images[0], labels))(images[1] + 1)
    assert jnp.isnan(metrics["loss"])


def test_a_state_in_place_of_its_parameters_is_refused(images):
    state = start()
    for call in (
        lambda: predict(NETWORK, state, images[0]),
        lambda: evaluate(NETWORK, LOSS, state, *images),
        lambda: NETWORK.forward(state, images[0]),
        lambda: Dense(3).apply(state, jnp.ones((1, 2))),
    ):
        with pytest.raises(InputError, match="params is of type TrainState but must be a dict, from init; a"):
            call()


def test_the_first_call_in_a_process_may_be_inside_of_a_jit():
    script = """
import jax, jax.numpy as jnp
from jaxcnn import SGD, Dense, SoftmaxCrossEntropy, compiler_options, init_state, train_step
state = init_state(Dense(2), SGD(0.1), jax.random.key(0), (3,))
args = state, jnp.ones((4, 3)), jnp.zeros(4, int)
traced, _ = jax.jit(lambda *args: train_step(Dense(2), SoftmaxCrossEntropy(), SGD(0.1), *args))(*args)
inside = jax.jit(lambda x: x + len(compiler_options()))(0)
assert inside == len(compiler_options())
print(int(traced.step))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1", done.stderr
