"""A convolution and its gradient over two devices, in a process of its own: their number is fixed at the start."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxcnn import conv2d
from jaxcnn.kernels import onednn

mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
rng = np.random.default_rng(0)
x, w, b = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((4, 9, 8, 4), (3, 3, 4, 6), (6,)))
loss = lambda params, x: (conv2d(x, *params, stride=(1, 2)) ** 2).mean()
expected = jax.grad(loss)((w, b), x)
divided = jax.device_put(x, NamedSharding(mesh, P("d")))
plain = jax.jit(jax.grad(loss)).lower((w, b), divided).compile()
assert "jaxcnn_" not in plain.as_text()  # XLA cannot divide a call, so the convolutions are its own


@jax.jit
@jax.shard_map(mesh=mesh, in_specs=(P(), P("d")), out_specs=P())
def mapped(params, x):
    return jax.lax.pmean(jax.grad(loss)(jax.lax.pcast(params, "d", to="varying"), x), "d")


assert ("jaxcnn_" in mapped.lower((w, b), x).compile().as_text()) == (onednn.why_not() is None)
for found in (plain((w, b), divided), mapped((w, b), x)):
    for a, e in zip(found, expected):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)  # float32 sums of a few hundred terms in another order
print("right")
"""


@pytest.mark.slow
def test_sharded_arrays_and_shard_map_give_the_gradient_of_one_device():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | flags, capture_output=True, text=True)
    assert done.stdout == "right\n", done.stderr
