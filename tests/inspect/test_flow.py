"""What goes forward and comes back: each output is that of the layers so far, each sensitivity that of the rest."""

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import (
    AvgPool2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    Tanh,
)
from jaxcnn.inspect.flow import flow

LOSS = SoftmaxCrossEntropy()


def test_every_sensitivity_is_the_slope_of_the_error_when_the_layers_behind_it_are_run_again(float64, rng):
    layers = Conv2d(3, 3), Tanh(), Residual(Conv2d(3, 1)), AvgPool2d(2), Flatten(), Dropout(0.5), Dense(4)
    network = Sequential(layers)
    params = network.init(jax.random.key(0), (6, 8, 2))
    image = jnp.asarray(rng.standard_normal((6, 8, 2)))
    passed, E = flow(network, LOSS, params, image, 2)
    assert [layer.name for layer in passed] == ["input", *network.names]
    assert pytest.approx(float(LOSS.apply(network.apply(params, image[None]), jnp.array([2])))) == E

    def error(x, behind):
        for name, layer in list(network.children().items())[behind:]:
            x = layer.apply(params.get(name, {}), x)
        return float(LOSS.apply(x, jnp.array([2])))

    for behind, layer in enumerate(passed):
        assert layer.delta.shape == layer.x.shape
        assert error(jnp.asarray(layer.x)[None], behind) == pytest.approx(E, rel=1e-12)
        direction, h = rng.standard_normal(layer.x.shape), 1e-5  # h^2 of truncation, eps / h of rounding
        up, down = (error(jnp.asarray(layer.x + step * direction)[None], behind) for step in (h, -h))
        assert (layer.delta * direction).sum() == pytest.approx((up - down) / (2 * h), rel=1e-7, abs=1e-9)


def test_a_layer_alone_is_a_chain_of_one():
    passed, _ = flow(Dense(2), LOSS, {"weight": jnp.eye(2), "bias": jnp.zeros(2)}, jnp.array([1.0, 3.0]), 0)
    assert [layer.name for layer in passed] == ["input", "dense1"]
