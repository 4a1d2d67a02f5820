"""A run that is killed leaves a folder that can be read: the last whole model, whole lines of metrics."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxcnn import SoftmaxCrossEntropy, evaluate
from jaxcnn.data import load_digits
from jaxcnn.recipe import Recipe
from jaxcnn.store.runs import load_run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(8))
def test_a_killed_run_can_be_read(tmp_path, seed):
    folder = tmp_path / "r"
    command = [sys.executable, "-m", "jaxcnn", "train", "--epochs", "500", "--out", str(folder), "--seed", str(seed)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": os.getcwd()}
    ) as process:
        give_up = time.monotonic() + 120
        while not (folder / "model.safetensors").exists():
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.01)
        time.sleep(np.random.default_rng(seed).uniform(0, 2))
        process.send_signal(signal.SIGKILL)
    saved, digits = load_run(folder), load_digits()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    measured = evaluate(
        saved.checkpoint.network, SoftmaxCrossEntropy(), saved.checkpoint.params,
        saved.normalization(digits.test_images), digits.test_labels,
    )  # fmt: skip
    # the model is that of the last epoch whose line was written, or of the one before it
    assert measured.loss == pytest.approx(lines[-1]["test_loss"], rel=1e-5) or (
        len(lines) > 1 and measured.loss == pytest.approx(lines[-2]["test_loss"], rel=1e-5)
    )
    assert Recipe.read(folder / "recipe.toml").seed == seed
    assert {Path(path).name for path in folder.iterdir()} <= {
        "recipe.toml", "metrics.jsonl", "model.safetensors", *(p.name for p in folder.glob("model.safetensors.*.tmp")),
    }  # fmt: skip
