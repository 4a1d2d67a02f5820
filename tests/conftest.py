"""Shared by all tests: random arrays, and float64 where a test asks for it."""

import dataclasses

import jax
import numpy as np
import pytest
from corners import drawn

from jaxcnn.data import load_digits
from jaxcnn.kernels import onednn


@pytest.fixture(autouse=True, scope="session")
def exact_products():
    """A GPU rounds products of float32 to TF32 unless it is told not to; the tolerances are those of float32."""
    jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture
def on_cpu_alone():
    """Skipped where JAX computes on another device."""
    if jax.default_backend() != "cpu":
        pytest.skip("what is asserted holds on CPU alone")


@pytest.fixture
def rng():
    """A seeded generator: the same numbers in every run."""
    return np.random.default_rng(20260101)


@pytest.fixture
def float64():
    """JAX with 64-bit types for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def images(rng):
    """The images and labels of `corners`."""
    return drawn(rng)


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    """The current folder is an empty one."""
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


@pytest.fixture
def without_onednn(monkeypatch):
    """As on a machine where it is not built."""
    jax.clear_caches()
    monkeypatch.setattr(onednn, "_native", lambda: (None, "switched off for the test"))
    yield
    jax.clear_caches()


@pytest.fixture(params=["by oneDNN", "by XLA"])
def either(request):
    """With and without oneDNN, where it is built."""
    if request.param == "by XLA":
        request.getfixturevalue("without_onednn")
    elif onednn.why_not() is not None:
        pytest.skip(onednn.why_not())
