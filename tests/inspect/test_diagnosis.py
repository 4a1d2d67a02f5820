"""Diagnosis [T4]: shares of saturated and dead units, counted here by hand, and the sentences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    ELU,
    GELU,
    SGD,
    Conv2d,
    Dense,
    Diagnosis,
    Flatten,
    GELUTanh,
    HardSwish,
    InputError,
    LeakyReLU,
    ReLU,
    ScaledTanh,
    Sequential,
    Sigmoid,
    SiLU,
    SoftmaxCrossEntropy,
    Softplus,
    Tanh,
    diagnose,
    gradients,
)


def test_saturated_is_a_derivative_below_a_twentieth_of_its_maximum(rng):
    x = rng.uniform(-8, 8, (50, 7)).astype(np.float32)
    step = np.float64(1e-3)
    functions = {
        Sigmoid(): lambda u: 1 / (1 + np.exp(-u)),
        Tanh(): np.tanh,
        ScaledTanh(): lambda u: 1.7159 * np.tanh(2 * u / 3),
    }
    for layer, f in functions.items():
        slope = (f(x + step) - f(x - step)) / (f(step) - f(-step))
        (found,) = diagnose(layer, {}, jnp.asarray(x))
        assert (found.symptom, found.units) == ("saturated", 7)
        assert found.share == pytest.approx((slope < 0.05).mean(), abs=1e-6)
        assert 0.2 < found.share < 0.8


def test_a_unit_is_dead_only_if_it_is_zero_for_every_sample():
    u = jnp.array([[-1.0, 0.0, -1.0, 2.0], [-3.0, -1.0, 0.1, 2.0]])
    (found,) = diagnose(ReLU(), {}, u)
    assert found == Diagnosis("relu1", "dead", 4, 0.5)


def test_a_map_is_dead_only_if_it_is_zero_at_every_position(rng):
    u = -rng.random((3, 4, 5, 2)).astype(np.float32)
    u[1, 2, 3, 0] = 1
    (found,) = diagnose(ReLU(), {}, jnp.asarray(u))
    assert found == Diagnosis("relu1", "dead", 2, 0.5)


def test_layers_inside_a_layer_are_named_like_their_deltas(rng):
    network = Sequential((Dense(3), Sequential((Tanh(), Dense(4), ReLU())), Sigmoid()))
    params = network.init(jax.random.key(0), (2,))
    x = jnp.asarray(rng.standard_normal((5, 2)), jnp.float32)
    names = [found.name for found in diagnose(network, params, x)]
    assert names == ["sequential1/tanh1", "sequential1/relu1", "sigmoid1"]
    y, residuals = network.forward(params, x)
    assert set(names) < set(network.backward_with_deltas(residuals, y)[2])


def test_a_large_step_kills_units_and_it_is_said_in_words(rng):
    network = Sequential((Conv2d(4, 3), ReLU(), Flatten(), Dense(40), ReLU(), Dense(3)))
    loss = SoftmaxCrossEntropy()
    params = network.init(jax.random.key(0), (6, 5, 1))
    x, labels = jnp.asarray(rng.random((20, 6, 5, 1)), jnp.float32), jnp.asarray(np.arange(20) % 3)
    assert not any(found.severe for found in diagnose(network, params, x))

    of_batch = jax.jit(lambda params: gradients(network, loss, params, x, labels)[0])
    optimizer = SGD(10.0)
    for _ in range(4):
        params, _ = optimizer.update(of_batch(params), optimizer.init(params), params)
    found, _ = diagnose(network, params, x)
    assert found.severe
    assert str(found) == "relu1: 4 of 4 units are dead: zero for every sample, so their weights get no gradient"
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_batch(params)["conv1"]))  # as it says


def test_saturation_is_said_in_words():
    found, mild = diagnose(Sequential((Tanh(), Sigmoid())), {}, jnp.full((2, 3), 20.0))
    assert found.severe
    assert str(found) == "tanh1: 100% of 3 units are saturated: f' is near zero and little gradient passes"
    assert not mild.severe


def test_a_batch_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="dense"):
        diagnose(Dense(2), {"weight": jnp.ones((3, 2)), "bias": jnp.ones(2)}, jnp.ones((4, 5)))


def test_a_hard_swish_unit_is_dead_at_minus_three_and_below():
    """There its gradient is exactly zero, as the sentence says; the others have none to find."""
    u = jnp.array([[-3.0, -4.0, -2.9, 0.0], [-5.0, -3.0, -8.0, 0.0]])
    (found,) = diagnose(HardSwish(), {}, u)
    assert found == Diagnosis("hardswish1", "dead", 4, 0.5)
    dead = (HardSwish().backward(HardSwish().forward({}, u)[1], jnp.ones_like(u))[0] == 0).all(axis=0)
    np.testing.assert_array_equal(dead, [True, True, False, False])
    assert diagnose(Sequential((LeakyReLU(), ELU(), GELU(), GELUTanh(), SiLU(), Softplus())), {}, u) == ()
