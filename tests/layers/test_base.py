"""The protocol of a layer: a composite and an operation of one's own go wherever those of the library go.

Nothing but this file knows them.
"""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    LAYERS,
    SGD,
    Conv2d,
    Dense,
    Flatten,
    InputError,
    Layer,
    OperationLayer,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    diagnose,
    fit,
    gradients,
    init_state,
    operation,
    rebuild,
    relu,
    spec_from_json,
    spec_to_json,
    summary,
    walk,
)
from jaxcnn.experiment import run
from jaxcnn.layers.rewrite import relu_after_pool
from jaxcnn.recipe import Recipe
from jaxcnn.store.checkpoint import load_checkpoint, save_checkpoint


@operation
def softplus(u, *, sharpness=1.0):
    """ln(1 + e^{su}) / s."""
    return jax.nn.softplus(sharpness * u) / sharpness, u


@softplus.rule
def _(u, dy, *, sharpness):
    return (dy * jax.nn.sigmoid(sharpness * u),)


@dataclass(frozen=True)
class Softplus(OperationLayer):
    """Spec of `softplus`."""

    sharpness: float = 1.0
    op = softplus


@dataclass(frozen=True)
class Scaled(Layer):
    """A composite of two layers: y = x + scale (first(x) + second(x)), scale a parameter of its own."""

    first: Layer
    second: Layer

    def init(self, key, in_shape):
        children = {
            name: child.init(jax.random.fold_in(key, i), in_shape)
            for i, (name, child) in enumerate(self.children().items())
        }
        return {"scale": jnp.array(0.5)} | {name: params for name, params in children.items() if params}

    def apply(self, params, x, *, train=False, key=None):
        total = sum(
            child.apply(params.get(name, {}), x, train=train, key=key) for name, child in self.children().items()
        )
        return x + params["scale"] * total

    def forward(self, params, x, *, train=False, key=None):
        kept, total = {}, 0
        for name, child in self.children().items():
            y, kept[name] = child.forward(params.get(name, {}), x, train=train, key=key)
            total += y
        return x + params["scale"] * total, kept | {"total": total, "scale": params["scale"]}

    def backward_with_deltas(self, residuals, dy):
        dx, grads, deltas = dy, {"scale": (dy * residuals["total"]).sum()}, {}
        for name, child in self.children().items():
            dx_of_child, grads[name], inner = child.backward_with_deltas(residuals[name], residuals["scale"] * dy)
            dx += dx_of_child
            deltas |= {f"{name}/{inside}": delta for inside, delta in inner.items()}
        return dx, {name: grad for name, grad in grads.items() if not isinstance(grad, dict) or grad}, deltas


OWN = Sequential(
    (
        Scaled(Sequential((Conv2d(1, 3, padding=1), ReLU())), Softplus(2.0)),
        Flatten(),
        Dense(10),
    )
)


@pytest.mark.usefixtures("float64")
def test_its_chain_is_jax_grad(rng):
    params = OWN.init(jax.random.key(0), (5, 4, 1))
    x, labels = jnp.asarray(rng.standard_normal((3, 5, 4, 1))), jnp.array([0, 2, 1])
    loss = SoftmaxCrossEntropy()
    grads, _, _ = gradients(OWN, loss, params, x, labels)
    for f in (lambda p: OWN.forward(p, x)[0], lambda p: OWN.apply(p, x)):
        expected = jax.grad(lambda p, f=f: loss.apply(f(p), labels))(params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), grads, expected)
    y, residuals = OWN.forward(params, x)
    _, _, deltas = OWN.backward_with_deltas(residuals, y)
    assert set(deltas) == {"scaled1", "scaled1/first/conv1", "scaled1/first/relu1", "flatten1", "dense1"}


def test_it_has_a_summary_and_a_diagnosis(rng):
    table = summary(OWN, (5, 4, 1))
    assert [(row.name, row.parameters, row.multiply_adds) for row in table.rows] == [
        ("scaled1", 9 + 1 + 1, 5 * 4 * 9), ("flatten1", 0, 0), ("dense1", 210, 200),
    ]  # fmt: skip
    assert table.rows[0].layer == "Scaled(Sequential(2 layers), Softplus(sharpness=2.0))"
    params = OWN.init(jax.random.key(0), (5, 4, 1))
    params["scaled1"]["first"]["conv1"]["bias"] = jnp.array([-1e3])
    (found,) = diagnose(OWN, params, jnp.asarray(rng.standard_normal((3, 5, 4, 1)), jnp.float32))
    assert (found.name, found.symptom, found.share) == ("scaled1/first/relu1", "dead", 1.0)


def test_it_is_walked_and_rebuilt():
    params = OWN.init(jax.random.key(0), (5, 4, 1))
    paths = {path: (type(layer), sorted(part)) for path, layer, part in walk(OWN, params)}
    assert paths == {
        "scaled1/first/conv1": (Conv2d, ["bias", "weight"]),
        "scaled1/first/relu1": (ReLU, []),
        "scaled1/second": (Softplus, []),
        "flatten1": (Flatten, []),
        "dense1": (Dense, ["bias", "weight"]),
    }
    sharper = rebuild(OWN, lambda layer: Softplus(9.0) if isinstance(layer, Softplus) else layer)
    assert sharper.layers[0] == Scaled(OWN.layers[0].first, Softplus(9.0))
    assert sharper.layers[1:] == OWN.layers[1:]
    assert relu_after_pool(OWN) == OWN
    with pytest.raises(InputError, match="dense1: the tree of the layer around it is list but must be a dict by name"):
        list(walk(Sequential((Dense(3),)), [1]))


def test_its_spec_survives_json_beside_those_that_are_given(tmp_path):
    assert spec_from_json(json.loads(json.dumps(spec_to_json(OWN)))) == OWN

    @dataclass(frozen=True)
    class Renamed(Softplus):
        pass

    spec = {"layer": "Sequential", "layers": [{"layer": "Old"}, {"layer": "ReLU"}]}
    assert spec_from_json(spec, {"Old": Renamed}) == Sequential((Renamed(), ReLU()))


def test_it_is_trained_saved_and_read_back(tmp_path, rng):
    x, labels = jnp.asarray(rng.standard_normal((20, 5, 4, 1)), jnp.float32), jnp.arange(20) % 10
    state = init_state(OWN, SGD(0.1), jax.random.key(0), (5, 4, 1))
    state, history = fit(OWN, SoftmaxCrossEntropy(), SGD(0.1), state, x, labels, batch_size=5, epochs=12)
    assert history[-1]["loss"] < history[0]["loss"]
    path = tmp_path / "own.safetensors"
    save_checkpoint(path, OWN, (5, 4, 1), state, {})
    saved = load_checkpoint(path)
    assert saved.network == OWN
    jax.tree.map(np.testing.assert_array_equal, saved.params, state.params)


def test_it_stands_in_a_recipe(tmp_path):
    recipe = Recipe(model=OWN, epochs=1)
    recipe.write(tmp_path / "own.toml")
    assert Recipe.read(tmp_path / "own.toml") == recipe
    assert run(recipe).measured.accuracy > 0.3


def test_a_file_with_a_layer_that_is_not_defined_names_it(tmp_path, monkeypatch):
    state = init_state(OWN, SGD(0.1), jax.random.key(0), (5, 4, 1))
    save_checkpoint(tmp_path / "own.safetensors", OWN, (5, 4, 1), state, {})
    monkeypatch.delitem(LAYERS, "Softplus")
    with pytest.raises(InputError, match="own.safetensors: layer is 'Softplus' but must be one of"):
        load_checkpoint(tmp_path / "own.safetensors")


def define(name, **functions):
    return type(name, (Layer,), functions)


def test_what_is_lacking_is_said_when_the_class_is_defined():
    def some(self):
        pass

    with pytest.raises(InputError) as error:
        define("Lame", forward=some)
    assert str(error.value) == "Lame: lacks apply and backward but must define apply, forward and backward"
    with pytest.raises(InputError, match="Lame: lacks forward but must define"):
        define("Lame", apply=some, backward_with_deltas=some)
    with pytest.raises(InputError, match="Lame: op is <function relu.* but must be an operation, made by @operation"):
        type("Lame", (OperationLayer,), {"op": relu.__wrapped__})
    assert "Lame" not in LAYERS


def test_two_classes_of_one_name_are_refused_but_one_may_be_defined_anew():
    def some(self):
        pass

    with pytest.raises(InputError, match="ReLU: is the name of jaxcnn.layers.activation.ReLU already but must be new"):
        define("ReLU", apply=some, forward=some, backward=some)
    assert LAYERS["ReLU"] is ReLU
    first = define("Anew", apply=some, forward=some, backward=some)
    again = define("Anew", apply=some, forward=some, backward=some)
    assert LAYERS.pop("Anew") is again is not first


def test_a_field_that_no_file_can_hold_is_named():
    @dataclass(frozen=True)
    class Lambda(Softplus):
        f: object = None

    with pytest.raises(InputError, match="Lambda: has <built-in function abs> among its fields but"):
        spec_to_json(Lambda(f=abs))
