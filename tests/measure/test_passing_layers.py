"""What passes each layer, handed to a function in one pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    BatchNorm,
    Concatenate,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    Identity,
    Recompute,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    init_statistics,
    merged,
)
from jaxcnn.measure import each_layer, norms_and_zeros

BODY = Sequential((Conv2d(2, 3, padding=1), BatchNorm(), ReLU()))
NETWORK = Sequential(
    (Conv2d(2, 3), Residual(BODY), Recompute(Concatenate((ReLU(), Identity()))), Dropout(0.4), Flatten(), Dense(3))
)
LOSS, KEY = SoftmaxCrossEntropy(), jax.random.key(5)
NAMES = [
    "conv1", "residual1/body/conv1", "residual1/body/batchnorm1", "residual1/body/relu1",
    "recompute1/body/relu1", "recompute1/body/identity1", "dropout1", "flatten1", "dense1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def drawn():
    params = NETWORK.init(jax.random.key(0), (6, 5, 1))
    x = jax.random.normal(jax.random.key(1), (4, 6, 5, 1), jnp.float64)
    return jax.tree.map(lambda w: w.astype(jnp.float64), params), x, jnp.arange(4) % 3


def chain(params, x, labels):
    y, residuals = NETWORK.forward(params, x, train=True, key=KEY)
    _, of_loss = LOSS.forward(y, labels)
    return NETWORK.backward_with_deltas(residuals, LOSS.backward(of_loss))


def test_every_layer_is_handed_on_with_its_delta_by_its_name():
    params, x, labels = drawn()

    def handed(layer, params, residuals, dy, context):
        return {"dy": dy, "x": context.x, "y": context.y, "grads": layer.backward(residuals, dy)[1]}

    found = each_layer(NETWORK, LOSS, params, x, labels, handed, key=KEY)
    _, grads, deltas = chain(params, x, labels)
    assert list(found) == NAMES
    for name in NAMES:
        np.testing.assert_allclose(found[name]["dy"], deltas[name], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found["conv1"]["grads"]["weight"], grads["conv1"]["weight"], rtol=1e-12)
    np.testing.assert_array_equal(found["conv1"]["x"], x)
    np.testing.assert_array_equal(found["dense1"]["x"], found["flatten1"]["y"])


def test_norms_and_zeros_are_those_of_each_layer():
    params, x, labels = drawn()
    found = each_layer(NETWORK, LOSS, params, x, labels, norms_and_zeros, key=KEY)
    _, grads, deltas = chain(params, x, labels)
    for name in NAMES:
        np.testing.assert_allclose(found[name]["delta"], np.linalg.norm(deltas[name]), rtol=1e-6)
        np.testing.assert_allclose(found[name]["delta_zeros"], (np.asarray(deltas[name]) == 0).mean(), rtol=1e-6)
    own = grads["residual1"]["body"]["conv1"]
    norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in own.values()))
    np.testing.assert_allclose(found["residual1/body/conv1"]["gradient"], norm, rtol=1e-6)
    assert found["recompute1/body/relu1"]["gradient"] == 0
    assert 0 < found["dropout1"]["zeros"] < 1
    assert found["conv1"]["zeros"] == 0


def test_at_rest_and_under_jit():
    params, x, labels = drawn()
    at_rest = merged(params, init_statistics(NETWORK, params, (6, 5, 1)))
    eager = each_layer(NETWORK, LOSS, at_rest, x, labels, norms_and_zeros, train=False)
    compiled = jax.jit(lambda p: each_layer(NETWORK, LOSS, p, x, labels, norms_and_zeros, train=False))(at_rest)
    assert eager["dropout1"]["zeros"] == eager["flatten1"]["zeros"] == compiled["flatten1"]["zeros"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), eager, compiled)


def test_a_callback_may_hear_of_it():
    params, x, labels = drawn()
    heard = []

    def told(layer, params, residuals, dy, context):
        jax.debug.callback(lambda largest, name=context.name: heard.append((name, float(largest))), jnp.abs(dy).max())

    each_layer(NETWORK, LOSS, params, x, labels, told, key=KEY)
    jax.effects_barrier()
    assert {name for name, _ in heard} == set(NAMES)
