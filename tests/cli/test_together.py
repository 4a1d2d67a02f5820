"""What one of several processes says when it cannot go on; tests/slow/test_processes.py starts several."""

import os
from pathlib import Path

import jax
import pytest

from jaxcnn.cli.processes import together


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            "UNKNOWN: Gloo AllGather failed:\n connection closed",
            "another process is gone (UNKNOWN: Gloo AllGather failed:",
        ),
        (
            "RESOURCE_EXHAUSTED: Out of memory",
            "out of memory (RESOURCE_EXHAUSTED: Out of memory); what was kept is whole",
        ),
    ],
)
def test_it_says_what_ended_it(reason, said, monkeypatch, capsys):
    def work():
        raise jax.errors.JaxRuntimeError(reason)

    with pytest.raises(jax.errors.JaxRuntimeError):
        together(work, lambda: None)  # alone it is an error like others
    ended = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", ended.append)
    together(work, lambda: Path("run"))
    assert ended == [1]
    (line,) = capsys.readouterr().err.splitlines()
    assert f"process 0 of 2: {said}" in line
    assert line.endswith("go on with: jaxcnn train --resume run")
