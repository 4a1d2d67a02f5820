"""Maxima of what XLA computes anew in every fusion, rounded differently: the position must still be the maximum's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    BatchNorm,
    Conv2d,
    Dense,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    gradients,
)

BLOCK = Residual(Sequential((Conv2d(8, 3, padding=1, bias=False), BatchNorm(), ReLU())))
STEM = Conv2d(8, 3, padding=1), ReLU(), BLOCK


@pytest.mark.parametrize("pooling", [(GlobalMaxPool2d(),), (MaxPool2d(2), GlobalAvgPool2d())])
def test_behind_a_block_the_gradient_in_float32_is_that_in_float64(pooling):
    """One decision of a ReLU or a maximum that flips is some 1e-3 of the gradient; all of them are 0.4."""
    network = Sequential((*STEM, *pooling, Dense(5)))
    labels = np.arange(4) % 5

    def gradient(params, x):
        return gradients(network, SoftmaxCrossEntropy(), params, x, labels)[0]

    def step(params, x, rate):  # what is computed behind the gradient decides what XLA fuses
        return jax.tree.map(lambda w, g: w - rate * g, params, gradient(params, x))

    params = network.init(jax.random.key(0), (8, 12, 2))
    params = jax.tree.map(lambda w: w + 0.1 * jnp.cos(jnp.arange(w.size, dtype=w.dtype)).reshape(w.shape), params)
    x = jax.random.normal(jax.random.key(1), (4, 8, 12, 2))
    moved = jax.jit(step)(params, x, 2.0**20)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, x))
        truth = jax.jit(gradient)(*wide)
    old, new, true = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t)]) for t in (params, moved, truth))
    found = (old.astype(np.float64) - new) / 2.0**20
    assert np.linalg.norm(found - true) < 0.05 * np.linalg.norm(true)
