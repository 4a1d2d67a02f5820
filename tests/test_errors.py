"""Errors stay readable: a tree of weights given for something else is not printed whole."""

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import (
    SGD,
    Conv2d,
    Cosine,
    Dropout,
    InputError,
    MaxPool2d,
    Optax,
    Residual,
    Sequential,
    init_state,
    max_pool2d,
    summary,
)
from jaxcnn.layers.combine_maps import CombineMaps

PARAMS = {"conv1": {"weight": jnp.ones((9, 9, 9, 9)), "bias": jnp.ones(9)}}
NETWORK = Sequential((Conv2d(2, 3),))


@pytest.mark.parametrize(
    "call",
    [
        lambda: SGD(PARAMS),  # pyright: ignore[reportArgumentType]
        lambda: Cosine(0.1, PARAMS),  # pyright: ignore[reportArgumentType]
        lambda: Optax(PARAMS),
        lambda: init_state(NETWORK, PARAMS, jax.random.key(0), (8, 8, 1)),  # pyright: ignore[reportArgumentType]
        lambda: init_state(NETWORK, SGD(0.1), PARAMS, (8, 8, 1)),  # pyright: ignore[reportArgumentType]
        lambda: summary(NETWORK, PARAMS),  # pyright: ignore[reportArgumentType]
        lambda: summary(PARAMS, (8, 8, 1)),  # pyright: ignore[reportArgumentType]
        lambda: Sequential(NETWORK, PARAMS),  # pyright: ignore[reportArgumentType]
        lambda: Residual(PARAMS),  # pyright: ignore[reportArgumentType]
        lambda: Dropout(PARAMS),  # pyright: ignore[reportArgumentType]
        lambda: MaxPool2d(PARAMS),  # pyright: ignore[reportArgumentType]
        lambda: Conv2d(2, 3, padding=PARAMS),  # pyright: ignore[reportArgumentType]
        lambda: Conv2d(2, 3, initializer=PARAMS),  # pyright: ignore[reportArgumentType]
        lambda: CombineMaps(2, 3, entropy=PARAMS),  # pyright: ignore[reportArgumentType]
        lambda: max_pool2d(jnp.ones((1, 2, 2, 1)), PARAMS),
    ],
)
def test_a_tree_of_weights_is_cut_to_one_line(call):
    with pytest.raises(InputError) as error:
        call()
    assert "{'conv1': {'weight': Array([[[[1., 1., 1." in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 330
