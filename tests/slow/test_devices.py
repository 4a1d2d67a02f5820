"""Gradients over two devices, in processes of their own: the number of devices is fixed at the start."""

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


NORMALISED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxcnn import (BatchNorm, Conv2d, Dense, Flatten, ReLU, Sequential, SGD, SoftmaxCrossEntropy, gradients,
                    init_state, train_step)

jax.config.update("jax_enable_x64", True)
mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
network, loss = Sequential((Conv2d(4, 3), BatchNorm(), ReLU(), Flatten(), Dense(5), BatchNorm())), SoftmaxCrossEntropy()
optimizer = SGD(0.1)
state = init_state(network, optimizer, jax.random.key(0), (6, 5, 2), dtype=jnp.float64)
rng = np.random.default_rng(0)
x = rng.standard_normal((8, 6, 5, 2)) + np.arange(8)[:, None, None, None]  # each half with a mean of its own
labels = np.arange(8) % 5
divided = [jax.device_put(a, NamedSharding(mesh, P("d"))) for a in (x, labels)]
jitted = jax.jit(gradients, static_argnums=(0, 1))
(grads, E, _, statistics), expected = (jitted(network, loss, state.params, *data) for data in (divided, (x, labels)))
step, _ = train_step(network, loss, optimizer, state, *divided)
whole, _ = train_step(network, loss, optimizer, state, x, labels)
for found, truth in (((grads, E, statistics), (*expected[:2], expected[3])), (step.params, whole.params),
                     (step.statistics, whole.statistics)):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, truth)
assert len(divided[0].sharding.device_set) == 2
print("right")
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [PROGRAM, NORMALISED], ids=["convolution", "batch norm"])
def test_sharded_arrays_give_the_gradient_of_one_device(program):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | flags, capture_output=True, text=True)
    assert done.stdout == "right\n", done.stderr
