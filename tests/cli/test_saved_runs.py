"""`jaxcnn evaluate` and `jaxcnn diagnose` on a run folder."""

from pathlib import Path

import jax
import numpy as np
import pytest
from command import run

from jaxcnn.cli import show
from jaxcnn.data import Dataset
from jaxcnn.store.checkpoint import save_checkpoint

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def test_data_of_another_shape_is_refused_by_evaluate(capsys, monkeypatch):
    assert run("train", "--epochs", 1, "--out", "r", "--json") == 0
    rng = np.random.default_rng(0)
    other = Dataset(
        "other", *(a for n in (20, 10) for a in (rng.random((n, 9, 8, 1), np.float32), np.arange(n) % 10)),
        classes=tuple("0123456789"),
    )  # fmt: skip
    monkeypatch.setattr(show, "load_dataset", lambda source: other)
    assert run("evaluate", "r", "--data", "other") == 2
    assert (
        "other has images of shape (9, 8, 1) but the network of r was trained on (8, 8, 1)" in capsys.readouterr().err
    )


def test_dead_units_are_named_by_diagnose(capsys):
    import jax.numpy as jnp

    from jaxcnn import SGD, Dense, Flatten, ReLU, Sequential, init_state

    network = Sequential((Flatten(), Dense(4), ReLU(), Dense(10)))
    state = init_state(network, SGD(0.1), jax.random.key(0), (8, 8, 1))
    state.params["dense1"]["bias"] = jnp.array([-1e3, 1e3, -1e3, -1e3])
    info = {
        "data": "digits",
        "loss": "cross-entropy",
        "dtype": "float32",
        "normalization": {"mean": 0, "std": 1, "padding": 0},
    }
    Path("r").mkdir()
    save_checkpoint(Path("r/model.safetensors"), network, (8, 8, 1), state, info)
    assert run("diagnose", "r") == 0
    out = capsys.readouterr().out
    assert "75.0%" in out
    assert "relu1: 3 of 4 units are dead: zero for every sample" in out


def test_a_corrupt_configuration_gets_one_sentence(tmp_path, capsys):
    from jaxcnn import SGD, Dense, Sequential, init_state

    state = init_state(Sequential((Dense(3),)), SGD(0.1), jax.random.key(0), (4,))
    good = {
        "data": "digits",
        "loss": "cross-entropy",
        "dtype": "float32",
        "normalization": {"mean": 0, "std": 1, "padding": 0},
    }
    for change in ({"data": None}, {"dtype": "float8"}, {"loss": "zip"}, {"normalization": {"mean": "x"}}):
        Path("r").mkdir(exist_ok=True)
        info = {name: value for name, value in (good | change).items() if value is not None}
        save_checkpoint(Path("r/model.safetensors"), Sequential((Dense(3),)), (8, 8, 1), state, info)
        assert run("evaluate", "r") == 2
        err = capsys.readouterr().err
        assert "corrupt" in err
        assert err.count("\n") == 1
