"""Shared by all tests: random arrays, and float64 where a test asks for it."""

import jax
import numpy as np
import pytest
from corners import drawn


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
