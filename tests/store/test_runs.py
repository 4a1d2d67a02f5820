"""A run folder."""

import errno
import os
from pathlib import Path

import pytest

from jaxcnn import Dense
from jaxcnn.store.runs import Run


def test_a_full_disk_names_the_log(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        Run(tmp_path, Dense(1), (1,), {}).log([{"epoch": 1}])
    assert Path(raised.value.filename) == tmp_path / "metrics.jsonl"
