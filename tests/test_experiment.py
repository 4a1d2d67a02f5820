"""`run`: the same run from a recipe wherever it is called, and who is told what."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxcnn import Dense, Flatten, InputError, NonFiniteLoss, ReLU, Sequential, experiment
from jaxcnn.data import Normalization, held_out, load_digits
from jaxcnn.experiment import Observer, WrongGradient, make_augmentation, prepare, run
from jaxcnn.recipe import Recipe
from jaxcnn.recorder import Recorder
from jaxcnn.store.runs import Run, check_out, load_run

SMALL = Recipe(model=Sequential((Flatten(), Dense(10))), epochs=2, batch_size=16)


@pytest.fixture(autouse=True)
def on_few_digits(monkeypatch, few_digits):
    monkeypatch.setattr(experiment, "load_dataset", lambda source, resize: few_digits)


class Listener(Observer):
    """Writes down what it is told."""

    def __init__(self):
        self.told = []

    def on_prepared(self, experiment):
        self.told.append("prepared")

    def on_stage(self, doing):
        self.told.append(doing)

    def on_checked(self, experiment, gradient_check, progress):
        self.told.append(("checked", gradient_check < 1e-10))

    def on_steps(self, experiment, progress):
        self.told.append(("steps", len(progress.losses)))

    def on_epoch(self, experiment, progress, found):
        self.told.append(("epoch", progress.history[-1]["epoch"], int(progress.state.step)))

    def on_divergence(self, experiment, diverged):
        self.told.append(("divergence", diverged.step > 0))

    def on_end(self, result):
        self.told.append(("end", len(result.history)))


def test_an_observer_is_told_in_order_and_the_result_is_whole():
    listener = Listener()
    result = run(SMALL, listener, Observer())
    pieces = [told for told in listener.told if told[0] == "steps"]
    assert sum(told == ("steps", 6) for told in pieces) == 2
    assert [told for told in listener.told if told not in pieces] == [
        "reading the data", "prepared", "checking the gradient", ("checked", True), "compiling the training step",
        "compiling the evaluation", ("epoch", 1, 6), ("epoch", 2, 12), "measuring the test images", ("end", 2),
    ]  # fmt: skip
    assert result.parameters == 650
    assert result.experiment.recipe == SMALL.changed(learning_rate=0.02, momentum=0.9, weight_decay=5e-4)


def test_the_resolved_recipe_gives_the_same_parameters_bit_for_bit():
    one = run(SMALL)
    two = run(one.experiment.recipe)
    jax.tree.map(np.testing.assert_array_equal, one.state.params, two.state.params)


def test_divergence_is_told_and_raised():
    listener = Listener()
    with pytest.raises(NonFiniteLoss):
        run(SMALL.changed(loss="squared-error", learning_rate=1e30), listener)
    assert listener.told[-1] == ("divergence", True)


def test_a_wrong_gradient_trains_nothing(monkeypatch):
    listener = Listener()
    monkeypatch.setattr(experiment.verify, "check_network", lambda *arguments: float("nan"))
    with pytest.raises(WrongGradient, match="differs from jax.grad by nan, allowed is 1e-10; nothing was trained"):
        run(SMALL, listener)
    assert listener.told == ["reading the data", "prepared", "checking the gradient"]


def test_the_default_model_is_the_one_made_for_the_images(monkeypatch):
    digits = load_digits()
    for shape, name in (((8, 8, 1), "digits"), ((28, 28, 1), "lenet28"), ((32, 32, 3), "vgg32")):
        images = {f"{split}_images": np.zeros((40, *shape), np.float32) for split in ("train", "test")}
        labels = {f"{split}_labels": np.arange(40, dtype=np.int32) % 10 for split in ("train", "test")}
        dataset = dataclasses.replace(digits, **images, **labels)
        monkeypatch.setattr(experiment, "load_dataset", lambda source, resize, dataset=dataset: dataset)
        assert prepare(Recipe(normalize=False)).recipe.model == name
    images = {f"{split}_images": np.zeros((40, 9, 9, 1), np.float32) for split in ("train", "test")}
    monkeypatch.setattr(
        experiment, "load_dataset", lambda source, resize: dataclasses.replace(digits, **images, **labels)
    )
    with pytest.raises(InputError, match="model is not given and none is made for images of shape"):
        prepare(Recipe(normalize=False))


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ((ReLU(),), "model has outputs of shape (8, 8, 1) but must have one for each of the 10 classes"),
        ((Flatten(), Dense(9)), "model has outputs of shape (9,) but must have one for each of the 10 classes"),
        ((Flatten(),), "model has no parameters but must have some to train"),
    ],
)
def test_a_network_that_cannot_be_trained_on_the_data_gets_one_sentence(layers, sentence):
    with pytest.raises(InputError) as refused:
        prepare(SMALL.changed(model=Sequential(layers)))
    assert str(refused.value).startswith(sentence)


def test_the_folder_of_a_recorder_is_there_from_the_gradient_check_on(tmp_path):
    recorder = Recorder(tmp_path / "r")
    with pytest.raises(InputError, match="is not created before its gradient was checked"):
        _ = recorder.folder
    run(SMALL, recorder)
    assert {file.name for file in recorder.folder.iterdir()} == {
        "recipe.toml", "metrics.jsonl", "model.safetensors", "curves.png", "flow.png",
    }  # fmt: skip
    with pytest.raises(InputError, match="which exists; it must be a new folder"):
        Recorder(tmp_path / "r")


def test_the_folder_of_a_run_may_be_a_string(tmp_path):
    folder = str(tmp_path / "r")
    check_out(folder)
    run(SMALL, Recorder(folder))
    assert load_run(folder).recipe.data == "digits"
    for refuse in (lambda: check_out(folder), lambda: Run.create(folder, "digits", SMALL.model, (8, 8, 1), {})):
        with pytest.raises(InputError, match="which exists; it must be a new folder"):
            refuse()


def test_mirrored_images_count_as_training_images():
    assert len(prepare(SMALL.changed(mirror=True, batch_size=192)).train_images) == 192
    with pytest.raises(InputError, match="batch_size is 193 but must be at most 192, the number of training images"):
        prepare(SMALL.changed(mirror=True, batch_size=193))


def test_the_images_held_out_are_drawn_by_the_seed_and_seen_by_nothing_else(few_digits):
    one, two = (prepare(SMALL.changed(validation=0.25, seed=seed, batch_size=8)) for seed in (0, 1))
    assert not np.array_equal(one.validation[0], two.validation[0])
    for made in (one, two):
        kept, held = held_out(few_digits.train_labels, 0.25, made.recipe.seed)
        assert made.normalization == Normalization.of(few_digits.train_images[kept])
        np.testing.assert_array_equal(made.train_images, made.normalization(few_digits.train_images[kept]))
        np.testing.assert_array_equal(made.validation[0], made.normalization(few_digits.train_images[held]))
        np.testing.assert_array_equal(made.validation[1], few_digits.train_labels[held])


def test_where_an_image_is_moved_its_background_comes_in():
    made = prepare(SMALL.changed(augment=("crop:1",)))
    (background,) = made.normalization(np.zeros(1, np.float32))
    assert make_augmentation(made).fill == pytest.approx(float(background), rel=1e-6)
    assert make_augmentation(prepare(SMALL)) is None


def test_the_data_are_found_again_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare(SMALL.changed(data="photos")).recipe.data == str(tmp_path / "photos")
