"""Every command runs in an empty folder."""

import dataclasses

import pytest

from jaxcnn.data import load_digits


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few_digits():
    """96 digits to train on and 40 to test, for what does not depend on how well it is learnt."""
    digits = load_digits()
    cut = {
        f"{split}_{part}": getattr(digits, f"{split}_{part}")[:size]
        for split, size in (("train", 96), ("test", 40))
        for part in ("images", "labels")
    }
    return dataclasses.replace(digits, **cut)
