"""For the tests and the examples in docstrings: quick compilation, and the names that the examples use unimported."""

import os
import subprocess
import sys

# before jax is imported: what takes longer to compile than it saves in a test, and changes no formula
LEVEL, EMITTERS = "--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false"
if LEVEL not in os.environ.get("XLA_FLAGS", ""):  # else this is a worker of pytest-xdist
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {LEVEL}".strip()
    flags = f"{os.environ['XLA_FLAGS']} {EMITTERS}"
    tried = [sys.executable, "-c", "import jax; jax.devices()"]  # XLA ends the process at a flag that it does not know
    if not subprocess.run(tried, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True).returncode:
        os.environ["XLA_FLAGS"] = flags

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)  # for the tests of meshes; the first is where all else runs


@pytest.fixture(autouse=True)
def _names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, np=np)
