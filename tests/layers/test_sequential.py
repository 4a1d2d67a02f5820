import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    AvgPool2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    InputError,
    MaxPool2d,
    ReLU,
    Sequential,
    Sigmoid,
    SoftmaxCrossEntropy,
    Tanh,
    predict,
    relu,
    summary,
)
from jaxcnn.kernels import quick_jit
from jaxcnn.verify.tolerances import relative_error, tolerance

NETWORK = Sequential(
    (
        Conv2d(3, (3, 2), stride=(1, 2), padding="SAME"),
        ReLU(),
        Sequential((MaxPool2d(2), Conv2d(4, 2), Tanh())),
        Dropout(0.3),
        Flatten(),
        Dense(5, bias=False),
        Sigmoid(),
        Dense(3),
    )
)


LOSS = SoftmaxCrossEntropy()


def problem(rng):
    params = NETWORK.init(jax.random.key(0), (7, 9, 2))
    return params, jnp.asarray(rng.standard_normal((4, 7, 9, 2))), jnp.array([0, 2, 1, 2]), jax.random.key(5)


@pytest.mark.usefixtures("float64")
def test_the_explicit_chain_is_jax_grad_of_the_plain_forward_and_of_apply(rng):
    params, x, labels, key = problem(rng)

    @quick_jit
    def explicit(params, x):
        y, residuals = NETWORK.forward(params, x, train=True, key=key)
        return NETWORK.backward(residuals, LOSS.backward(LOSS.forward(y, labels)[1]))

    dx, grads = explicit(params, x)

    def plain(params, x):
        return LOSS.forward(NETWORK.forward(params, x, train=True, key=key)[0], labels)[0]

    def with_rules(params, x):
        return LOSS.apply(NETWORK.apply(params, x, train=True, key=key), labels)

    for f in (plain, with_rules):
        expected = quick_jit(jax.grad(f, argnums=(0, 1)))(params, x)
        assert jax.tree.structure((grads, dx)) == jax.tree.structure(expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), (grads, dx), expected)
    assert with_rules(params, x) == plain(params, x)


@pytest.mark.usefixtures("float64")
def test_deltas_are_the_sensitivities_of_every_layers_output(rng):
    """delta^l = dE/d(output of l): moving the output of a layer by z moves E by <delta, z>."""
    params, x, labels, key = problem(rng)
    y, residuals = NETWORK.forward(params, x, train=True, key=key)
    _, _, deltas = NETWORK.backward_with_deltas(residuals, LOSS.backward(LOSS.forward(y, labels)[1]))
    inner = {"sequential1/maxpool1", "sequential1/conv1", "sequential1/tanh1"}
    assert set(deltas) == set(NETWORK.names) | inner
    for i, name in enumerate(NETWORK.names):

        def from_layer_on(moved, i=i, name=name):
            value = x
            for j, (other, layer) in enumerate(zip(NETWORK.names, NETWORK.layers, strict=True)):
                key_j = jax.random.fold_in(key, j)
                value, _ = layer.forward(params.get(other, {}), value, train=True, key=key_j)
                value = value + moved if other == name else value
            return LOSS.forward(value, labels)[0]

        expected = jax.grad(from_layer_on)(jnp.zeros_like(deltas[name]))
        np.testing.assert_allclose(deltas[name], expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_array_equal(deltas["sequential1/tanh1"], deltas["sequential1"])
    assert deltas["sequential1/conv1"].shape == (4, 2, 1, 4)


SMOOTH = Sequential((Conv2d(4, 3), Tanh(), AvgPool2d(2), Flatten(), Dense(5), Sigmoid(), Dense(3)))


ROUNDINGS = 9 * 2 + 4 + 36 + 5 + 3 + 4 * 16  # the sums on the longest way from an input to a gradient of a kernel


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.usefixtures("float64")
def test_low_precision_gradients_of_a_whole_network(rng, dtype):
    """Without kinks, whose decisions flip on rounding; against float64 at the same rounded parameters and images."""
    x, labels = jnp.asarray(rng.standard_normal((4, 8, 8, 2)), dtype), jnp.array([0, 2, 1, 2])
    params = jax.tree.map(lambda w: w.astype(dtype), SMOOTH.init(jax.random.key(0), (8, 8, 2)))

    @jax.jit
    def grads(params, x):
        y, residuals = SMOOTH.forward(params, x)
        return SMOOTH.backward(residuals, LOSS.backward(LOSS.forward(y, labels)[1]))[1]

    truth = grads(*jax.tree.map(lambda a: a.astype(jnp.float64), (params, x)))
    errors = jax.tree.map(relative_error, grads(params, x), truth)
    assert max(jax.tree.leaves(errors)) <= tolerance(dtype, ROUNDINGS)


def test_names_and_parameters():
    assert NETWORK.names == (
        "conv1", "relu1", "sequential1", "dropout1", "flatten1", "dense1", "sigmoid1", "dense2",
    )  # fmt: skip
    params = NETWORK.init(jax.random.key(0), (7, 9, 2))
    assert list(params) == ["conv1", "sequential1", "dense1", "dense2"]
    assert list(params["sequential1"]) == ["conv1"]
    assert not np.allclose(params["conv1"]["weight"].ravel()[:6], params["dense2"]["weight"].ravel()[:6])


def test_output_shape_and_multiply_adds():
    assert NETWORK.output_shape((7, 9, 2)) == (3,)
    assert NETWORK.multiply_adds((7, 9, 2)) == 7 * 5 * 3 * 6 * 2 + 2 * 1 * 4 * 4 * 3 + 8 * 5 + 5 * 3


@pytest.mark.parametrize("use", ["init", "output_shape", "summary", "apply", "forward"])
def test_an_error_names_the_layer_and_its_input_shape(use):
    network = Sequential((Conv2d(3, 3), Sequential((ReLU(), MaxPool2d(8)))))
    small = {"conv1": {"weight": jnp.ones((3, 3, 1, 3)), "bias": jnp.ones(3)}}
    with pytest.raises(InputError) as error:
        {
            "init": lambda: network.init(jax.random.key(0), (6, 6, 1)),
            "output_shape": lambda: network.output_shape((6, 6, 1)),
            "summary": lambda: summary(network, (6, 6, 1)),
            "apply": lambda: network.apply(small, jnp.ones((2, 6, 6, 1))),
            "forward": lambda: network.forward(small, jnp.ones((2, 6, 6, 1))),
        }[use]()
    assert str(error.value) == (
        "layer 'sequential1' with input shape (4, 4, 3): layer 'maxpool1' with input shape (4, 4, 3): "
        "max_pool2d: a window of height 8 does not fit the input of height 4 with padding (0, 0); it must be at most 4"
    )


def test_an_empty_network_is_refused():
    with pytest.raises(InputError, match="Sequential: layers is \\(\\) but must be at least one layer"):
        Sequential(())


def test_predict_gives_class_and_probability():
    """[A4]"""
    network = Sequential((Dense(3),))
    params = {"dense1": {"weight": jnp.eye(3), "bias": jnp.zeros(3)}}
    classes, probabilities = predict(network, params, jnp.array([[2.0, 3, 4], [5, 0, 0]]))
    np.testing.assert_array_equal(classes, [2, 0])
    np.testing.assert_allclose(probabilities, [0.6652, np.exp(5) / (np.exp(5) + 2)], atol=5e-5)


def test_a_wrong_cotangent_names_the_layer():
    network = Sequential((Dense(3), Dense(2)))
    params = network.init(jax.random.key(0), (4,))
    _, residuals = network.forward(params, jnp.ones((5, 4)))
    with pytest.raises(InputError, match="layer 'dense2' with dy shape .* dense.backward: dy has shape"):
        network.backward(residuals, jnp.ones((5, 3)))


def test_specs_are_static_arguments():
    calls = []

    def f(network, x):
        calls.append(network)
        return network.apply({}, x)

    jitted = jax.jit(f, static_argnums=0)
    jitted(Sequential((ReLU(),)), jnp.ones((1, 2)))
    jitted(Sequential([ReLU()]), jnp.ones((1, 2)))
    assert len(calls) == 1


def test_layers_that_are_not_in_a_tuple_are_shown_the_right_form():
    for layers in ((Flatten(),), (Flatten(), ReLU())):
        with pytest.raises(InputError) as error:
            Sequential(*layers)
        assert str(error.value) == (
            "Sequential: layers must be a tuple, Sequential((a, b)) or Sequential((a,)), but is "
            + ", ".join(map(repr, layers))
        )
    with pytest.raises(InputError, match=r"layers must be a tuple, .*, but is 5$"):
        Sequential(5)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ((Dense(8), ReLU, Dense(10)), "layers[1] is the class ReLU but must be a layer: ReLU()"),
        ((Dense(8), relu), "layers[1] is <operation relu> but must be a layer, such as ReLU()"),
        ({"dense1": {}}, "layers[0] is 'dense1' but must be a layer, such as ReLU()"),
    ],
)
def test_the_entry_that_is_no_layer_is_named(layers, sentence):
    with pytest.raises(InputError) as error:
        Sequential(layers)
    assert str(error.value) == f"Sequential: {sentence}"


@pytest.mark.parametrize("use", ["apply", "forward"])
def test_an_input_that_is_no_array_gets_one_sentence(use):
    network = Sequential((Flatten(),))
    for x, sentence in (([[1.0]], "x is of type list but must be a floating-point"), (None, "x is None but must be")):
        with pytest.raises(InputError, match=f"layer 'flatten1' with input shape .*: flatten: {sentence}"):
            getattr(network, use)({}, x)
