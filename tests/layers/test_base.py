"""The protocol of a layer: a composite and an operation of one's own go wherever those of the library go.

Nothing but this file knows them.
"""

import json
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    LAYERS,
    SGD,
    AvgPool2d,
    CombineMaps,
    Conv2d,
    Dense,
    Flatten,
    InputError,
    Layer,
    MaxPool2d,
    MedianPool2d,
    OperationLayer,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    StochasticPool2d,
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
def sharp_softplus(u, *, sharpness=1.0):
    """ln(1 + e^{su}) / s."""
    return jax.nn.softplus(sharpness * u) / sharpness, u


@sharp_softplus.rule
def _(u, dy, *, sharpness):
    return (dy * jax.nn.sigmoid(sharpness * u),)


@dataclass(frozen=True)
class SharpSoftplus(OperationLayer):
    """Spec of `sharp_softplus`."""

    sharpness: float = 1.0
    op = sharp_softplus


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
        Scaled(Sequential((Conv2d(1, 3, padding=1), ReLU())), SharpSoftplus(2.0)),
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
    assert table.rows[0].layer == "Scaled(Sequential(2 layers), SharpSoftplus(sharpness=2.0))"
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
        "scaled1/second": (SharpSoftplus, []),
        "flatten1": (Flatten, []),
        "dense1": (Dense, ["bias", "weight"]),
    }
    sharper = rebuild(OWN, lambda layer: SharpSoftplus(9.0) if isinstance(layer, SharpSoftplus) else layer)
    assert sharper.layers[0] == Scaled(OWN.layers[0].first, SharpSoftplus(9.0))
    assert sharper.layers[1:] == OWN.layers[1:]
    assert relu_after_pool(OWN) == OWN
    with pytest.raises(InputError, match="dense1: the tree of the layer around it is list but must be a dict by name"):
        list(walk(Sequential((Dense(3),)), [1]))


def test_its_spec_survives_json_beside_those_that_are_given(tmp_path):
    assert spec_from_json(json.loads(json.dumps(spec_to_json(OWN)))) == OWN

    @dataclass(frozen=True)
    class Renamed(SharpSoftplus):
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
    monkeypatch.delitem(LAYERS, "SharpSoftplus")
    with pytest.raises(InputError, match="own.safetensors: layer is 'SharpSoftplus' but must be one of"):
        load_checkpoint(tmp_path / "own.safetensors")


def unruled(x):
    return x, None


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
    for op in ({"op": relu.__wrapped__}, {}):
        with pytest.raises(InputError, match="Lame: op is .* but must be an operation, made by @operation"):
            type("Lame", (OperationLayer,), op)
    with pytest.raises(InputError, match="unruled: is an operation without a rule but must have one, by @unruled.rule"):
        type("Lame", (OperationLayer,), {"op": operation(unruled)})
    with pytest.raises(InputError) as error:
        type("Lame", (OperationLayer,), {"op": sharp_softplus, "__annotations__": {"sharp": float}})
    assert str(error.value) == (
        "Lame: lacks the field sharpness but must have all static arguments of sharp_softplus: sharpness"
    )
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
    class Lambda(SharpSoftplus):
        f: object = None

    with pytest.raises(InputError, match="Lambda: has <built-in function abs> among its fields but"):
        spec_to_json(Lambda(f=abs))


@pytest.mark.parametrize("use", ["apply", "forward"])
@pytest.mark.parametrize(
    ("layer", "other", "sentence"),
    [
        (Conv2d(4, 3), Conv2d(4, 5), "Conv2d: weight has shape (5, 5, 2, 4) but must have shape (3, 3, 2, 4)"),
        (Conv2d(4, 3), Conv2d(2, 3), "Conv2d: weight has shape (3, 3, 2, 2) but must have shape (3, 3, 2, 4)"),
        (
            Conv2d(4, 3, connections=((0,), (1,), (0,), (1,))),
            Conv2d(4, 1),
            "Conv2d: weight has shape (1, 1, 2, 4) but must have shape (3, 3, 2, 4)",
        ),
        (CombineMaps(2, 3), CombineMaps(3, 3), "CombineMaps: c has shape (2, 3) but must have shape (2, 2)"),
        (
            CombineMaps(2, 3),
            CombineMaps(2, 2),
            "CombineMaps: kernels has shape (2, 2, 2) but must have shape (3, 3, 2)",
        ),
        (
            Sequential((Flatten(), Dense(3))),
            Sequential((Flatten(), Dense(4))),
            "layer 'dense1' with input shape (98,): Dense: weight has shape (98, 4) but must have shape (98, 3)",
        ),
    ],
)
def test_parameters_of_another_spec_are_refused(layer, other, sentence, use):
    with pytest.raises(InputError) as error:
        getattr(layer, use)(other.init(jax.random.key(0), (7, 7, 2)), jnp.ones((1, 7, 7, 2)))
    assert str(error.value) == sentence


SPECS = {
    "conv2d": lambda **fields: Conv2d(8, 3, **fields),
    "max_pool2d": lambda **fields: MaxPool2d(2, **fields),
    "avg_pool2d": lambda **fields: AvgPool2d(2, **fields),
    "median_pool2d": lambda **fields: MedianPool2d(2, **fields),
    "stochastic_pool2d": lambda **fields: StochasticPool2d(2, **fields),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_window_that_fits_no_input_is_refused_when_the_spec_is_made(name):
    fields = [("stride", 0), ("stride", np.array(2)), ("stride", [1, 2])]
    if name == "conv2d":
        fields += [("dilation", 0), ("stride", None)]
    if name in ("conv2d", "max_pool2d", "avg_pool2d"):
        fields += [("padding", -1), ("padding", [1, 1]), ("padding", "same")]
    for field, value in fields:
        with pytest.raises(InputError) as error:
            SPECS[name](**{field: value})
        assert str(error.value).startswith(f"{name}: {field} is {value!r} but must be an int ")


@pytest.mark.parametrize("make", [partial(Conv2d, 4, 3), partial(Dense, 4), partial(CombineMaps, 4, 3)])
def test_an_unknown_initializer_is_refused_when_the_spec_is_made(make):
    for name in ("zeros", ["he_normal"], None):
        with pytest.raises(InputError) as error:
            make(initializer=name)
        assert str(error.value).startswith(f"initializer is {name!r} but must be one of glorot_uniform, ")


def test_numbers_of_numpy_fit_a_spec():
    three, half = np.int64(3), np.float32(0.5)
    own = Conv2d(three, three, padding=np.int32(1), connections=((three - 3,), (np.int64(1),), (0, 1)))
    assert own == Conv2d(3, 3, padding=1, connections=((0,), (1,), (0, 1)))
    assert CombineMaps(three, three, entropy=half) == CombineMaps(3, 3, entropy=0.5)


def test_a_key_is_no_int():
    for network, name in ((Sequential((Dense(3),)), "Sequential"), (Dense(3), "init")):
        with pytest.raises(InputError) as error:
            network.init(0, (4,))
        assert str(error.value) == f"{name}: key is 0 but must be a key, such as jax.random.key(0)"


@pytest.mark.parametrize("make", [partial(Conv2d, 4, 3), partial(Dense, 4)])
def test_the_order_of_other_frameworks_is_refused(make):
    """(inputs, outputs, ...): what would come third is a keyword."""
    with pytest.raises(TypeError, match="positional argument"):
        make(5)
    with pytest.raises(InputError, match="bias is 10 but must be True or False"):
        make(bias=10)
