"""A run that is killed at any moment goes on as if nothing had happened, bit for bit.

`python tests/slow/test_kill.py 100` does it so many times.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_cpu_alone")]

HERE = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
# epochs of a third of a second, within which the model is kept, too
RUN = ["--epochs", "6", "--batch-size", "4", "--validation", "0.1", "--average", "0.99", "--augment", "shift:1",
       "--save-every", "0.0005", "--quiet"]  # fmt: skip


def train(*arguments):
    return [sys.executable, "-m", "jaxcnn", "train", *map(str, arguments)]


def kill(command, folder, seconds):
    """Start, wait until there is a model to go on from and then for some seconds, kill."""
    with subprocess.Popen(command, env=HERE) as process:
        give_up = time.monotonic() + 120
        while not (folder / "model.safetensors").exists() and process.poll() is None:
            assert time.monotonic() < give_up
            time.sleep(0.01)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)


def epochs(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def arrays(file):
    return {name: array.tobytes() for name, array in load_file(file).items() if name != "progress/seconds"}


def killed_twice_it_is_the_same(whole, folder, seed):
    """Whether a run that is killed, and killed again while it goes on, equals the uninterrupted one."""
    rng = np.random.default_rng(seed)
    kill(train(*RUN, "--out", folder), folder, rng.uniform(0, 2))
    kill(train("--resume", folder, "--save-every", "0.0005", "--quiet"), folder, rng.uniform(0, 4.5))
    subprocess.run(train("--resume", folder, "--quiet"), check=True, env=HERE)
    assert epochs(folder) == epochs(whole)
    for name in ("model.safetensors", "best.safetensors"):
        assert arrays(folder / name) == arrays(whole / name)
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    subprocess.run(train(*RUN, "--out", folder), check=True, env=HERE)
    return folder


@pytest.mark.parametrize("seed", range(20))
def test_a_run_killed_at_random_moments_is_the_uninterrupted_one(whole, tmp_path, seed):
    killed_twice_it_is_the_same(whole, tmp_path / "r", seed)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        uninterrupted = Path(folder) / "whole"
        subprocess.run(train(*RUN, "--out", uninterrupted), check=True, env=HERE)
        for seed in range(int(sys.argv[1])):
            killed_twice_it_is_the_same(uninterrupted, Path(folder) / str(seed), seed)
            print(f"{seed + 1} runs killed twice, each the same bit for bit", flush=True)
