"""`jaxcnn evaluate` and `jaxcnn diagnose` on a run folder."""

import dataclasses
import io
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import run
from rich.console import Console

from jaxcnn import SGD, Dense, Evaluation, Flatten, ReLU, Sequential, init_state
from jaxcnn.cli import show
from jaxcnn.data import Dataset
from jaxcnn.store.checkpoint import save_checkpoint

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

INFO = {
    "data": "digits",
    "classes": list("0123456789"),
    "loss": "cross-entropy",
    "dtype": "float32",
    "normalization": {"mean": 0, "std": 1, "padding": 0},
}


def test_data_of_another_shape_is_refused_by_evaluate(capsys, monkeypatch):
    assert run("train", "--epochs", 1, "--out", "r", "--json") == 0
    rng = np.random.default_rng(0)
    other = Dataset(
        "other", *(a for n in (20, 10) for a in (rng.random((n, 9, 8, 1), np.float32), np.arange(n) % 10)),
        classes=tuple("0123456789"),
    )  # fmt: skip
    monkeypatch.setattr(show, "load_dataset", lambda source, resize: other)
    assert run("evaluate", "r", "--data", "other") == 2
    assert (
        "other has images of shape (9, 8, 1) but the network of r was trained on (8, 8, 1)" in capsys.readouterr().err
    )


@pytest.fixture
def small_run(in_an_empty_folder):
    """Writes the run folder r, a network of four ReLU units on the digits with these biases."""

    def write(*bias):
        network = Sequential((Flatten(), Dense(4), ReLU(), Dense(10)))
        state = init_state(network, SGD(0.1), jax.random.key(0), (8, 8, 1))
        state.params["dense1"]["bias"] = jnp.array(bias)
        Path("r").mkdir()
        save_checkpoint(Path("r/model.safetensors"), network, (8, 8, 1), state, INFO)

    return write


def test_dead_units_are_named_by_diagnose(capsys, small_run):
    small_run(-1e3, 1e3, -1e3, -1e3)
    assert run("diagnose", "r") == 0
    out = capsys.readouterr().out
    assert "75.0%" in out
    assert "relu1: 3 of 4 units are dead: zero for every sample" in out


def test_the_model_file_stands_for_its_run(capsys, small_run):
    small_run(-1e3, 1e3, -1e3, -1e3)
    for command in ("evaluate", "diagnose"):
        assert run(command, "r/model.safetensors") == 0
    assert "relu1: 3 of 4 units are dead" in capsys.readouterr().out


def test_of_parameters_that_are_not_finite_it_is_said_and_the_loss_is_null(capsys, small_run):
    small_run(np.nan, np.inf, 0.0, 0.0)
    for command in ("evaluate", "diagnose"):
        assert run(command, "r", "--json") == 0
        out, err = capsys.readouterr()
        assert "jaxcnn: r holds NaN or infinite parameters, in dense1/bias\n" in err
        found = json.loads(out, parse_constant=pytest.fail)
        assert command == "diagnose" or found["loss"] is None


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_the_shades_gets_ascii(monkeypatch, small_run, encoding):
    small_run(0.0, 0.0, 0.0, 0.0)
    for arguments in (("evaluate", "r"), ("evaluate", "--help"), ("diagnose", "r")):
        terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", terminal)
        assert run(*arguments) == 0
        shown = terminal.buffer.getvalue().decode(encoding)
        assert "?" not in shown
        assert arguments != ("evaluate", "r") or "##" in shown


def test_classes_are_shown_by_their_names(few_digits):
    named = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
    labels = few_digits.test_labels
    measured = Evaluation(1.0, 0.0, np.eye(10, dtype=int), (labels + 1) % 10)
    console = Console(file=io.StringIO(), width=100)
    show.show_evaluation(console, measured, dataclasses.replace(few_digits, classes=named))
    shown = console.file.getvalue()
    names = (*named, "9")  # the last class has no name
    assert f"{names[labels[0]]} taken for {names[(labels[0] + 1) % 10]}  " in shown
    assert all(name in shown for name in names)


def test_a_corrupt_configuration_gets_one_sentence(tmp_path, capsys):
    network = Sequential((Flatten(), Dense(3)))
    state = init_state(network, SGD(0.1), jax.random.key(0), (8, 8, 1))
    for change in ({"data": None}, {"dtype": "float8"}, {"loss": "zip"}, {"normalization": {"mean": "x"}}):
        Path("r").mkdir(exist_ok=True)
        info = {name: value for name, value in (INFO | change).items() if value is not None}
        save_checkpoint(Path("r/model.safetensors"), network, (8, 8, 1), state, info)
        assert run("evaluate", "r") == 2
        err = capsys.readouterr().err
        assert "is corrupt (configuration: " in err
        assert err.count("\n") == 1
