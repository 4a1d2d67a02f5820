"""The residual block: both ways of the sensitivity, the names, the protocol."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    CombineMaps,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    InputError,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    diagnose,
    relu_after_pool,
    spec_from_json,
    spec_to_json,
    summary,
)

BODY = Sequential((Conv2d(3, 3, stride=2, padding=1), ReLU(), Conv2d(3, 2, padding="SAME")))
NETWORKS = {
    "identity": Sequential((Residual(Sequential((Conv2d(2, 3, padding=1), ReLU()))), Flatten(), Dense(3))),
    "shortcut": Sequential((Residual(BODY, Conv2d(3, 1, stride=2)), Flatten(), Dense(3))),
}


@pytest.mark.parametrize("name", ["identity", "shortcut"])
@pytest.mark.usefixtures("float64")
def test_the_backward_pass_is_the_derivative_of_the_forward_pass(rng, name):
    network = NETWORKS[name]
    params = network.init(jax.random.key(0), (5, 4, 2))
    x = jnp.asarray(rng.standard_normal((2, 5, 4, 2)))
    y, residuals = jax.jit(network.forward)(params, x)
    dy = jnp.asarray(rng.standard_normal(y.shape))
    dx, grads, deltas = jax.jit(network.backward_with_deltas)(residuals, dy)
    expected = jax.vjp(lambda p, x: network.forward(p, x)[0], params, x)[1](dy)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), (grads, dx), expected)
    ruled = jax.vjp(network.apply, params, x)[1](dy)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), ruled, expected)
    assert ("residual1/shortcut" in deltas) == (name == "shortcut")
    np.testing.assert_array_equal(deltas["residual1"], deltas["residual1/body"])


def test_shapes_names_counts_and_json():
    network = NETWORKS["shortcut"]
    params = network.init(jax.random.key(0), (5, 4, 2))
    assert set(params["residual1"]) == {"body", "shortcut"}
    assert set(params["residual1"]["body"]) == {"conv1", "conv2"}
    block = network.layers[0]
    assert block.output_shape((5, 4, 2)) == (3, 2, 3)
    assert block.multiply_adds((5, 4, 2)) == 3 * 2 * 3 * (9 * 2 + 4 * 3 + 2)
    assert summary(network, (5, 4, 2)).total.parameters == 57 + 39 + 9 + 57
    assert spec_from_json(spec_to_json(network)) == network
    assert spec_from_json(spec_to_json(NETWORKS["identity"])) == NETWORKS["identity"]


def test_penalties_inside_reach_the_training():
    block = Residual(CombineMaps(2, 1, entropy=0.5), Sequential((Conv2d(2, 1),)))
    params = block.init(jax.random.key(0), (3, 3, 2))
    E, grads = block.penalty(params)
    assert E > 0
    assert set(grads) == {"body"}
    assert set(grads["body"]) == {"c"}


def test_units_inside_are_diagnosed():
    block = Residual(Sequential((Dense(2), ReLU())), Sequential((Dense(2), ReLU())))
    params = block.init(jax.random.key(0), (3,))
    params["shortcut"]["dense1"]["bias"] -= 99
    found = diagnose(Sequential((block,)), {"residual1": params}, jnp.ones((4, 3)))
    assert [d.name for d in found] == ["residual1/body/relu1", "residual1/shortcut/relu1"]
    assert found[1].share == 1


def test_dropout_in_both_branches_draws_apart():
    block = Residual(Dropout(0.5), Dropout(0.5))
    x = jnp.ones((1, 1000))
    values = np.unique(block.apply({}, x, train=True, key=jax.random.key(1)))
    np.testing.assert_array_equal(values, [0, 2, 4])


@pytest.mark.parametrize("shortcut", [None, Dropout(0.5)])
def test_the_keys_are_the_halves_of_the_key(shortcut):
    """With a shortcut and without: what a seed gave it gives in every version."""
    x, keys = jnp.ones((1, 100)), jax.random.split(jax.random.key(1))
    block = Residual(Dropout(0.5), shortcut)
    found = block.apply({}, x, train=True, key=jax.random.key(1))
    around = x if shortcut is None else shortcut.apply({}, x, train=True, key=keys[1])
    np.testing.assert_array_equal(found, block.body.apply({}, x, train=True, key=keys[0]) + around)
    dense = Residual(Dense(3), shortcut and Dense(3)).init(jax.random.key(1), (3,))
    for name, key in zip(dense, keys, strict=False):
        np.testing.assert_array_equal(dense[name]["weight"], Dense(3).init(key, (3,))["weight"])


def test_relu_after_pool_reaches_inside():
    stage = Sequential((Conv2d(2, 3), ReLU(), MaxPool2d(2)))
    moved = relu_after_pool(Residual(stage, stage))
    assert moved.body.names == moved.shortcut.names == ("conv1", "maxpool1", "relu1")


def test_branches_that_do_not_meet_are_refused():
    with pytest.raises(
        InputError,
        match=r"layer 'residual1' .* Residual: body's output has shape \(3, 2, 3\) and shortcut's output has shape "
        r"\(5, 4, 2\) but they must have one shape",
    ):
        Sequential((Residual(BODY),)).init(jax.random.key(0), (5, 4, 2))
    with pytest.raises(InputError, match="Residual: body is 3 but must be a layer"):
        Residual(3)
