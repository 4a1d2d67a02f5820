"""Epoch after epoch until a stopping rule holds."""

import importlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corners import LOSS, NETWORK, OPTIMIZER, same, start

from jaxcnn import (
    SGD,
    Averaged,
    Conv2d,
    Dense,
    Flatten,
    InputError,
    Progress,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    best_epoch,
    evaluate,
    fit,
    init_state,
)
from jaxcnn.progress import StoppingRules

fitting = importlib.import_module("jaxcnn.fit")  # the module; the package exports the function by this name


def test_fit_learns_and_reports(images):
    seen = []
    state, history = fit(
        NETWORK, LOSS, OPTIMIZER, start(), *images, batch_size=8, epochs=15, validation=images,
        on_epoch=lambda progress: seen.append((int(progress.state.step), progress.history[-1])),
    )  # fmt: skip
    assert history[-1]["validation_accuracy"] > 0.9 > history[0]["accuracy"]
    assert [metrics for _, metrics in seen] == history
    assert [step for step, _ in seen] == [6 * n for n in range(1, 16)]
    assert set(history[0]) == {"epoch", "step", "loss", "accuracy", "seconds", "validation_loss", "validation_accuracy"}
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
            {"batch_size": 8, "epochs": 1, "validation": images[0]},
            f"fit: validation is of type {type(images[0]).__name__} but must be a pair, (images, labels)",
        ),
        (
            {"batch_size": 8, "epochs": 1, "validation": (images[0], images[1] + 1)},
            "fit: validation: labels go from 1 to 3 but the network has 3 outputs",
        ),
        (
            {"batch_size": 8, "epochs": 1, "validation": (images[0][:, :4], images[1])},
            "fit: validation: layer 'dense1' with input shape (8,): Dense: weight has shape (16, 3) but must have "
            "shape (8, 3)",
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


def without_seconds(history):
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]


def test_where_an_epoch_is_cut_changes_no_bit(images, monkeypatch):
    runs = []
    for seconds in (1e-9, 1e9):
        monkeypatch.setattr(fitting, "PIECE", seconds)
        told = []
        state, history = fit(
            NETWORK, LOSS, OPTIMIZER, start(), *images, batch_size=8, epochs=4, validation=images, on_steps=told.append
        )
        runs.append((state, without_seconds(history), len(told)))
    assert [count for *_, count in runs] == [4 * 6, 5]  # one step at a time; and 1, 5, then 6 at once
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


def test_a_fit_goes_on_from_any_progress_as_if_nothing_had_happened(images, monkeypatch):
    monkeypatch.setattr(fitting, "PIECE", 1e-9)
    told = []
    arguments = {"batch_size": 8, "epochs": 3, "validation": images, "augment": Noise(0.1)}
    state, history = fit(
        NETWORK, LOSS, OPTIMIZER, start(), *images, **arguments, on_steps=told.append, on_epoch=told.append
    )
    assert len(told) == 3 * (6 + 1)
    for progress in told:
        again, epochs = fit(NETWORK, LOSS, OPTIMIZER, start(9), *images, **arguments, resume=progress)
        assert same(again, state)
        assert without_seconds(epochs) == without_seconds(history)


@dataclass(frozen=True)
class Noise:
    """An augmentation."""

    size: float

    def __call__(self, key, x):
        return x + self.size * jax.random.normal(key, x.shape, x.dtype)


@dataclass(frozen=True)
class OneGray:
    """An augmentation that leaves nothing of an image but a gray drawn for the batch."""

    def __call__(self, key, x):
        return jnp.full_like(x, jax.random.normal(key))


def test_an_augmentation_draws_anew_in_every_step_and_is_seen_in_training_alone(images):
    """Nothing else differs between two steps: no weight moves, no unit is dropped, every batch is all images."""
    network, frozen = Sequential((Flatten(), Dense(3))), SGD(0.0)
    state = init_state(network, frozen, jax.random.key(0), (6, 6, 1))
    whole = {"batch_size": 50, "epochs": 3, "validation": images}
    _, plain = fit(network, LOSS, frozen, state, *images, **whole)
    _, noisy = fit(network, LOSS, frozen, state, *images, **whole, augment=OneGray())
    losses = [[epoch["loss"] for epoch in history] for history in (plain, noisy)]
    assert losses[0] == pytest.approx([losses[0][0]] * 3, rel=1e-5)
    assert min(abs(np.subtract.outer(losses[1], losses[1])[~np.eye(3, dtype=bool)])) > 1e-3 * losses[1][0]
    assert {epoch["validation_loss"] for epoch in noisy} == {epoch["validation_loss"] for epoch in plain}


def test_early_stopping_and_the_best_parameters(images, rng):
    x, labels = images
    other = (x, rng.permutation(labels))  # which training does not learn
    told = []
    state, history = fit(
        NETWORK, LOSS, OPTIMIZER, start(), x, labels, batch_size=8, epochs=500, validation=other, patience=4,
        on_epoch=told.append,
    )  # fmt: skip
    best = best_epoch(history)
    scores = [(epoch["validation_accuracy"], -epoch["validation_loss"]) for epoch in history]
    assert len(history) == best + 4 < 500
    assert scores[best - 1] == max(scores) > scores[-1]
    jax.tree.map(np.testing.assert_array_equal, told[-1].best, told[best - 1].state.params)
    assert not np.array_equal(told[-1].best["dense1"]["weight"], state.params["dense1"]["weight"])
    measured = evaluate(NETWORK, LOSS, told[-1].best, *other)
    assert (measured.accuracy, -measured.loss) == pytest.approx(max(scores))


def test_what_cannot_be_resumed_or_waited_for_gets_one_sentence(images):
    arguments = {"batch_size": 8, "epochs": 2}
    for more, message in (
        ({"patience": 3}, "fit: patience is 3 but validation is None; it must be images and labels"),
        ({"patience": 0, "validation": images}, "fit: patience is 0 but must be an int of at least 1"),
        ({"resume": start()}, "fit: resume is of type TrainState but must be a Progress of an earlier fit"),
        (
            {"resume": Progress(start(optimizer=SGD(0.1)))},
            "fit: resume is of another network or optimizer but must be of the same as state",
        ),
    ):
        with pytest.raises(InputError) as error:
            fit(NETWORK, LOSS, OPTIMIZER, start(), *images, **arguments, **more)
        assert str(error.value) == message


def test_the_average_is_what_is_measured_and_what_is_best(images):
    optimizer, told = Averaged(SGD(0.1), 0.9), []
    fit(
        NETWORK, LOSS, optimizer, start(optimizer=optimizer), *images, batch_size=8, epochs=2, validation=images,
        on_epoch=told.append,
    )  # fmt: skip
    for progress in told:
        average, weights = (
            evaluate(NETWORK, LOSS, params, *images).loss for params in (progress.state.averaged, progress.state.params)
        )
        assert progress.history[-1]["validation_loss"] == average != weights
    best = told[best_epoch(told[-1].history) - 1]
    jax.tree.map(np.testing.assert_array_equal, told[-1].best, best.state.averaged)


def test_a_fit_does_not_go_on_with_other_images_or_batches(images):
    told = []
    fit(NETWORK, LOSS, OPTIMIZER, start(), *images, batch_size=8, epochs=1, on_steps=told.append, on_epoch=told.append)
    for progress, changes in ((told[-1], {"validation": images}), (told[-2], {"batch_size": 16})):
        with pytest.raises(InputError, match="fit: resume is of a fit with other images or batches"):
            fit(
                NETWORK, LOSS, OPTIMIZER, start(), *images, **{"batch_size": 8, "epochs": 2, **changes}, resume=progress
            )


def test_a_rule_holds_at_its_value_and_of_equals_the_least_loss_is_best():
    assert StoppingRules(9, target_error=0.5).hold([{"loss": 0.5}])
    assert not StoppingRules(9, target_error=0.5).hold([{"loss": 0.5000001}])
    epochs = [{"validation_accuracy": 0.5, "validation_loss": loss} for loss in (0.4, 0.2, 0.3, 0.2)]
    assert best_epoch(epochs) == 2


def test_maps_of_labels_are_learned_and_what_is_ignored_counts_nowhere(rng):
    """Each pixel's class is its sign; one in five has no label, 255."""
    network = Sequential((Conv2d(8, 3, padding=1), ReLU(), Conv2d(2, 1)))
    loss = SoftmaxCrossEntropy(ignore=255, reduction="sum")
    x = rng.standard_normal((40, 6, 5, 1)).astype(np.float32)
    truth = (x[..., 0] > 0).astype(np.uint8)
    labels = np.where(rng.random(truth.shape) < 0.2, 255, truth).astype(np.uint8)
    optimizer = SGD(3e-3, momentum=0.9)
    state = init_state(network, optimizer, jax.random.key(0), (6, 5, 1))
    before = evaluate(network, loss, state.params, x, labels, batch_size=16)
    state, history = fit(network, loss, optimizer, state, x, labels, batch_size=8, epochs=20, validation=(x, labels))
    measured = evaluate(network, loss, state.averaged, x, labels, batch_size=16)
    known = labels != 255
    assert measured.predictions.shape == labels.shape
    assert measured.confusion.sum() == known.sum()
    assert measured.accuracy == pytest.approx((measured.predictions == labels)[known].mean())
    assert measured.accuracy > 0.95 > before.accuracy
    assert history[-1]["accuracy"] == pytest.approx(measured.accuracy, abs=0.05)
    outputs = network.apply(state.averaged, jnp.asarray(x))
    rows = SoftmaxCrossEntropy().apply(outputs[known], jnp.asarray(labels[known]))
    assert measured.loss == pytest.approx(float(rows), rel=1e-5)
    with pytest.raises(
        InputError, match=r"labels has shape \(40, 6\) .* for each of the 40 images at each of 6 x 5 pl"
    ):
        evaluate(network, loss, state.averaged, x, labels[:, :, 0])
    with pytest.raises(InputError, match="labels go from 0 to 254 but the network has 2 outputs"):
        evaluate(network, loss, state.averaged, x, np.where(labels == 255, 254, labels))
