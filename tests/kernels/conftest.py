"""These tests are of what runs on CPU, also where JAX has another device."""

import jax
import pytest


@pytest.fixture(autouse=True)
def on_cpu():
    """Arrays and programs of the test are the CPU's."""
    with jax.default_device(jax.devices("cpu")[0]):
        yield
