"""What a run leaves behind, and how it goes on from there."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxcnn import SGD, Dense, Flatten, InputError, Sequential, experiment, files, init_state
from jaxcnn.experiment import Observer, run
from jaxcnn.recipe import Recipe
from jaxcnn.recorder import Recorder
from jaxcnn.store.checkpoint import save_checkpoint
from jaxcnn.store.runs import Run, load_run, load_unfinished
from jaxcnn.tensorboard import TensorBoard

SMALL = Recipe(model=Sequential((Flatten(), Dense(10))), epochs=4, batch_size=16, validation=0.2, schedule="constant")


@pytest.fixture(autouse=True)
def on_few_digits(monkeypatch, few_digits):
    monkeypatch.setattr(experiment, "load_dataset", lambda source, resize: few_digits)


class Fails(Observer):
    """Ends a run after so many epochs, before or after the recorder is told of the last."""

    def __init__(self, epochs, error=RuntimeError):
        self.epochs, self.error = epochs, error

    def on_epoch(self, experiment, progress, found):
        if len(progress.history) == self.epochs:
            raise self.error


def epochs(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def same(one, other, name="model.safetensors"):
    a, b = load_file(one / name), load_file(other / name)
    return all(np.array_equal(a[key], b[key]) for key in a.keys() | b.keys() if key != "progress/seconds")


@pytest.mark.parametrize("kept", [True, False])
def test_an_unfinished_run_goes_on_as_if_it_had_not_ended(tmp_path, kept):
    whole, folder = tmp_path / "whole", tmp_path / "r"
    run(SMALL, Recorder(whole))
    observers = [Recorder(folder), Fails(3)]
    with pytest.raises(RuntimeError):
        run(SMALL, *(observers if kept else observers[::-1]))
    assert len(epochs(folder)) == (3 if kept else 2)
    (folder / "model.safetensors.123.tmp").write_bytes(b"half")
    run(SMALL, Recorder(resume=folder), resume=folder)
    assert epochs(folder) == epochs(whole)
    assert same(folder, whole)
    assert same(folder, whole, "best.safetensors")
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_finished_run_is_extended(tmp_path):
    longer, folder = tmp_path / "longer", tmp_path / "r"
    one = run(SMALL.changed(epochs=7), Recorder(longer))
    run(SMALL, Recorder(folder))
    two = run(SMALL.changed(epochs=7), Recorder(resume=folder), resume=folder)
    assert same(folder, longer)
    assert epochs(folder) == epochs(longer)
    assert two.measured.accuracy == one.measured.accuracy
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    assert Recipe.read(folder / "recipe.toml").epochs == 7


def test_a_run_does_not_go_on_with_other_images_or_layers(tmp_path, monkeypatch, few_digits):
    run(SMALL, Recorder(tmp_path / "r"))
    with pytest.raises(InputError, match="has .* as .*but must have .*, as this network and optimizer has"):
        run(SMALL.changed(momentum=0.0), resume=tmp_path / "r")
    other = few_digits.train_images[::-1]
    object.__setattr__(few_digits, "train_images", other * np.float32(0.5))
    with pytest.raises(InputError, match="data is 'digits', whose images are not those that this run was trained on"):
        run(SMALL.changed(epochs=9), resume=tmp_path / "r")


def test_the_best_epoch_is_the_result_and_the_last_is_kept_beside_it(tmp_path):
    told = []

    class Listener(Observer):
        def on_epoch(self, experiment, progress, found):
            told.append(progress)

    result = run(SMALL.changed(epochs=12, learning_rate=0.5), Recorder(tmp_path / "r", keep=3), Listener())
    held = [(epoch["validation_accuracy"], -epoch["validation_loss"]) for epoch in result.history]
    best = held.index(max(held))
    assert best < 11, "choose a recipe whose last epoch is not its best"
    jax.tree.map(np.testing.assert_array_equal, load_run(tmp_path / "r").checkpoint.params, told[best].state.params)
    last = load_run(tmp_path / "r" / "model.safetensors").checkpoint.params
    jax.tree.map(np.testing.assert_array_equal, last, told[-1].state.params)
    jax.tree.map(np.testing.assert_array_equal, result.params, told[best].state.params)
    assert sorted(path.name for path in (tmp_path / "r").glob("epoch-*")) == [
        f"epoch-{n:04}.safetensors" for n in (10, 11, 12)
    ]
    kept = load_run(tmp_path / "r" / "epoch-0010.safetensors").checkpoint.params
    jax.tree.map(np.testing.assert_array_equal, kept, told[9].state.params)


def test_the_test_images_are_measured_once(monkeypatch, few_digits):
    seen = []
    evaluate = experiment.evaluate
    monkeypatch.setattr(experiment, "evaluate", lambda *args: seen.append(len(args[3])) or evaluate(*args))
    fit = experiment.fit

    def fitted(*args, validation, **keywords):
        seen.append(len(validation[1]))
        return fit(*args, validation=validation, **keywords)

    monkeypatch.setattr(experiment, "fit", fitted)
    result = run(SMALL)
    assert seen == [19, 40]  # the images held out go into `fit`, those of the test into one evaluation
    assert not any(name.startswith("test") for epoch in result.history for name in epoch)


def test_with_an_average_it_is_what_predicts(tmp_path):
    result = run(SMALL.changed(average=0.9, validation=0.0), Recorder(tmp_path / "r"))
    saved = load_run(tmp_path / "r").checkpoint.params
    jax.tree.map(np.testing.assert_array_equal, saved, result.state.averaged)
    assert not np.allclose(saved["dense1"]["weight"], result.state.params["dense1"]["weight"])


def test_within_a_long_epoch_it_is_kept_too(tmp_path):
    recorder = Recorder(tmp_path / "r", save_every=1e-9)
    saved = []

    class Listener(Observer):
        def on_steps(self, experiment, progress):
            saved.append((len(progress.losses), load_file(tmp_path / "r" / "model.safetensors")["progress/losses"]))

    run(SMALL, recorder, Listener())
    assert all(len(losses) == steps for steps, losses in saved)


def test_parameters_that_are_not_finite_replace_no_good_ones(tmp_path):
    recorder = Recorder(tmp_path / "r")
    with pytest.raises(RuntimeError):
        run(SMALL, recorder, Fails(2))
    good = recorder.progress
    spoiled = jax.tree.map(lambda w: w * np.nan, good.state.params)
    recorder.progress = dataclasses.replace(good, state=dataclasses.replace(good.state, params=spoiled))
    assert recorder.stop() is good
    recorder.draw()
    assert (tmp_path / "r" / "curves.png").exists()
    params = load_run(tmp_path / "r" / "model.safetensors").checkpoint.params
    jax.tree.map(np.testing.assert_array_equal, params, good.state.params)


def test_a_full_disk_costs_no_good_checkpoint(tmp_path, monkeypatch):
    folder, fsync = tmp_path / "r", os.fsync

    class Full(Observer):
        def on_epoch(self, experiment, progress, found):
            if len(progress.history) == 2:
                monkeypatch.setattr(os, "fsync", full)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left on device") as raised:
        run(SMALL, Full(), Recorder(folder))
    assert raised.value.filename == str(folder / "best.safetensors") or raised.value.filename == str(
        folder / "model.safetensors"
    )
    assert not list(folder.glob("*.tmp"))
    monkeypatch.setattr(os, "fsync", fsync)
    assert len(epochs(folder)) == 1
    run(SMALL, Recorder(resume=folder), resume=folder)
    run(SMALL, Recorder(tmp_path / "whole"))
    assert same(folder, tmp_path / "whole")


def test_numbers_out_of_range_get_one_sentence():
    for arguments, message in (
        ({"save_every": 0}, "save_every is 0 but must be above 0 minutes"),
        ({"save_every": float("nan")}, "save_every is nan but must be above 0 minutes"),
        ({"keep": -1}, "keep is -1 but must be at least 0"),
    ):
        with pytest.raises(InputError) as refused:
            Recorder(**arguments)
        assert str(refused.value) == message


def test_event_files_hold_every_epoch_once_though_the_run_was_interrupted(tmp_path):
    pytest.importorskip("tensorboardX")
    folder = tmp_path / "r"
    recorder = Recorder(folder)
    with pytest.raises(RuntimeError):
        run(SMALL, recorder, TensorBoard(recorder), Fails(2))
    recorder = Recorder(resume=folder)
    result = run(SMALL, recorder, TensorBoard(recorder), resume=folder)
    written = b"".join(path.read_bytes() for path in folder.glob("events.out.tfevents.*"))
    assert written.count(b"validation_loss") == 4
    assert written.count(b"test_accuracy") == 1
    assert len(result.history) == 4


def test_images_that_have_moved_between_training_and_test_are_not_measured(tmp_path, few_digits):
    run(SMALL, Recorder(tmp_path / "r"))
    saved = load_run(tmp_path / "r")
    saved.check_images(few_digits)
    for change in (
        {"train_images": few_digits.train_images[1:], "train_labels": few_digits.train_labels[1:]},
        {"test_images": few_digits.test_images[::-1]},
        {"test_labels": few_digits.test_labels[::-1]},
    ):
        with pytest.raises(InputError, match="whose images are not those that this run was trained on"):
            saved.check_images(dataclasses.replace(few_digits, **change))


def test_fewer_epochs_than_a_run_has_are_refused(tmp_path):
    run(SMALL, Recorder(tmp_path / "r"))
    with pytest.raises(InputError, match="epochs is 3 but must be at least 4: so many '.*r' has begun"):
        run(SMALL.changed(epochs=3), Recorder(resume=tmp_path / "r"), resume=tmp_path / "r")
    assert Recipe.read(tmp_path / "r" / "recipe.toml").epochs == 4


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    run(SMALL, Recorder(tmp_path / "r"))
    other = os.open(tmp_path / "r", os.O_RDONLY)  # flock tells descriptors apart, not processes
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="run is '.*r', in which another process trains; that must end before"):
        Recorder(resume=tmp_path / "r")
    os.close(other)
    run(SMALL, Recorder(resume=tmp_path / "r"), resume=tmp_path / "r")
    assert (tmp_path / "r").resolve() not in files._locks


def test_the_best_epoch_is_known_again_where_a_run_goes_on(tmp_path):
    """With a recipe whose best epoch is long before the one after which it stops."""
    recipe = SMALL.changed(epochs=12, learning_rate=0.5)
    whole = run(recipe)
    best = max(range(12), key=lambda i: (whole.history[i]["validation_accuracy"], -whole.history[i]["validation_loss"]))
    assert best < 10
    with pytest.raises(RuntimeError):
        run(recipe, Recorder(tmp_path / "r"), Fails(11))
    again = run(recipe, Recorder(resume=tmp_path / "r"), resume=tmp_path / "r")
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    assert not np.array_equal(again.params["dense1"]["weight"], again.state.params["dense1"]["weight"])


def test_a_run_that_ended_anyhow_lets_its_folder_go(tmp_path):
    for error in (RuntimeError, KeyboardInterrupt):
        folder = tmp_path / error.__name__
        with pytest.raises(error):
            run(SMALL, Recorder(folder), Fails(1, error))
        assert folder.resolve() not in files._locks


def test_a_file_system_without_locks_is_no_other_process(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(descriptor, how):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(fcntl, "flock", refuse)
    run(SMALL, Recorder(tmp_path / "r"))


def test_a_recorder_alone_does_not_begin_a_run_anew_in_its_folder(tmp_path):
    run(SMALL, Recorder(tmp_path / "r"))
    kept = epochs(tmp_path / "r")
    with pytest.raises(InputError, match="resume is '.*r' for the recorder but must be given to run, too"):
        run(SMALL, Recorder(resume=tmp_path / "r"))
    assert epochs(tmp_path / "r") == kept


def test_a_run_of_the_first_format_is_not_gone_on_with(tmp_path):
    (tmp_path / "model.safetensors").write_bytes((Path(__file__).parent / "store/format-1.safetensors").read_bytes())
    (tmp_path / "metrics.jsonl").write_text("kept\n")
    like = init_state(load_run(tmp_path).checkpoint.network, SGD(0.1, momentum=0.9), jax.random.key(0), (8, 8, 1))
    state = load_unfinished(tmp_path, like)[1].state  # after one step, within no epoch
    assert int(state.epoch) == 0
    save_checkpoint(
        tmp_path / "model.safetensors", load_run(tmp_path).checkpoint.network, (8, 8, 1),
        dataclasses.replace(state, epoch=state.epoch + 3), load_run(tmp_path).checkpoint.info,
    )  # fmt: skip
    with pytest.raises(InputError, match="was written by an older jaxcnn, which did not keep what going on needs"):
        load_unfinished(tmp_path, like)


def test_a_run_killed_between_its_two_files_goes_on_from_the_later(tmp_path, monkeypatch):
    """Were it the earlier, other epochs would have another schedule, and the best parameters be those of no epoch."""
    recipe, keep = SMALL.changed(epochs=6, schedule="cosine"), Run.keep

    def killed(self, progress, name="model.safetensors"):
        if name == "model.safetensors" and len(progress.history) == 2:
            raise RuntimeError
        keep(self, progress, name)

    monkeypatch.setattr(Run, "keep", killed)
    with pytest.raises(RuntimeError):
        run(recipe, Recorder(tmp_path / "r"))
    monkeypatch.setattr(Run, "keep", keep)
    ended = load_file(tmp_path / "r" / "model.safetensors"), load_file(tmp_path / "r" / "best.safetensors")
    assert [int(file["epoch"]) for file in ended] == [1, 2], "choose a recipe whose second epoch is better"
    begun = []

    class Listener(Observer):
        def on_checked(self, experiment, gradient_check, progress):
            begun.append(len(progress.history))

    result = run(recipe.changed(epochs=2), Recorder(resume=tmp_path / "r"), Listener(), resume=tmp_path / "r")
    assert begun == [2]
    held = result.experiment.validation
    measured = experiment.evaluate(result.experiment.network, result.experiment.loss, result.params, *held)
    assert result.history[-1]["validation_loss"] == measured.loss
    assert len(result.history) == 2


def test_more_epochs_for_a_run_that_a_rule_ended_get_one_sentence(tmp_path):
    run(SMALL.changed(target_error=100.0), Recorder(tmp_path / "r"))
    again = SMALL.changed(target_error=100.0, epochs=9)
    with pytest.raises(InputError, match="epochs is 9 but '.*r' ended after 1, by target_error 100.0 or patience None"):
        run(again, Recorder(resume=tmp_path / "r"), resume=tmp_path / "r")
    other = again.changed(target_error=0.0)
    assert len(run(other, Recorder(resume=tmp_path / "r"), resume=tmp_path / "r").history) == 9
