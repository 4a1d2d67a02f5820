"""Processes of their own: what is computed there, what fails there, and that none outlives its parent."""

import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.speed import busy, nets, precision, timing
from benchmarks.speed.children import Child
from benchmarks.speed.timing import Failed, Variant
from jaxcnn import Conv2d, Flatten, Sequential
from jaxcnn.kernels import onednn

NETWORK, IN_SHAPE = Sequential((Conv2d(2, 3), Flatten())), (5, 5, 1)


def three(value):
    """In the child: one that is right, one that raises, one that is wrong."""

    def fail():
        raise ValueError("no\nsuch thing")

    turns = []  # as many seconds as there were turns before

    def turn():
        turns.append(turn)
        return float(len(turns))

    return [
        Variant("right", turn, lambda: [jnp.full(2, value), np.float64(os.getpid())], steps=4),
        Variant("broken", lambda: 1.0, fail),
        Variant("wrong", lambda: 1.0, lambda: [np.zeros(2)]),
    ]


def lost():
    """In the child."""
    os._exit(3)


def precision_of_products():
    """In the child."""
    return jax.config.jax_default_matmul_precision


def why_onednn_is_not_called(task):
    """In the child: the answer of our step there, and the reason."""
    (variant,) = nets.step_without_onednn(task)
    return variant.name, variant.answer(), onednn._native()[1]


def runs(pid):
    """Whether the process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid):
    """Whether the process is gone; it has long to go."""
    end = time.monotonic() + 60
    while runs(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not runs(pid)


def test_variants_are_computed_in_the_child_and_one_that_raises_fails_alone():
    with Child("theirs") as child:
        right, broken, wrong = child.variants(three, 7)
        assert (right.name, right.steps) == ("right", 4)
        value, pid = right.answer()
        np.testing.assert_array_equal(value, [7, 7])
        assert int(pid) == child._process.pid != os.getpid()
        assert [right.turn(), right.turn()] == [2.0, 3.0]  # the first turn was before the answer came
        sentence = "broken failed in its process: ValueError: no"
        with pytest.raises(Failed, match=f"^{sentence}$"):
            broken.answer()
        rows = timing.measure([wrong, broken], [np.ones(2)], 1e-3, 0.01)
        assert rows[0] == {"variant": "wrong", "error": 1.0}
        assert rows[1] == {"variant": "broken", "error": None, "failed": sentence}
        right, *_ = child.variants(three, 8)  # in place of those
        assert right.answer()[0][0] == 8


def test_variants_that_cannot_be_built_fail_and_so_do_those_of_a_child_that_is_gone():
    with Child("theirs") as child:
        for build, sentence in (
            (three, "theirs failed in its process: TypeError: three() missing 1 required positional argument: 'value'"),
            (lost, "theirs: its process ended with exit code 3"),
            (three, "theirs: its process ended with exit code 3"),
        ):
            (variant,) = child.variants(build)
            assert variant.name == "theirs"
            with pytest.raises(Failed) as failed:
                variant.answer()
            assert str(failed.value) == sentence


def test_the_precision_of_products_is_that_of_the_parent():
    with Child("a child") as child:
        assert child.call(precision_of_products) == "highest"
        with jax.default_matmul_precision("high"):
            assert child.call(precision_of_products) == "high"


def test_a_child_that_ends_is_named():
    with Child("theirs") as child, pytest.raises(Failed, match=r"^theirs: its process ended with exit code 3$"):
        child.call(os._exit, 3)


def test_a_child_ends_with_its_block_whatever_it_does():
    pids = []

    def interrupted():
        with Child("a child") as child:
            pids.append(child.call(os.getpid))
            child._pipe.send((time.sleep, (1000,), None))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not runs(*pids)


@pytest.mark.parametrize(
    "body",
    [
        "with Child('a child') as child: print(child.call(os.getpid), flush=True); sys.stdin.read()",
        "with busy_processes(1) as (process,): print(process.pid, flush=True); sys.stdin.read()",
    ],
    ids=["a framework", "a busy one"],
)
def test_a_process_ends_with_a_parent_that_is_killed(body):
    code = f"""
import os, sys
from benchmarks.speed.busy import busy_processes
from benchmarks.speed.children import Child
{body}
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert runs(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert ends(pid)


def test_our_step_without_onednn_is_ours(monkeypatch):
    task = nets.Task.draw(NETWORK, IN_SHAPE, 4, precision.FLOAT32)
    with Child("ours, without oneDNN") as child:
        name, answer, reason = child.call(why_onednn_is_not_called, task)
    assert (name, reason) == ("ours, without oneDNN", "switched off for the measurement")
    assert timing.distance(answer, nets.step_in_float64(NETWORK)(task)) < 1e-6


def test_busy_processes_run_during_the_block_and_the_fastest_of_the_others_is_measured_beside_them(monkeypatch):
    seen, started = [], []
    original = busy.busy_processes

    def watched(count):
        started.append(count)
        return original(count)

    monkeypatch.setattr(busy, "busy_processes", watched)

    def variant(name, quiet, value=1.0):
        def turn():
            seen.append(name)
            return 3 * quiet if started else quiet

        return Variant(name, turn, lambda: [np.full(1, value)])

    variants = [variant("ours", 2.0), variant("slow", 4.0), variant("fast", 1.0), variant("wrong", 0.5, 0.0)]
    ours, fast = busy.beside(variants, [np.ones(1)], 1e-3, 0.0)
    assert started == [2]
    assert ours == {"variant": "ours", "error": 0, "milliseconds": 2e3, "busy_milliseconds": 6e3, "busy_ratio": 3}
    assert (fast["variant"], fast["busy_ratio"]) == ("fast", 3)
    assert "wrong" not in seen
