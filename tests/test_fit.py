"""Epoch after epoch until a stopping rule holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corners import LOSS, NETWORK, OPTIMIZER, same, start

from jaxcnn import (
    InputError,
    evaluate,
    fit,
    init_state,
)


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


def test_both_stopping_rules_of_t1(images):
    _, history = fit(NETWORK, LOSS, OPTIMIZER, start(), *images, batch_size=8, epochs=4)
    assert len(history) == 4
    _, history = fit(NETWORK, LOSS, OPTIMIZER, start(), *images, batch_size=8, epochs=50, target_error=0.4)
    assert history[-1]["loss"] <= 0.4 < min(epoch["loss"] for epoch in history[:-1])
    assert len(history) < 50


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
        (
            {"batch_size": 8, "epochs": 1, "target_error": "low"},
            "fit: target_error is 'low' but must be a finite number of at least 0",
        ),
        (
            {"batch_size": "8", "epochs": 1},
            "batch_size is '8' but must be from 1 to 50, the number of training samples",
        ),
        (
            {"batch_size": True, "epochs": 1},
            "batch_size is True but must be from 1 to 50, the number of training samples",
        ),
        (
            {"batch_size": 8, "epochs": 1, "test": images[0]},
            f"fit: test is of type {type(images[0]).__name__} but must be a pair, (images, labels)",
        ),
        (
            {"batch_size": 8, "epochs": 1, "test": (images[0], images[1] + 1)},
            "fit: test: labels go from 1 to 3 but the network has 3 outputs",
        ),
        (
            {"batch_size": 8, "epochs": 1, "test": (images[0][:, :4], images[1])},
            "fit: test: layer 'dense1' with input shape (8,): Dense: weight has shape (16, 3) but must have shape "
            "(8, 3)",
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


def test_counts_of_numpy_are_counts(images):
    ours = fit(NETWORK, LOSS, OPTIMIZER, start(), *images, batch_size=np.int64(8), epochs=np.int32(2))[0]
    assert same(ours, fit(NETWORK, LOSS, OPTIMIZER, start(), *images, batch_size=8, epochs=2)[0])
