"""Batch norms that are made part of the layer before them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    BatchNorm,
    Concatenate,
    Conv2d,
    Dense,
    Flatten,
    Identity,
    InputError,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    init_statistics,
    merged,
    merged_batch_norms,
)

NETWORK = Sequential(
    (
        BatchNorm(),
        Conv2d(6, 3, groups=3, bias=False),
        BatchNorm(0.1),
        ReLU(),
        Conv2d(6, 2),
        MaxPool2d(2),
        BatchNorm(),
        Residual(Sequential((Conv2d(6, 1), BatchNorm(), BatchNorm(), ReLU()))),
        Concatenate((Identity(), Sequential((BatchNorm(),)))),
        Flatten(),
        Dense(5),
        BatchNorm(),
        Dense(3, bias=False),
    )
)
IN_SHAPE = (8, 7, 3)


def drawn(dtype):
    """`(params, x)`: scales of both signs, statistics far from 0 and 1."""
    params = NETWORK.init(jax.random.key(0), IN_SHAPE)
    params = merged(params, init_statistics(NETWORK, params, IN_SHAPE))
    keys = iter(jax.random.split(jax.random.key(1), 99))

    def random(path, w):
        if path[-1].key == "variance":
            return jax.random.uniform(next(keys), w.shape, dtype, 0.5, 3.0)
        return jax.random.normal(next(keys), w.shape, dtype)

    params = jax.tree_util.tree_map_with_path(random, params)
    return params, jax.random.normal(jax.random.key(2), (4, *IN_SHAPE), dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-12), (jnp.float32, 1e-5)])
def test_the_outputs_stay_the_same(dtype, tolerance):
    with jax.enable_x64(True):
        params, x = drawn(dtype)
        y = NETWORK.apply(params, x)
        network, fewer = merged_batch_norms(NETWORK, params)
        found = network.apply(fewer, x)
        assert found.dtype == dtype
        assert {w.dtype for w in jax.tree.leaves(fewer)} == {jnp.dtype(dtype)}
        np.testing.assert_allclose(found, y, rtol=0, atol=tolerance * np.abs(y).max())


def test_norms_behind_linear_layers_are_gone_and_the_others_have_their_new_names():
    params, _ = drawn(jnp.float32)
    network, fewer = merged_batch_norms(NETWORK, params)
    assert network.names == (
        "batchnorm1", "conv1", "relu1", "conv2", "maxpool1", "batchnorm2", "residual1", "concatenate1", "flatten1",
        "dense1", "dense2",
    )  # fmt: skip
    np.testing.assert_array_equal(fewer["batchnorm2"]["mean"], params["batchnorm3"]["mean"])
    assert network.children()["residual1"] == Residual(Sequential((Conv2d(6, 1), ReLU())))
    assert set(fewer["residual1"]["body"]) == {"conv1"}
    assert network.children()["conv1"] == Conv2d(6, 3, groups=3)
    assert network.children()["dense2"] == Dense(3, bias=False)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), IN_SHAPE))
    norms = {"batchnorm1", "batchnorm2", "concatenate1"}  # have their statistics beside
    assert jax.tree.map(jnp.shape, {k: v for k, v in fewer.items() if k not in norms}) == jax.tree.map(
        jnp.shape, {k: v for k, v in shapes.items() if k not in norms}
    )


def test_a_norm_without_statistics_is_refused():
    network = Sequential((Dense(2), BatchNorm()))
    with pytest.raises(InputError, match=r"BatchNorm: params has \['bias', 'scale'\] but must have 'mean'"):
        merged_batch_norms(network, network.init(jax.random.key(0), (3,)))
