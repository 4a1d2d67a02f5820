"""For the tests and the examples in docstrings: quick compilation, and the names that the examples use unimported."""

import os

# before jax is imported; LLVM's optimizations take longer than they save in a test, and change no formula
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, np=np)
