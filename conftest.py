"""Names that the examples in docstrings use without importing them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, np=np)
