"""A run folder."""

import errno
import os
from pathlib import Path

import jax
import pytest

from jaxcnn import SGD, Dense, Progress, init_state
from jaxcnn.store.runs import Run


def test_a_full_disk_names_the_log(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        Run(tmp_path, Dense(1), (1,), {}).log([{"epoch": 1}])
    assert Path(raised.value.filename) == tmp_path / "metrics.jsonl"


def test_the_files_of_the_last_epochs_are_kept_in_the_order_of_their_numbers(tmp_path):
    network = Dense(1)
    state = init_state(network, SGD(0.1), jax.random.key(0), (1,))
    kept = Run(tmp_path, network, (1,), {})
    for count in (8, 9, 10, 9998, 9999, 10000, 10001):
        kept.keep_epoch(Progress(state, ({},) * count), 3)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"epoch-{count:04}.safetensors" for count in (9999, 10000, 10001)
    }
