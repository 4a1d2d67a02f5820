"""Recomputation: the gradients and the draws of the body, in less memory."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    SGD,
    CombineMaps,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    Identity,
    InputError,
    MaxPool2d,
    Product,
    Recompute,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SoftmaxCrossEntropy,
    Tanh,
    diagnose,
    fit,
    init_state,
    rebuild,
    relu_after_pool,
    spec_from_json,
    spec_to_json,
    summary,
    walk,
)
from jaxcnn.layers import recompute
from jaxcnn.store.checkpoint import load_checkpoint, save_checkpoint
from jaxcnn.verify import check_network
from jaxcnn.verify.tolerances import EXACT, relative_error

IN_SHAPE = (6, 5, 2)
BODY = Sequential(
    (
        Conv2d(3, 3, padding=1),
        Tanh(),
        Dropout(0.4),
        Product((Identity(), Conv2d(3, 1))),
        MaxPool2d(2),
        Flatten(),
        Dense(4),
    )
)
ONE = Recompute(BODY)
NESTED = Sequential(
    (Recompute(Residual(Sequential((Recompute(Sequential((Conv2d(2, 3, padding=1), Dropout(0.3)))), Sigmoid())))), ONE)
)


def problem(rng, network, dtype=jnp.float32):
    params = network.init(jax.random.key(0), IN_SHAPE)
    params = jax.tree.map(lambda w: jnp.asarray(rng.standard_normal(w.shape), dtype), params)
    return params, jnp.asarray(rng.standard_normal((3, *IN_SHAPE)), dtype)


def assert_close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    errors = jax.tree.map(relative_error, found, expected)
    assert max(jax.tree.leaves(errors)) <= EXACT, errors


@pytest.mark.parametrize("key", [jax.random.key(7), jax.random.PRNGKey(7), jax.random.key(7, impl="rbg")])
@pytest.mark.parametrize("train", [True, False])
def test_the_gradients_are_the_bodys_bit_for_bit(rng, key, train):
    """Operation by operation the same programs run; the draws of dropout are the same, by each kind of key."""
    params, x = problem(rng, ONE)
    y, residuals = ONE.forward(params, x, train=train, key=key)
    expected, kept = BODY.forward(params["body"], x, train=train, key=key)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(ONE.apply(params, x, train=train, key=key), expected)
    dy = jnp.asarray(rng.standard_normal(y.shape), jnp.float32)
    dx, grads, deltas = ONE.backward_with_deltas(residuals, dy)
    dx_of_body, grads_of_body, inner = BODY.backward_with_deltas(kept, dy)
    expected = dx_of_body, {"body": grads_of_body}, {"body": dy} | {f"body/{name}": d for name, d in inner.items()}
    jax.tree.map(np.testing.assert_array_equal, (dx, grads, deltas), expected)
    assert np.array_equal(y, ONE.apply(params, x)) == (not train)


@pytest.mark.parametrize("network", [ONE, NESTED])
@pytest.mark.usefixtures("float64")
def test_the_chain_and_apply_are_jax_grad_of_the_body_without_it(rng, network):
    params, x = problem(rng, network, jnp.float64)
    key = jax.random.key(3)

    def bare(layer, params):
        """The same network and parameters without recomputation."""
        while isinstance(layer, Recompute):
            layer, params = layer.body, params.get("body", {})
        return layer, params

    def plain(layer, params, x, key):
        layer, params = bare(layer, params)
        children = layer.children()
        if isinstance(layer, Sequential):
            for i, (name, child) in enumerate(children.items()):
                x = plain(child, params.get(name, {}), x, jax.random.fold_in(key, i))
            return x
        if isinstance(layer, Residual):
            return plain(layer.body, params["body"], x, jax.random.split(key)[0]) + x
        return layer.forward(params, x, train=True, key=key)[0]

    y, residuals = jax.jit(partial(network.forward, train=True))(params, x, key=key)
    dy = jnp.asarray(rng.standard_normal(y.shape))
    dx, grads = jax.jit(network.backward)(residuals, dy)
    for f in (partial(plain, network, key=key), partial(network.apply, train=True, key=key)):
        value, pull = jax.vjp(jax.jit(lambda params, x, f=f: f(params, x=x)), params, x)
        assert_close(value, y)
        assert_close(pull(dy), (grads, dx))
    labels = jnp.array([0, 3, 1])
    assert check_network(network, SoftmaxCrossEntropy(), params, x, labels, key) <= EXACT


@pytest.mark.usefixtures("float64")
def test_it_is_right_under_vmap_scan_and_in_second_derivatives(rng):
    params, x = problem(rng, ONE, jnp.float64)
    key, v = jax.random.key(1), jnp.asarray(rng.standard_normal(x.shape))

    def E(layer, params, x):
        return (layer.apply(params, x, train=True, key=key) ** 2).sum()

    def grads(layer, params, x):
        return jax.grad(partial(E, layer), argnums=(0, 1))(params, x)

    def curvature(layer, params):
        slope = jax.grad(lambda x: jnp.vdot(grads(layer, params, x)[1], v))
        hessian = jax.jvp(lambda x: grads(layer, params, x)[1], (x,), (v,))[1]
        return jax.jit(slope)(x), hessian

    assert_close(curvature(ONE, params), curvature(BODY, params["body"]))
    xs = jnp.stack([x, v, x * v])
    expected = jax.vmap(lambda x: grads(BODY, params["body"], x))(xs)
    for found in (
        jax.vmap(lambda x: grads(ONE, params, x))(xs),
        jax.jit(lambda xs: jax.lax.scan(lambda _, x: (None, grads(ONE, params, x)), None, xs)[1])(xs),
    ):
        assert_close((found[0]["body"], found[1]), expected)


def test_nan_in_the_first_entry_of_dy_chooses_nothing_else(rng):
    params, x = problem(rng, ONE)
    _, residuals = ONE.forward(params, x)
    dy = jnp.ones((3, 4)).at[0, 0].set(jnp.nan)
    expected = BODY.backward(BODY.forward(params["body"], x)[1], dy)[0]
    np.testing.assert_array_equal(ONE.backward(residuals, dy)[0], expected)
    assert np.isfinite(expected[1:]).all()


def test_a_batch_of_none_has_gradients():
    body = Recompute(Sequential((Dense(3), Tanh())))
    params = body.init(jax.random.key(0), (2,))
    y, residuals = body.forward(params, jnp.ones((0, 2)))
    dx, grads = body.backward(residuals, y)
    assert dx.shape == (0, 2)
    np.testing.assert_array_equal(grads["body"]["dense1"]["weight"], 0)


def test_between_there_are_the_input_the_parameters_and_the_key_alone(rng):
    params, x = problem(rng, ONE)
    key = jax.random.key(0)
    _, residuals = ONE.forward(params, x, train=True, key=key)
    kept = {id(leaf) for leaf in jax.tree.leaves(residuals)}
    assert kept == {id(leaf) for leaf in jax.tree.leaves((params, x, key))}
    _, pull = jax.vjp(lambda p, x: ONE.apply(p, x, train=True, key=key), params, x)
    assert sum(leaf.size for leaf in jax.tree.leaves(pull) if hasattr(leaf, "size")) == (
        x.size + 1 + sum(leaf.size for leaf in jax.tree.leaves(params))
    )


def temporary_bytes(block, by):
    """Of the compiled gradient of the loss in training, for a batch of 64 that goes through the block four times."""
    network = Sequential((Conv2d(8, 3, padding=1), *[block] * 4, Flatten(), Dense(10)))
    loss, key = SoftmaxCrossEntropy(), jax.random.key(0)

    def explicit(params, x, labels):
        y, residuals = network.forward(params, x, train=True, key=key)
        return network.backward(residuals, loss.backward(loss.forward(y, labels)[1]))[1]

    def of_apply(params, x, labels):
        return jax.grad(lambda p: loss.apply(network.apply(p, x, train=True, key=key), labels))(params)

    params = jax.eval_shape(lambda: network.init(key, (16, 16, 3)))
    batch = jax.ShapeDtypeStruct((64, 16, 16, 3), jnp.float32), jax.ShapeDtypeStruct((64,), jnp.int32)
    f = {"chain": explicit, "apply": of_apply}[by]
    return jax.jit(f).lower(params, *batch).compile().memory_analysis().temp_size_in_bytes


ACTIVATION = 64 * 16 * 16 * 8 * 4  # bytes


@pytest.mark.parametrize("by", ["chain", "apply"])
@pytest.mark.usefixtures("on_cpu_alone")
def test_a_deep_chain_needs_less_memory(by):
    """32 activations are there at once without it; with it the input of each of the four blocks, and 8 of one."""
    block = Sequential((Conv2d(8, 3, padding=1), Tanh()) * 8)
    assert temporary_bytes(block, by) > 32 * ACTIVATION
    assert temporary_bytes(Recompute(block), by) < (4 + 8 + 2) * ACTIVATION


@pytest.mark.parametrize("by", ["chain", "apply"])
@pytest.mark.usefixtures("on_cpu_alone")
def test_the_draws_are_made_again_too(by, monkeypatch):
    """Else they are kept, as where the key does not wait for dy."""
    block = Recompute(Sequential((Conv2d(8, 3, padding=1), Dropout(0.2), Tanh()) * 4))
    found, after = temporary_bytes(block, by), recompute._after
    monkeypatch.setattr(recompute, "_after", lambda dy, tree: after(dy, {"x": tree["x"]}))
    assert found < temporary_bytes(block, by) - 4 * ACTIVATION


def test_shapes_names_counts_and_json():
    params = NESTED.init(jax.random.key(0), IN_SHAPE)
    assert set(params) == {"recompute1", "recompute2"}
    assert set(params["recompute2"]["body"]) == {"conv1", "product1", "dense1"}
    assert Recompute(ReLU()).init(jax.random.key(0), (3,)) == {}
    jax.tree.map(
        np.testing.assert_array_equal,
        ONE.init(jax.random.key(5), IN_SHAPE)["body"],
        BODY.init(jax.random.key(5), IN_SHAPE),
    )
    assert ONE.output_shape(IN_SHAPE) == BODY.output_shape(IN_SHAPE) == (4,)
    assert ONE.multiply_adds(IN_SHAPE) == BODY.multiply_adds(IN_SHAPE) > 0
    (_, row) = summary(NESTED, IN_SHAPE, batch_size=3).rows
    assert row.parameters == summary(BODY, IN_SHAPE).total.parameters
    assert row.residual_bytes == 3 * 6 * 5 * 2 * 4 + 8  # the input and the key, two words
    assert spec_from_json(json.loads(json.dumps(spec_to_json(NESTED)))) == NESTED


def test_it_is_walked_rebuilt_and_rewritten():
    stage = Recompute(Sequential((Conv2d(2, 3), ReLU(), MaxPool2d(2))))
    params = stage.init(jax.random.key(0), (8, 8, 1))
    paths = {path: sorted(part) for path, _, part in walk(Sequential((stage,)), {"recompute1": params})}
    assert paths == {
        "recompute1/body/conv1": ["bias", "weight"],
        "recompute1/body/relu1": [],
        "recompute1/body/maxpool1": [],
    }
    assert relu_after_pool(stage).body.names == ("conv1", "maxpool1", "relu1")
    smooth = rebuild(stage, lambda layer: Tanh() if isinstance(layer, ReLU) else layer)
    assert smooth == Recompute(Sequential((Conv2d(2, 3), Tanh(), MaxPool2d(2))))


def test_units_inside_are_diagnosed():
    body = Sequential((Dense(2), ReLU(), Recompute(Sequential((Dense(2), Sigmoid())))))
    network = Sequential((Dense(2), ReLU(), Recompute(body)))
    params = network.init(jax.random.key(0), (3,))
    params["recompute1"]["body"]["dense1"]["bias"] -= 99
    params["recompute1"]["body"]["recompute1"]["body"]["dense1"]["bias"] -= 99
    found = diagnose(network, params, jnp.ones((4, 3)))
    assert [d.name for d in found] == ["relu1", "recompute1/body/relu1", "recompute1/body/recompute1/body/sigmoid1"]
    assert [d.share for d in found[1:]] == [1, 1]


def test_penalties_inside_reach_the_training():
    block = Recompute(CombineMaps(2, 1, entropy=0.5))
    E, grads = block.penalty(block.init(jax.random.key(0), (3, 3, 2)))
    assert E > 0
    assert set(grads["body"]) == {"c"}


def test_it_is_trained_saved_and_read_back_and_trains_as_without_it(tmp_path, rng):
    x, labels = jnp.asarray(rng.standard_normal((20, *IN_SHAPE)), jnp.float32), jnp.arange(20) % 4

    def trained(layer):
        state = init_state(layer, SGD(0.01), jax.random.key(0), IN_SHAPE)
        return fit(layer, SoftmaxCrossEntropy(), SGD(0.01), state, x, labels, batch_size=5, epochs=3)

    state, history = trained(ONE)
    of_body, expected = trained(BODY)
    assert [epoch["loss"] for epoch in history] == pytest.approx([epoch["loss"] for epoch in expected], rel=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), state.params["body"], of_body.params)
    save_checkpoint(tmp_path / "one.safetensors", ONE, IN_SHAPE, state, {})
    saved = load_checkpoint(tmp_path / "one.safetensors")
    assert saved.network == ONE
    jax.tree.map(np.testing.assert_array_equal, saved.params, state.params)


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="Recompute: body is <class '.*ReLU'> but must be a layer"):
        Recompute(ReLU)  # pyright: ignore[reportArgumentType]
    params, x = ONE.init(jax.random.key(0), IN_SHAPE), jnp.ones((2, *IN_SHAPE))
    for use in (ONE.apply, ONE.forward):
        with pytest.raises(InputError, match="layer 'dropout1' .*: dropout: key is None but must be a key"):
            use(params, x, train=True)
        with pytest.raises(InputError, match="params is of type list but must be a dict"):
            use([], x)
