"""What is passed back through a layer: by NumPy, and what training makes of it."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    SGD,
    Averaged,
    BatchNorm,
    Clipped,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    Identity,
    InputError,
    MaxPool2d,
    Optax,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    fit,
    gradients,
    init_state,
    train_epoch,
    train_step,
    with_rules,
)
from jaxcnn.change import Clip, Noise, frozen, straight_through
from jaxcnn.verify.tolerances import EXACT, relative_error
from reference.conv import conv2d_backward
from reference.dense import dense_backward

KEY = jax.random.key(2)
LOSS = SoftmaxCrossEntropy()
CONV = Conv2d(3, (3, 2), stride=(2, 1), padding=((1, 0), (2, 1)), dilation=(1, 2))
HOW = {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2)}


def back(layer, rule, params, x, dy=None, rng=None, key=None):
    """dy, and what the rule makes of it: dx and grads."""
    ruled = with_rules(layer, {type(layer): rule})
    y, residuals = ruled.forward(params, jnp.asarray(x), train=True, key=key)
    dy = rng.standard_normal(y.shape) if dy is None else dy
    return dy, *ruled.backward(residuals, jnp.asarray(dy))


def of_conv(rng):
    x = rng.standard_normal((4, 6, 5, 2))
    params = {"weight": rng.standard_normal((3, 2, 2, 3)), "bias": rng.standard_normal(3)}
    return x, params, jax.tree.map(jnp.asarray, params)


@pytest.mark.usefixtures("float64")
def test_straight_through_hands_dy_on_and_learns_by_it(rng):
    x, weight = rng.standard_normal((3, 4)), rng.standard_normal((4, 4))
    params = {"weight": jnp.asarray(weight), "bias": jnp.zeros(4)}
    dy, dx, grads = back(Dense(4), straight_through, params, x, rng=rng)
    np.testing.assert_array_equal(dx, dy)
    _, dweight, dbias = dense_backward((x, weight, 0), dy)
    assert relative_error(grads["weight"], dweight) < EXACT
    assert relative_error(grads["bias"], dbias) < EXACT
    u = rng.standard_normal((5, 6))
    dy, dx, grads = back(ReLU(), straight_through, {}, u, rng=rng)
    np.testing.assert_array_equal(dx, dy)
    assert grads == {}


def test_straight_through_refuses_a_layer_of_another_shape():
    x = jnp.ones((2, 4, 6, 1))
    ruled = with_rules(Sequential((MaxPool2d(2),)), {MaxPool2d: straight_through})
    y, residuals = ruled.forward({}, x)
    sentence = r"straight_through: the layer 'maxpool1' goes from shape \(2, 4, 6, 1\) to \(2, 2, 3, 1\) but must keep"
    with pytest.raises(InputError, match=sentence):
        ruled.backward(residuals, y)


@pytest.mark.usefixtures("float64")
def test_a_sample_whose_dy_is_longer_than_the_norm_counts_with_the_norm(rng):
    x, params, arrays = of_conv(rng)
    shape = CONV.apply(arrays, jnp.asarray(x)).shape
    dy = rng.standard_normal(shape) * np.array([0.01, 3.0, 0.0, 0.05])[:, None, None, None]
    lengths = np.sqrt((dy**2).sum((1, 2, 3)))
    norm = 1.3
    assert [length > norm for length in lengths] == [False, True, False, False]
    expected = dy * np.array([1, norm / lengths[1], 1, 1])[:, None, None, None]
    _, dx, grads = back(CONV, Clip(norm), arrays, x, dy)
    truth = conv2d_backward((x, params["weight"], 0), expected, **HOW)
    for found, true in zip((dx, grads["weight"], grads["bias"]), truth, strict=True):
        assert relative_error(found, true) < EXACT


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_clipped_dy_has_the_norm_whatever_its_size_and_keeps_its_dtype(dtype, rng):
    x = jnp.ones((4, 30, 40), dtype)
    direction = rng.standard_normal((4, 30, 40))
    dy = jnp.asarray(direction * np.array([1e-30, 1.0, 1e5, 1e30])[:, None, None], dtype)
    _, dx, _ = back(Identity(), Clip(2.0), {}, x, dy)
    assert dx.dtype == dtype
    np.testing.assert_array_equal(dx[0], dy[0])
    lengths = np.sqrt((np.asarray(dx, np.float64)[1:] ** 2).sum((1, 2)))
    # a length from sums in float32; the roundings of its 1200 entries to dx's dtype average out
    rtol = 4 * jnp.finfo(jnp.float32).eps + 2 * float(jnp.finfo(dtype).eps) / math.sqrt(1200)
    np.testing.assert_allclose(lengths, 2, rtol=rtol)
    _, dx, _ = back(Identity(), Clip(2.0), {}, x, jnp.zeros_like(dy))
    np.testing.assert_array_equal(dx, 0)


def noise(layer, x, key, deviation=0.5, params=None):
    """What the rule adds to dx, and the gradients."""
    dy, noisy, grads = back(layer, Noise(deviation), params or {}, x, key=key, rng=np.random.default_rng(1))
    ruled = with_rules(layer, {})
    _, residuals = ruled.forward(params or {}, jnp.asarray(x), train=True, key=key)
    dx, true = ruled.backward(residuals, jnp.asarray(dy))
    return np.asarray(noisy - dx), grads, true


@pytest.mark.usefixtures("float64")
def test_noise_is_normal_of_the_deviation_and_leaves_the_gradients_alone(rng):
    x, _, arrays = of_conv(rng)
    _, grads, true = noise(CONV, x, KEY, params=arrays)
    jax.tree.map(np.testing.assert_array_equal, grads, true)
    n = 200 * 300
    added, _, _ = noise(Identity(), np.zeros((200, 300)), KEY)
    # each moment of n draws lies within 5 of its own deviations
    assert abs(added.mean()) < 5 * 0.5 / math.sqrt(n)
    assert abs(added.std() / 0.5 - 1) < 5 / math.sqrt(2 * n)
    assert abs(((added / 0.5) ** 4).mean() - 3) < 5 * math.sqrt(96 / n)
    again, _, _ = noise(Identity(), np.zeros((200, 300)), KEY)
    np.testing.assert_array_equal(added, again)
    other, _, _ = noise(Identity(), np.zeros((200, 300)), jax.random.key(3))
    assert abs(np.corrcoef(added.ravel(), other.ravel())[0, 1]) < 5 / math.sqrt(n)


def test_noise_does_not_go_with_what_the_layer_draws_itself():
    x, rate = np.ones((200, 300), np.float32), 0.5
    kept, _ = Dropout(rate).forward({}, jnp.asarray(x), train=True, key=KEY)
    added, _, _ = noise(Dropout(rate), x, KEY)
    assert abs(np.corrcoef(np.asarray(kept).ravel(), added.ravel())[0, 1]) < 5 / math.sqrt(x.size)


def test_layers_draw_different_noise():
    network, found = Sequential((Identity(), Identity())), []
    for name in ("identity1", "identity2"):
        ruled = with_rules(network, {name: Noise(1.0)})
        _, residuals = ruled.forward({}, jnp.ones((200, 300)), train=True, key=KEY)
        found.append(np.asarray(ruled.backward(residuals, jnp.zeros((200, 300)))[0]).ravel())
    assert abs(np.corrcoef(*found)[0, 1]) < 5 / math.sqrt(200 * 300)


def test_noise_needs_a_key():
    ruled = with_rules(Identity(), {Identity: Noise(1.0)})
    y, residuals = ruled.forward({}, jnp.ones((2, 2)))
    with pytest.raises(InputError, match=r"Noise: key is None but must be a key of jax.random.key when train is True"):
        ruled.backward(residuals, y)


NETWORK = Sequential(
    (
        Conv2d(4, 3, padding=1),
        BatchNorm(),
        ReLU(),
        Residual(Sequential((Conv2d(4, 3, padding=1), ReLU()))),
        Flatten(),
        Dense(5),
    )
)


@pytest.fixture
def samples(rng):
    return rng.standard_normal((48, 4, 5, 2)).astype(np.float32), rng.integers(0, 5, 48)


def trained(samples, rules, optimizer, state=None, train=fit, **how):
    images, labels = samples
    start = init_state(NETWORK, optimizer, KEY, images.shape[1:]) if state is None else state
    more = {"batch_size": 8} | ({"epochs": 2} if train is fit else {}) | how
    return start, train(NETWORK, LOSS, optimizer, start, images, labels, rules=rules, **more)[0]


def changed(before, after, name):
    """Whether each parameter of a layer changed."""
    return jax.tree.leaves(jax.tree.map(lambda a, b: not np.array_equal(a, b), before.params[name], after.params[name]))


@pytest.mark.parametrize("train", [fit, train_epoch])
def test_training_draws_other_noise_in_every_step_and_part(train, samples):
    """The layer below sees it; one step with noise differs from one without, and from one of another key."""
    rules = {"residual1": Noise(0.1)}
    (_, plain), (_, noisy) = (trained(samples, r, SGD(0.1), train=train) for r in ({}, rules))
    assert not np.allclose(plain.params["conv1"]["weight"], noisy.params["conv1"]["weight"])
    x, labels = samples[0][:8], samples[1][:8]
    state = init_state(NETWORK, SGD(0.1), KEY, x.shape[1:])
    first, again, later = (
        train_step(NETWORK, LOSS, SGD(0.1), replace(state, step=state.step + i), x, labels, rules=rules)[0].params
        for i in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.allclose(first["conv1"]["weight"], later["conv1"]["weight"])
    np.testing.assert_array_equal(first["dense1"]["weight"], later["dense1"]["weight"])


@pytest.mark.usefixtures("float64")
def test_each_device_draws_the_same_noise_for_its_rows_and_each_part_its_own():
    """A dense layer below sums x dx over the rows: of equal noise eight times that of one device's rows."""
    network = with_rules(Sequential((Dense(3), Identity(), Dense(2))), {Identity: Noise(1.0)})
    params = network.init(KEY, (4,))
    x, labels = jnp.tile(jax.random.normal(KEY, (2, 4)), (8, 1)), jnp.zeros(16, int)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = jax.sharding.PartitionSpec("batch"), jax.sharding.PartitionSpec()
    plain = Sequential((Dense(3), Identity(), Dense(2)))

    def added(x, labels, **how):
        """What noise adds to the gradient of the first layer's weight."""
        grads = [gradients(each, LOSS, params, x, labels, key=KEY, **how)[0] for each in (network, plain)]
        return grads[0]["dense1"]["weight"] - grads[1]["dense1"]["weight"]

    how = {"mesh": mesh, "in_specs": (rows, rows), "out_specs": whole, "check_vma": False}
    spread = jax.shard_map(lambda *args: added(*args, batch_axis="batch"), **how)
    of_one = added(x[:2], labels[:2])
    assert relative_error(jax.jit(spread)(x, labels), 8 * of_one) < EXACT
    assert relative_error(added(x, labels), 8 * of_one) > 0.1
    assert relative_error(added(x, labels, accumulate=8), 8 * of_one) > 0.1


DEFAULTS = {
    "SGD": SGD(0.1),
    "momentum": SGD(0.1, momentum=0.9, nesterov=True),
    "clipped and averaged": Averaged(Clipped(SGD(0.1, momentum=0.9), 1.0), 0.9),
}
HELD = {"conv1": frozen, "residual1/body/conv1": frozen, BatchNorm: frozen}


@pytest.mark.parametrize("name", [*DEFAULTS, "adam"])
@pytest.mark.parametrize("how", [{}, {"accumulate": 2}, {"precision": "mixed"}], ids=str)
def test_frozen_parameters_do_not_change_by_a_bit(name, how, samples):
    optimizer = DEFAULTS[name] if name in DEFAULTS else Optax(pytest.importorskip("optax").adam(1e-2))
    before, after = trained(samples, HELD, optimizer, **how)
    for layer in ("conv1", "batchnorm1", "residual1"):
        assert not any(changed(before, after, layer)), layer
    assert all(changed(before, after, "dense1"))
    free, moved = trained(samples, {}, optimizer, **how)
    assert changed(free, moved, "conv1")[1]


def test_layers_before_a_frozen_one_learn_as_if_it_were_not(samples):
    x, labels = samples[0][:8], samples[1][:8]
    state = init_state(NETWORK, SGD(0.1), KEY, x.shape[1:])
    params = [
        train_step(NETWORK, LOSS, SGD(0.1), state, x, labels, rules=rules)[0].params
        for rules in ({}, {"residual1": frozen})
    ]
    jax.tree.map(np.testing.assert_array_equal, params[1]["residual1"], state.params["residual1"])
    for name in ("conv1", "batchnorm1", "dense1"):
        jax.tree.map(np.testing.assert_array_equal, params[0][name], params[1][name])
    assert not np.array_equal(params[0]["conv1"]["weight"], state.params["conv1"]["weight"])


def test_what_is_not_of_the_loss_still_changes_a_frozen_layer_and_rates_of_zero_stop_it(samples):
    optimizer = SGD(0.1, momentum=0.9, weight_decay=1e-2)
    before, after = trained(samples, HELD, optimizer)
    assert changed(before, after, "conv1")[1]
    _, running = trained(samples, {}, replace(optimizer, weight_decay=0.0))
    _, after = trained(samples, HELD, replace(optimizer, weight_decay=0.0), state=running, epochs=3)
    assert all(changed(running, after, "conv1")), "its velocity goes on"

    rates = {"conv1": 0.0, "batchnorm1": 0.0, "residual1": 0.0, "dense1": 1.0}
    start = replace(before, optimizer=optimizer.init(before.params, rates))
    before, after = trained(samples, HELD, optimizer, state=start)
    for layer in ("conv1", "batchnorm1", "residual1"):
        assert not any(changed(before, after, layer)), layer
    assert all(changed(before, after, "dense1"))


def test_the_statistics_of_a_frozen_batch_norm_move_on(samples):
    before, after = trained(samples, HELD, SGD(0.1))
    for name in ("mean", "variance"):
        assert not np.allclose(before.statistics["batchnorm1"][name], after.statistics["batchnorm1"][name])


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, "1", True])
@pytest.mark.parametrize(("rule", "name"), [(Clip, "norm"), (Noise, "deviation")])
def test_numbers_that_are_not_above_0_are_refused(rule, name, value):
    with pytest.raises(InputError, match=rf"{rule.__name__}: {name} is .* but must be a number above 0"):
        rule(value)


@pytest.mark.parametrize("rules", [{ReLU: straight_through}, {"residual1": Clip(np.float64(0.05))}])
def test_fit_takes_them(rules, samples):
    (_, plain), (_, after) = trained(samples, {}, SGD(0.1)), trained(samples, rules, SGD(0.1))
    assert not np.allclose(plain.params["conv1"]["weight"], after.params["conv1"]["weight"])
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {np.dtype(np.float32)}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))
