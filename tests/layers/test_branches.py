"""Branches joined by a sum, side by side or by a product: three known modules, the deltas, the protocol."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from torch_autograd import assert_same_as_torch

from jaxcnn import (
    SGD,
    AvgPool2d,
    CombineMaps,
    Concatenate,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    Identity,
    InputError,
    MaxPool2d,
    Product,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SoftmaxCrossEntropy,
    Sum,
    Tanh,
    add,
    concatenate,
    diagnose,
    fit,
    init_state,
    multiply,
    rebuild,
    relu_after_pool,
    spec_from_json,
    spec_to_json,
    summary,
    walk,
)
from jaxcnn.inspect.flow import flow
from jaxcnn.store.checkpoint import load_checkpoint, save_checkpoint
from jaxcnn.verify.tolerances import EXACT, relative_error

IN_SHAPE = (5, 4, 3)
INCEPTION = Concatenate(
    (
        Sequential((Conv2d(2, 1), ReLU())),
        Sequential((Conv2d(3, 1), ReLU(), Conv2d(4, 3, padding=1), ReLU())),
        Sequential((Conv2d(1, 1), ReLU(), Conv2d(2, 5, padding=2), ReLU())),
        Sequential((MaxPool2d(3, stride=1, padding=1), Conv2d(3, 1), ReLU())),
    )
)
DENSE_BLOCK = Sequential([Concatenate((Identity(), Sequential((ReLU(), Conv2d(2, 3, padding=1)))))] * 3)
GATE = Sequential((AvgPool2d((5, 4)), Flatten(), Dense(2), ReLU(), Dense(3), Sigmoid()))
SQUEEZE_AND_EXCITATION = Product((Identity(), GATE))


def conv(params, x, padding=0):
    """Cross-correlation by JAX's own convolution."""
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(
        x, params["weight"], (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    ) + params.get("bias", 0)


def affine(params, x):
    return x @ params["weight"] + params["bias"]


def plain_inception(params, x):
    one, three, five, pooled = (params[f"sequential{i}"] for i in (1, 2, 3, 4))
    pool = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), [(0, 0), (1, 1), (1, 1), (0, 0)])
    outputs = [
        conv(one["conv1"], x),
        conv(three["conv2"], jax.nn.relu(conv(three["conv1"], x)), 1),
        conv(five["conv2"], jax.nn.relu(conv(five["conv1"], x)), 2),
        conv(pooled["conv1"], pool),
    ]
    return jax.nn.relu(jnp.concatenate(outputs, axis=3))


def plain_dense_block(params, x):
    known = [x]
    for i in (1, 2, 3):
        together = jax.nn.relu(jnp.concatenate(known, axis=3))
        known.append(conv(params[f"concatenate{i}"]["sequential1"]["conv1"], together, 1))
    return jnp.concatenate(known, axis=3)


def plain_squeeze_and_excitation(params, x):
    gate = params["sequential1"]
    z = jax.nn.relu(affine(gate["dense1"], x.mean(axis=(1, 2))))
    return jnp.einsum("nijc,nc->nijc", x, jax.nn.sigmoid(affine(gate["dense2"], z)))


MODULES = {
    "inception": (INCEPTION, plain_inception, (5, 4, 11)),
    "dense block": (DENSE_BLOCK, plain_dense_block, (5, 4, 9)),
    "squeeze and excitation": (SQUEEZE_AND_EXCITATION, plain_squeeze_and_excitation, IN_SHAPE),
}
NESTED = Sequential(
    (
        Residual(Product((Conv2d(3, 3, padding=1), SQUEEZE_AND_EXCITATION, Tanh()))),
        INCEPTION,
        Sum((Dropout(0.3), Sequential((Conv2d(11, 1), Dropout(0.4), Tanh())), Residual(Tanh(), Dropout(0.5)))),
        Concatenate((Flatten(), Sequential((Flatten(), Dense(3))))),
        Product((Dense(4), Sequential((Dense(4), Dropout(0.5))))),
    )
)


def problem(rng, network):
    params = network.init(jax.random.key(0), IN_SHAPE)
    params = jax.tree.map(lambda w: jnp.asarray(rng.standard_normal(w.shape)), params)  # biases too
    return params, jnp.asarray(rng.standard_normal((2, *IN_SHAPE)))


def assert_close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    errors = jax.tree.map(relative_error, found, expected)
    assert max(jax.tree.leaves(errors)) <= EXACT, errors


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("float64")
def test_known_modules_are_what_plain_jax_makes_of_them(rng, name):
    """The explicit chain is jax.grad of the formulation in JAX's own functions; so are apply's and forward's."""
    network, plain, out_shape = MODULES[name]
    params, x = problem(rng, network)
    dy = jnp.asarray(rng.standard_normal((2, *out_shape)))
    y, residuals = jax.jit(network.forward)(params, x)
    dx, grads = jax.jit(network.backward)(residuals, dy)
    for f in (plain, network.apply, lambda params, x: network.forward(params, x)[0]):
        value, pull = jax.vjp(jax.jit(f), params, x)
        assert_close(y, value)
        assert_close((grads, dx), pull(dy))
    assert network.output_shape(IN_SHAPE) == out_shape


JOINS = {
    Sum: functools.partial(functools.reduce, jnp.add),
    Residual: functools.partial(functools.reduce, jnp.add),
    Concatenate: lambda ys: jnp.concatenate(ys, axis=-1),
    Product: lambda ys: functools.reduce(
        jnp.multiply, [y[:, None, None] if y.ndim < max(z.ndim for z in ys) else y for y in ys]
    ),
}


def moved(layer, params, x, zeros, key, path=""):
    """What a network computes in training when `zeros[path]` is added to the output of the layer of this path."""

    def inside(name, x, key):
        place = f"{path}/{name}" if path else name
        return moved(layer.children()[name], params.get(name, {}), x, zeros, key, place)

    children = layer.children()
    if not children:
        y = layer.forward(params, x, train=True, key=key)[0]
    elif isinstance(layer, Sequential):
        y = x
        for i, name in enumerate(children):
            y = inside(name, y, jax.random.fold_in(key, i))
    else:
        names = ["body", "shortcut"] if isinstance(layer, Residual) else list(children)
        keys = jax.random.split(key, len(names))
        ways = [inside(name, x, k) if name in children else x for name, k in zip(names, keys, strict=True)]
        y = JOINS[type(layer)](ways)
    return y + zeros.get(path, 0)


def paths(layer, path=""):
    """Of every layer inside, composites too."""
    for name, child in layer.children().items():
        yield path + name
        yield from paths(child, f"{path}{name}/")


@pytest.mark.usefixtures("float64")
def test_nested_in_each_other_with_dropout_the_deltas_are_the_sensitivities_of_every_output(rng):
    """dE/d(a zero that is added to the output of the layer), by jax.grad; the keys are as written in `moved`."""
    params, x = problem(rng, NESTED)
    key = jax.random.key(3)
    y, residuals = jax.jit(functools.partial(NESTED.forward, train=True))(params, x, key=key)
    dy = jnp.asarray(rng.standard_normal(y.shape))
    dx, grads, deltas = jax.jit(NESTED.backward_with_deltas)(residuals, dy)
    assert set(deltas) == set(paths(NESTED))
    assert {"sum1/residual1/shortcut", "residual1/body/product1/sequential1/sigmoid1"} < set(deltas)
    zeros = {name: jnp.zeros_like(delta) for name, delta in deltas.items()}

    def E(params, x, zeros):
        return (moved(NESTED, params, x, zeros, key) * dy).sum()

    assert_close((grads, dx, deltas), jax.jit(jax.grad(E, argnums=(0, 1, 2)))(params, x, zeros))
    value, pull = jax.vjp(lambda p, x: NESTED.apply(p, x, train=True, key=key), params, x)
    assert_close(value, y)
    assert_close(pull(dy), (grads, dx))


@pytest.mark.usefixtures("float64")
def test_second_derivatives_under_vmap_scan_and_jit_are_those_of_plain_jax(rng):
    params, x = problem(rng, SQUEEZE_AND_EXCITATION)
    v, key = jnp.asarray(rng.standard_normal(x.shape)), jax.random.key(0)

    def curvature(f):
        def slope(x):
            return jnp.vdot(jax.grad(lambda x: (f(params, x) ** 3).sum())(x), v)

        return jax.jit(jax.grad(slope))(x)

    assert_close(curvature(SQUEEZE_AND_EXCITATION.apply), curvature(plain_squeeze_and_excitation))

    network = INCEPTION
    params, _ = problem(rng, network)
    xs = jnp.stack([x, v, x * v])

    def grads(x):
        return jax.grad(lambda p: (network.apply(p, x, train=True, key=key) ** 2).sum())(params)

    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(grads, xs))
    assert_close(jax.vmap(grads)(xs), expected)
    assert_close(lax.scan(lambda _, x: (None, grads(x)), None, xs)[1], expected)


@pytest.mark.parametrize("zero", ["dense1", "identity1", "dense2"])
def test_a_product_with_a_zero_has_the_others_as_its_derivative(zero):
    """No output is divided by."""
    network, outputs = (
        Product((Dense(2), Identity(), Dense(2))),
        {"dense1": [3.0, 5], "identity1": [7.0, 2], "dense2": [4.0, 6]},
    )
    outputs[zero] = [0.0, 0.0]
    params = {name: {"weight": jnp.zeros((2, 2)), "bias": jnp.array(outputs[name])} for name in ("dense1", "dense2")}
    y, residuals = network.forward(params, jnp.array([outputs["identity1"]]))
    np.testing.assert_array_equal(y, [[0, 0]])
    _, _, deltas = network.backward_with_deltas(residuals, jnp.array([[1.0, 10.0]]))
    for name in outputs:
        others = [np.array(value) for other, value in outputs.items() if other != name]
        np.testing.assert_array_equal(deltas[name], np.array([[1, 10]]) * others[0] * others[1])


@pytest.mark.parametrize("order", [lambda a, b: (a, b), lambda a, b: (b, a)])
@pytest.mark.parametrize("flat", [True, False])
def test_a_gate_gets_the_sum_over_its_map_wherever_it_stands(order, flat):
    maps, gate = jnp.arange(1.0, 13).reshape(1, 2, 3, 2), jnp.array([[10.0, -1]])
    gate = gate if flat else gate.reshape(1, 1, 1, 2)
    y, residuals = multiply.forward(*order(gate, maps))
    np.testing.assert_array_equal(y[0, :, :, 1], -maps[0, :, :, 1])
    of_gate, of_maps = order(*multiply.backward(residuals, jnp.ones_like(y)))
    assert of_gate.shape == gate.shape
    np.testing.assert_array_equal(of_gate.ravel(), [1 + 3 + 5 + 7 + 9 + 11, 2 + 4 + 6 + 8 + 10 + 12])
    np.testing.assert_array_equal(of_maps[0, :, :, 0], np.full((2, 3), 10))


def test_the_gradient_of_a_gate_in_bfloat16_is_summed_in_float32():
    """256 + 1 is 256 in bfloat16."""
    maps, gate = jnp.ones((1, 5, 5, 1), jnp.bfloat16).at[0, 0, 0, 0].set(256), jnp.ones((1, 1), jnp.bfloat16)
    _, residuals = multiply.forward(gate, maps)
    dgate, dmaps = multiply.backward(residuals, jnp.ones_like(maps))
    assert dgate == 280
    assert dgate.dtype == dmaps.dtype == jnp.bfloat16


def test_joins_are_those_of_pytorch(rng):
    """[N30, N31, N32]"""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    a, b, gate = (rng.standard_normal(shape) for shape in ((2, 5, 3, 4), (2, 5, 3, 4), (2, 4)))
    assert_same_as_torch(add, lambda a, b: a + b, (a, b))
    assert_same_as_torch(concatenate, lambda a, b: torch.cat([a, b], dim=3), (a, b[..., :3]))
    assert_same_as_torch(multiply, lambda a, b: a * b, (a, b))
    assert_same_as_torch(multiply, lambda g, x: g[:, None, None] * x, (gate, a))
    assert_same_as_torch(multiply, lambda x, g: g * x, (a, gate[:, None, None]))


@pytest.mark.usefixtures("float64")
def test_squeeze_and_excitation_is_pytorchs(rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    params, x = problem(rng, SQUEEZE_AND_EXCITATION)
    y, residuals = SQUEEZE_AND_EXCITATION.forward(params, x)
    dy = rng.standard_normal(y.shape)
    dx, grads = SQUEEZE_AND_EXCITATION.backward(residuals, jnp.asarray(dy))

    image = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2), requires_grad=True)
    ours = params["sequential1"]
    layers = {name: torch.nn.Linear(*ours[name]["weight"].shape).double() for name in ("dense1", "dense2")}
    for name, layer in layers.items():
        layer.weight.data = torch.tensor(np.asarray(ours[name]["weight"]).T)
        layer.bias.data = torch.tensor(np.asarray(ours[name]["bias"]))
    z = torch.relu(layers["dense1"](image.mean(dim=(2, 3))))
    out = image * torch.sigmoid(layers["dense2"](z))[:, :, None, None]
    out.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    assert_close(y, out.detach().numpy().transpose(0, 2, 3, 1))
    assert_close(dx, image.grad.numpy().transpose(0, 2, 3, 1))
    theirs = {
        name: {"weight": layer.weight.grad.numpy().T, "bias": layer.bias.grad.numpy()} for name, layer in layers.items()
    }
    assert_close(grads, {"sequential1": theirs})


@pytest.mark.parametrize("join", [Sum, Product])
def test_dropout_in_every_branch_draws_apart(join):
    branches = [Dropout(0.5)] * 3
    kept = join(branches).apply({}, jnp.ones((1, 4000)), train=True, key=jax.random.key(1))
    expected = [0, 2, 4, 6] if join is Sum else [0, 8]
    np.testing.assert_array_equal(np.unique(kept), expected)
    if join is Product:
        np.testing.assert_allclose((kept > 0).mean(), 1 / 8, atol=0.025)


def test_shapes_names_counts_and_json():
    params = NESTED.init(jax.random.key(0), IN_SHAPE)
    assert set(params["concatenate1"]) == {f"sequential{i}" for i in (1, 2, 3, 4)}
    assert set(params["sum1"]) == {"sequential1"}
    assert set(params["residual1"]["body"]) == {"conv1", "product1"}
    assert INCEPTION.names == ("sequential1", "sequential2", "sequential3", "sequential4")
    assert INCEPTION.multiply_adds(IN_SHAPE) == 20 * (3 * 2 + 3 * 3 + 9 * 3 * 4 + 3 * 1 + 25 * 2 + 3 * 3)
    assert SQUEEZE_AND_EXCITATION.multiply_adds(IN_SHAPE) == 3 * 2 + 2 * 3
    rows = {row.name: row for row in summary(NESTED, IN_SHAPE).rows}
    assert rows["concatenate1"].layer == "Concatenate(4 layers)"
    assert rows["concatenate1"].output_shape == (5, 4, 11)
    assert rows["concatenate1"].parameters == 8 + (12 + 112) + (4 + 52) + 12
    assert rows["concatenate2"].output_shape == (5 * 4 * 11 + 3,)
    assert sum(row.parameters for row in rows.values()) == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert spec_from_json(json.loads(json.dumps(spec_to_json(NESTED)))) == NESTED
    assert Sum((ReLU(),)) != Product((ReLU(),))


def test_a_sum_keeps_nothing_and_a_product_its_factors():
    def kept(layer):
        return summary(layer, (10,), batch_size=2).total.residual_bytes

    assert kept(Sum((Identity(), Identity()))) == kept(Concatenate((Identity(), Identity()))) == 0
    assert kept(Product((Tanh(), Sigmoid()))) == 2 * 2 * 10 * 4  # which the activations keep anyway


def test_units_inside_are_diagnosed():
    network = Sequential((Sum((Sequential((Dense(2), ReLU())), Sequential((Dense(2), ReLU())), Sigmoid())),))
    params = network.init(jax.random.key(0), (2,))
    params["sum1"]["sequential2"]["dense1"]["bias"] -= 99
    found = diagnose(network, params, jnp.ones((4, 2)))
    assert [d.name for d in found] == ["sum1/sequential1/relu1", "sum1/sequential2/relu1", "sum1/sigmoid1"]
    assert [d.share for d in found][1:] == [1, 0]


def test_it_is_walked_rebuilt_and_rewritten():
    stage = Sequential((Conv2d(2, 3), ReLU(), MaxPool2d(2)))
    for join in (Sum, Concatenate, Product):
        network = join((stage, Sequential((Conv2d(2, 4, stride=2),))))
        params = network.init(jax.random.key(0), (8, 8, 1))
        names = [path for path, _, _ in walk(network, params)]
        assert names == ["sequential1/conv1", "sequential1/relu1", "sequential1/maxpool1", "sequential2/conv1"]
        assert relu_after_pool(network).layers[0].names == ("conv1", "maxpool1", "relu1")
        smooth = rebuild(network, lambda layer: Tanh() if isinstance(layer, ReLU) else layer)
        assert smooth == join((Sequential((Conv2d(2, 3), Tanh(), MaxPool2d(2))), network.layers[1]))
        x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 1)), jnp.float32)
        np.testing.assert_array_equal(relu_after_pool(network).apply(params, x), network.apply(params, x))


def test_penalties_inside_reach_the_training():
    block = Product((CombineMaps(2, 1, entropy=0.5), Identity()))
    E, grads = block.penalty(block.init(jax.random.key(0), (3, 3, 2)))
    assert E > 0
    assert set(grads) == {"combinemaps1"}


def test_they_are_trained_saved_and_read_back_and_their_flow_is_shown(tmp_path, rng):
    x, labels = jnp.asarray(rng.standard_normal((20, *IN_SHAPE)), jnp.float32), jnp.arange(20) % 4
    loss = SoftmaxCrossEntropy()
    state = init_state(NESTED, SGD(1e-3), jax.random.key(0), IN_SHAPE)
    state, history = fit(NESTED, loss, SGD(1e-3), state, x, labels, batch_size=5, epochs=12)
    assert history[-1]["loss"] < history[0]["loss"]
    save_checkpoint(tmp_path / "nested.safetensors", NESTED, IN_SHAPE, state, {})
    saved = load_checkpoint(tmp_path / "nested.safetensors")
    assert saved.network == NESTED
    jax.tree.map(np.testing.assert_array_equal, saved.params, state.params)
    passed, _ = flow(NESTED, loss, state.params, x[0], 1)
    assert [layer.name for layer in passed] == ["input", *NESTED.names]


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (
            Sum((Conv2d(3, 1), Conv2d(2, 1), Conv2d(3, 3))),
            "Sum: conv1's output has shape (5, 4, 3) and conv2's output has shape (5, 4, 2) and conv3's output has "
            "shape (3, 2, 3) but they must have one shape",
        ),
        (
            Concatenate((Conv2d(2, 2), Identity())),
            "Concatenate: conv1's output has shape (4, 3, 2) and identity1's output has shape (5, 4, 3) but they must "
            "have one shape but for the channels, the last axis",
        ),
        (
            Product((Identity(), Sequential((Flatten(), Dense(4))))),
            "Product: identity1's output has shape (5, 4, 3) and sequential1's output has shape (4,) but they must "
            "have one shape, or be maps (H, W, C) of each sample and gates (C,) or (1, 1, C) to them",
        ),
        (
            Residual(Conv2d(2, 1)),
            "Residual: body's output has shape (5, 4, 2) and shortcut's output has shape (5, 4, 3) but they must have "
            "one shape",
        ),
    ],
)
@pytest.mark.parametrize("use", ["init", "output_shape", "apply", "forward"])
def test_outputs_that_do_not_fit_are_named_with_their_shapes(network, sentence, use):
    inside = {name: child.init(jax.random.key(0), IN_SHAPE) for name, child in network.children().items()}
    x = jnp.ones((2, *IN_SHAPE))
    with pytest.raises(InputError) as error:
        {
            "init": lambda: network.init(jax.random.key(0), IN_SHAPE),
            "output_shape": lambda: network.output_shape(IN_SHAPE),
            "apply": lambda: network.apply(inside, x),
            "forward": lambda: network.forward(inside, x),
        }[use]()
    assert str(error.value) == sentence


def test_an_error_inside_names_the_branch():
    network = Sequential((Sum((ReLU(), Sequential((Conv2d(3, 6),)))),))
    for use in (lambda: network.init(jax.random.key(0), IN_SHAPE), lambda: network.output_shape(IN_SHAPE)):
        with pytest.raises(
            InputError, match=r"^layer 'sum1' with input shape .*: layer 'sequential1' .*: layer 'conv1' .*: conv2d: "
        ):
            use()
    network = Product((Dense(2), Identity()))
    _, residuals = network.forward({"dense1": {"weight": jnp.ones((2, 2)), "bias": jnp.ones(2)}}, jnp.ones((3, 2)))
    with pytest.raises(InputError, match=r"^multiply.backward: dy has shape \(3, 1\) but must have shape \(3, 2\)"):
        network.backward(residuals, jnp.ones((3, 1)))


@pytest.mark.parametrize("join", [Sum, Concatenate, Product])
def test_what_is_no_layer_is_refused(join):
    name = join.__name__
    for make, sentence in (
        (lambda: join((ReLU(), Dense)), "layers[1] is the class Dense but must be a layer: Dense()"),
        (lambda: join(()), "layers is () but must be at least one layer"),
        (
            lambda: join(ReLU(), ReLU()),
            f"layers must be a tuple, {name}((a, b)) or {name}((a,)), but is ReLU(), ReLU()",
        ),
    ):
        with pytest.raises(InputError) as error:
            make()
        assert str(error.value) == f"{name}: {sentence}"
    with pytest.raises(InputError, match=f"{name}: key is 0 but must be a key"):
        join((ReLU(),)).init(0, (3,))


@pytest.mark.parametrize(
    ("op", "shapes", "sentence"),
    [
        (add, ((2, 3), (3,)), "add: a has shape (2, 3) and b has shape (3,) but they must have one shape"),
        (concatenate, ((3,), (4,)), "concatenate: a has shape (3,) and b has shape (4,) but they must have one shape "),
        (concatenate, ((2, 3), (1, 3)), "concatenate: a has shape (2, 3) and b has shape (1, 3) but they must have "),
        *(
            (multiply, shapes, f"multiply: a has shape {shapes[0]} and b has shape {shapes[1]} but they must have one")
            for shapes in (
                ((2, 4), (1, 4)), ((2, 3, 4), (2, 4)), ((2, 3, 3, 4), (1, 4)), ((2, 3, 3, 4), (4,)),
                ((2, 3, 3, 4), (2, 3, 1, 4)), ((2, 3, 3, 4), (2, 3, 3, 1)), ((2, 4, 3), (1, 1, 3)), ((), (3,)),
            )
        ),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(op, shapes, sentence):
    for use in (op, op.forward):
        with pytest.raises(InputError) as error:
            use(*map(jnp.ones, shapes))
        assert str(error.value).startswith(sentence)
    with pytest.raises(InputError, match=f"{op.name}: b is bfloat16 but a is float32; they must have one dtype"):
        op(jnp.ones((2, 3)), jnp.ones((2, 3), jnp.bfloat16))


def test_identity_is_nothing():
    x = jnp.ones((2, 3))
    y, residuals = Identity().forward({}, x, train=True)
    assert y is x
    assert Identity().backward(residuals, y)[0] is y
    assert Identity().init(jax.random.key(0), (3,)) == {}
    assert Identity().output_shape((3,)) == (3,)
    assert jax.tree.leaves(residuals) == []
