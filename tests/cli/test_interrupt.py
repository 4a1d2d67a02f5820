"""Ctrl-C and SIGTERM: what was reached is kept, and the run can be resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import run
from safetensors.numpy import load_file

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

HERE = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def interrupted(name, *signals):
    """The exit status, what was printed on stderr, and the seconds from the first signal to the end."""
    command = [sys.executable, "-m", "jaxcnn", "train", "--epochs", "100000", "--out", "r", "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=HERE) as process:
        give_up = time.monotonic() + 120
        while not Path("r/metrics.jsonl").exists() or not Path("r/metrics.jsonl").stat().st_size:
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.05)
        began = time.monotonic()
        for number in signals:
            process.send_signal(number)
        _, err = process.communicate()
        return process.returncode, err, time.monotonic() - began


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_was_reached_and_says_how_to_go_on(capsys, number, status):
    code, err, _ = interrupted(number.name, number)
    assert code == status
    lines = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    (step,) = load_file("r/model.safetensors")["step"].reshape(1)
    reached = f"{len(lines)} epoch{'s' * (len(lines) != 1)}, {step:,} updates"
    assert err == f"jaxcnn: stopped by {number.name} after {reached}; go on with: jaxcnn train --resume r\n"
    assert {path.name for path in Path("r").iterdir()} == {
        "recipe.toml", "metrics.jsonl", "model.safetensors", "curves.png", "kernels.png",
    }  # fmt: skip
    assert run("train", "--resume", "r", "--epochs", len(lines) + 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == len(lines) + 1


SLOW = """
import pathlib, time
from jaxcnn.cli.interrupt import interruptible

def on_signal(name):
    pathlib.Path("began").touch()
    time.sleep(100)

pathlib.Path("ready").touch()
interruptible(lambda: time.sleep(100), on_signal)
"""


def test_a_second_ctrl_c_ends_at_once():
    with subprocess.Popen([sys.executable, "-c", SLOW], env=HERE) as process:
        for marker in ("ready", "began"):
            give_up = time.monotonic() + 60
            while not Path(marker).exists():
                assert time.monotonic() < give_up
                time.sleep(0.05)
            time.sleep(0.5)  # from the mark to the wait for a signal
            process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT
