"""Damaged files end in success or one sentence, in bounded time and memory."""

import sys

import numpy as np
import pytest

from benchmarks import fuzz

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is limited and measured by Linux"),
]


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_what_is_changed_is_valid_before(kind, tmp_path):
    make, read = fuzz.KINDS[kind]
    fuzz.write(tmp_path, make(np.random.default_rng(0)))
    read(tmp_path, np.random.default_rng(0))
    for path in filter(lambda path: path.suffix in fuzz.CONTAINERS, list(tmp_path.rglob("*"))):
        take, join = fuzz.CONTAINERS[path.suffix]
        path.write_bytes(join(take(path.read_bytes())))
    read(tmp_path, np.random.default_rng(0))


def test_two_thousand_damaged_files(tmp_path):
    found = fuzz.fuzz(2000, seed=0, kept=tmp_path)
    assert found.counts.total() == 2000
    assert not found.failures
    for kind in fuzz.KINDS:
        assert found.counts[kind, "refused"] > 20, kind
        assert found.counts[kind, "read"] > 0, kind
