"""Several processes on one machine train to what one process does; who is left when one dies says so."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_cpu_alone")]

HERE = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
DRAWING = ["--seed", "3", "--augment", "shift:1", "--dtype", "float64", "--validation", "0.1", "--average", "0.9",
           "--schedule", "constant"]  # fmt: skip
WITHIN = 30  # seconds


def devices(count):
    return HERE | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def started(*options, count=2, each=1, processes=None):
    """The processes of one training, the first of which writes."""
    address = f"127.0.0.1:{free_port()}"
    train = [sys.executable, "-m", "jaxcnn", "train", *map(str, options), "--coordinator", address]
    return [
        subprocess.Popen(
            [*train, "--processes", str(count), "--process", str(i)],
            env=devices(each), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(count)
    ]  # fmt: skip


def ended(processes, within=240):
    """The status and stderr of each."""
    outputs = [process.communicate(timeout=within)[1] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def arrays(folder):
    found = load_file(folder / "model.safetensors")
    return {name: array for name, array in found.items() if name != "progress/seconds"}


def alike(folder, other):
    found, expected = arrays(folder), arrays(other)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-10, err_msg=name)


def alone(*options, each=1):
    command = [sys.executable, "-m", "jaxcnn", "train", *map(str, options), "--quiet"]
    subprocess.run(command, check=True, env=devices(each))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run of three epochs in one process on one device."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    alone(*DRAWING, "--epochs", 3, "--out", folder)
    return folder


def test_two_processes_of_two_devices_and_a_sharded_state_train_to_the_parameters_of_one(one, tmp_path):
    processes = started(*DRAWING, "--sharded", "--epochs", 3, "--out", tmp_path / "two", each=2)
    assert [status for status, _ in ended(processes)] == [0, 0]
    alike(tmp_path / "two", one)


def test_a_run_goes_on_with_another_number_of_processes(one, tmp_path):
    """An epoch by two, one by one, one by four, with one device each."""
    folder = tmp_path / "run"
    assert [status for status, _ in ended(started(*DRAWING, "--epochs", 1, "--out", folder))] == [0, 0]
    alone("--resume", folder, "--epochs", 2)
    found = ended(started("--resume", folder, "--epochs", 3, count=4))
    assert [status for status, _ in found] == [0] * 4, found
    alike(folder, one)


def test_under_slurm_jax_finds_the_others(one, tmp_path):
    """The variables of a job of two tasks on this machine; the port is made of the job's number."""
    job = {"SLURM_JOB_ID": str(70000 + free_port() % 4096), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    command = [sys.executable, "-m", "jaxcnn", "train", *DRAWING, "--epochs", "1", "--coordinator", "auto", "--out"]
    processes = [
        subprocess.Popen(
            [*command, tmp_path / "run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=devices(1) | job | {"SLURM_PROCID": str(i), "SLURM_LOCALID": "0"},
        )
        for i in range(2)
    ]  # fmt: skip
    found = ended(processes)
    assert [status for status, _ in found] == [0, 0], found
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("dies", [0, 1])
def test_who_is_left_says_so_and_the_last_model_is_whole(dies, tmp_path):
    folder = tmp_path / "run"
    processes = started(*DRAWING, "--epochs", 3000, "--batch-size", 8, "--quiet", "--out", folder)
    give_up = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert time.monotonic() < give_up
        time.sleep(0.05)
    processes[dies].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    (left,) = ended([processes[1 - dies]], within=WITHIN + 10)
    assert time.monotonic() - killed < WITHIN
    processes[dies].communicate()
    status, output = left
    assert status == 1
    assert f"process {1 - dies} of 2: another process is gone (" in output
    assert "Traceback" not in output
    assert ("go on with: jaxcnn train --resume" in output) == (dies == 1)  # the other has no folder
    done = len((folder / "metrics.jsonl").read_text().splitlines())
    alone("--resume", folder, "--epochs", done + 1)
    assert int(arrays(folder)["step"]) % 161 == 0  # of whole epochs, 1,294 images in batches of 8
