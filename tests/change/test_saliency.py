"""Guided backpropagation and the deconvnet, against their formulas entry by entry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import Dense, LeakyReLU, ReLU, Sequential, Sigmoid, SiLU, Tanh, with_rules
from jaxcnn.change import attribute, deconvnet, guided, is_rectifier

pytestmark = pytest.mark.usefixtures("float64")

U = np.array([[-2.0, -0.5, 1.5, 3.0]])
DY = np.array([[1.0, -4.0, -2.0, 5.0]])


def silu_slope(u):
    s = 1 / (1 + np.exp(-u))
    return s + u * s * (1 - s)


@pytest.mark.parametrize(
    ("layer", "slope"),
    [(ReLU(), lambda u: float(u > 0)), (LeakyReLU(0.3), lambda u: 1.0 if u > 0 else 0.3), (SiLU(), silu_slope)],
)
def test_what_is_negative_does_not_come_back_and_the_slope_counts_in_one_of_them(layer, slope):
    for rule, factor in ((guided, slope), (deconvnet, lambda u: 1.0)):
        _, residuals = (changed := with_rules(layer, {is_rectifier: rule})).forward({}, jnp.asarray(U))
        du, _ = changed.backward(residuals, jnp.asarray(DY))
        expected = [factor(u) * dy if dy > 0 else 0.0 for u, dy in zip(U[0], DY[0], strict=True)]
        np.testing.assert_allclose(du[0], expected, rtol=1e-12)


def test_a_network_of_two_layers_by_hand(rng):
    V, W = rng.standard_normal((5, 7)), rng.standard_normal((7, 3))
    x = rng.standard_normal((4, 5))
    labels = np.array([2, 0, 1, 1])
    network = Sequential((Dense(7, bias=False), ReLU(), Dense(3, bias=False)))
    params = {"dense1": {"weight": jnp.asarray(V)}, "dense2": {"weight": jnp.asarray(W)}}
    back, forward = W[:, labels].T, x @ V > 0
    for rules, expected in (
        (None, (back * forward) @ V.T),
        ({ReLU: deconvnet}, (back * (back > 0)) @ V.T),
        ({ReLU: guided}, (back * (back > 0) * forward) @ V.T),
    ):
        np.testing.assert_allclose(attribute(network, params, x, rules, labels), expected, rtol=1e-10, atol=1e-12)


def test_rectifiers_are_those_that_are_flat_on_one_side():
    kinds = ReLU(), LeakyReLU(), SiLU(), with_rules(ReLU(), {ReLU: guided}), Sigmoid(), Tanh(), Dense(2)
    assert [is_rectifier("", layer) for layer in kinds] == [True, True, True, True, False, False, False]


def test_without_a_rectifier_both_are_the_gradient():
    network = Sequential((Dense(3), Tanh(), Dense(2)))
    params = network.init(jax.random.key(0), (4,))
    x = jax.random.normal(jax.random.key(1), (2, 4))
    for rule in guided, deconvnet:
        np.testing.assert_array_equal(
            attribute(network, params, x, {is_rectifier: rule}), attribute(network, params, x)
        )
