"""A small problem that is learned in seconds: three classes of images that differ in the corner that is bright."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import (
    SGD,
    Conv2d,
    Cosine,
    Dense,
    Dropout,
    Flatten,
    MaxPool2d,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    init_state,
)

NETWORK = Sequential((Conv2d(4, 3), ReLU(), MaxPool2d(2), Flatten(), Dropout(0.2), Dense(3)))
LOSS = SoftmaxCrossEntropy()
OPTIMIZER = SGD(Cosine(0.1, 100), momentum=0.9)


def drawn(rng):
    """50 images and their labels."""
    labels = rng.integers(0, 3, 50)
    x = rng.standard_normal((50, 6, 6, 1)) / 2
    for i, label in enumerate(labels):
        x[i, 4 * (label % 2) :, 4 * (label // 2) :][:2, :2] += 3
    return jnp.asarray(x, jnp.float32), jnp.asarray(labels)


def start(seed=0, optimizer=OPTIMIZER):
    """The state before the first step."""
    return init_state(NETWORK, optimizer, jax.random.key(seed), (6, 6, 1))


def same(a, b):
    """Whether two states have the same parameters, bit for bit."""
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True))
