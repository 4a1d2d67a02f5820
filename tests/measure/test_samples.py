"""Single samples' gradients against `vmap` of automatic differentiation of the plain forward, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    AvgPool2d,
    BatchNorm,
    CombineMaps,
    Concatenate,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GroupNorm,
    Identity,
    InputError,
    InstanceNorm,
    LayerNorm,
    MaxPool2d,
    Recompute,
    ReLU,
    Residual,
    Scale,
    Sequential,
    Sigmoid,
    SoftmaxCrossEntropy,
    SquaredError,
    Subsample2d,
    Tanh,
    gradients,
    init_statistics,
    merged,
    with_rules,
)
from jaxcnn.layers.base import LAYERS
from jaxcnn.measure import clipped_gradient, gradient_norms, gradient_variance, sample_gradients
from jaxcnn.verify.cases import find_operation

IN_SHAPE = (7, 6, 2)
LOSS = SoftmaxCrossEntropy()
CONNECTIONS = ((0, 1), (1,), (0,))
BODY = Sequential((Conv2d(3, 3, padding=1, bias=False), GroupNorm(3), ReLU()))
NESTED = Sequential(
    (
        Conv2d(3, 3, connections=CONNECTIONS),
        ReLU(),
        MaxPool2d(2, padding=1),
        Residual(BODY),
        Recompute(Sequential((Concatenate((Conv2d(2, 3, padding=1), Identity())), Tanh()))),
        Dropout(0.3),
        LayerNorm(),
        Flatten(),
        Dense(4, bias=False),
        Dense(3),
    )
)
OTHERS = Sequential(
    (
        ConvTranspose2d(3, 3, stride=2),
        Tanh(),
        InstanceNorm(),
        Scale(),
        CombineMaps(4, 3),
        Sigmoid(),
        Subsample2d((2, 3)),
        AvgPool2d(2),
        GlobalAvgPool2d(),
        Dense(3),
    )
)
CONVOLUTIONS = find_operation("conv2d").cases
KEY = jax.random.key(3)


def drawn(network, in_shape=IN_SHAPE, N=5, classes=3):
    """Parameters away from their special first values, a batch and labels, in float64."""
    params = network.init(jax.random.key(0), in_shape)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [w + 0.3 * jax.random.normal(k, w.shape) for k, w in zip(keys, leaves, strict=True)]
    x = jax.random.normal(jax.random.key(2), (N, *in_shape))
    wide = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), (tree.unflatten(leaves), x))
    return *wide, jnp.arange(N) % classes


def truth(network, loss, params, x, labels, key=None):
    """Each sample's gradient by automatic differentiation of the forward pass, in which there is no rule.

    What dropout draws for sample n it draws for the batch, so a sample's loss is its term of the batch's.
    """

    def own(params, n):
        y, _ = network.forward(params, x, train=True, key=key)
        return loss.forward(y[n][None], labels[n][None])[0]

    return jax.jit(jax.vmap(jax.grad(own), (None, 0)))(params, jnp.arange(len(x)))


def close(found, expected, rtol=1e-10):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * float(jnp.abs(other).max()))


def norms_of(each):
    return jnp.sqrt(sum((g.reshape(len(g), -1) ** 2).sum(axis=1) for g in jax.tree.leaves(each)))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("network", [NESTED, OTHERS], ids=["nested", "others"])
@pytest.mark.parametrize(
    "loss", [LOSS, SquaredError(), SoftmaxCrossEntropy(reduction="sum")], ids=["mean", "squared", "sum"]
)
def test_each_measure_is_that_of_the_samples_gradients(network, loss):
    params, x, labels = drawn(network)
    each = truth(network, loss, params, x, labels, KEY)
    close(sample_gradients(network, loss, params, x, labels, key=KEY), each)

    found = gradient_norms(network, loss, params, x, labels, key=KEY)
    close(found.norms, norms_of(each))
    N = len(x)
    share = 1 if loss.reduction == "sum" else 1 / N
    close(found.grads, jax.tree.map(lambda g: share * g.sum(axis=0), each))
    grads, E, outputs, _ = gradients(network, loss, params, x, labels, key=KEY)
    close((found.grads, found.loss, found.outputs), (grads, E, outputs), 1e-12)

    variance = gradient_variance(network, loss, params, x, labels, key=KEY)
    close(variance, jax.tree.map(lambda g: g.var(axis=0, ddof=1), each))

    limit = float(jnp.median(norms_of(each)))
    weights = jnp.array([1.0, 0.0, 2.0, 1.0, 0.5])
    for given, factor in ((None, 1.0), (weights, weights)):
        clipped, norms = clipped_gradient(network, loss, params, x, labels, limit, weights=given, key=KEY)
        close(norms, norms_of(each))
        factors = jnp.minimum(1, limit / norms_of(each)) * factor
        close(clipped, jax.tree.map(lambda g, f=factors: jnp.einsum("n,n...->...", f, g), each))


def test_norms_are_told_for_each_layer_by_its_name():
    params, x, labels = drawn(NESTED)
    each = truth(NESTED, LOSS, params, x, labels, KEY)
    found = gradient_norms(NESTED, LOSS, params, x, labels, key=KEY).layers
    assert set(found) == {
        "conv1", "residual1/body/conv1", "residual1/body/groupnorm1", "recompute1/body/concatenate1/conv1",
        "layernorm1", "dense1", "dense2",
    }  # fmt: skip
    close(found["conv1"], norms_of(each["conv1"]))
    close(found["residual1/body/groupnorm1"], norms_of(each["residual1"]["body"]["groupnorm1"]))
    close(found["dense1"], norms_of(each["dense1"]))


@pytest.mark.slow
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_every_geometry_of_a_convolution(case):
    (x_draw, weight, bias) = case.args
    layer = Conv2d(weight.shape[3], weight.shape[:2], bias=bias is not None, **case.hyper)
    network = Sequential((layer, Tanh(), Flatten(), Dense(3)))
    params, x, labels = drawn(network, x_draw.shape[1:])
    each = truth(network, LOSS, params, x, labels)
    close(sample_gradients(network, LOSS, params, x, labels), each)
    found = gradient_norms(network, LOSS, params, x, labels)
    close(found.layers["conv1"], norms_of(each["conv1"]))
    close(found.grads, jax.tree.map(lambda g: g.mean(axis=0), each))
    clipped, _ = clipped_gradient(network, LOSS, params, x, labels, 0.1)
    factors = jnp.minimum(1, 0.1 / norms_of(each))
    close(clipped, jax.tree.map(lambda g: jnp.einsum("n,n...->...", factors, g), each))


def test_every_layer_with_parameters_is_measured_here():
    """A new one must be brought into `NESTED` or `OTHERS`."""

    def classes(layer):
        yield type(layer).__name__
        for child in layer.children().values():
            yield from classes(child)

    drawing = {"dropout", "stochastic_pool2d"}  # their second array is a key
    ops = {name: getattr(cls, "op", None) for name, cls in LAYERS.items() if cls.__module__.startswith("jaxcnn.")}
    learning = {name for name, op in ops.items() if op and len(op.arguments) > 1 and op.name not in drawing}
    assert "Conv2d" in learning
    assert learning <= {*classes(NESTED), *classes(OTHERS)}


def test_a_batch_norm_is_refused_in_training_and_measured_at_rest():
    network = Sequential((Conv2d(3, 3), BatchNorm(), ReLU(), Flatten(), Dense(3)))
    params, x, labels = drawn(network)
    for measure in (sample_gradients, gradient_norms, gradient_variance):
        with pytest.raises(
            InputError, match="batchnorm1: is a BatchNorm in training, in which samples meet, but must be"
        ):
            measure(network, LOSS, params, x, labels)
    with pytest.raises(InputError, match="batchnorm1: is a BatchNorm in training"):
        clipped_gradient(network, LOSS, params, x, labels, 1.0)

    at_rest = merged(params, init_statistics(network, params, IN_SHAPE))

    def own(params, x, label):
        y, _ = network.forward(merged(params, {"batchnorm1": statistics}), x[None])
        return LOSS.forward(y, label[None])[0]

    statistics = {name: at_rest["batchnorm1"][name] for name in ("mean", "variance")}
    each = jax.vmap(jax.grad(own), (None, 0, 0))(params, x, labels)
    close(sample_gradients(network, LOSS, at_rest, x, labels, train=False), each)
    close(gradient_norms(network, LOSS, at_rest, x, labels, train=False).norms, norms_of(each))
    close(
        clipped_gradient(network, LOSS, at_rest, x, labels, 1e9, train=False)[0], jax.tree.map(lambda g: g.sum(0), each)
    )


def test_a_network_under_rules_is_measured_as_it_goes_back():
    def doubled(layer, params, residuals, dy, context):
        return layer.backward(residuals, 2 * dy)

    params, x, labels = drawn(NESTED)
    network = with_rules(NESTED, {Dense: doubled, Conv2d: doubled})
    found = gradient_norms(network, LOSS, params, x, labels, key=KEY)
    of_samples = sample_gradients(network, LOSS, params, x, labels, key=KEY)
    close(found.norms, norms_of(of_samples))
    close(gradients(network, LOSS, params, x, labels, key=KEY)[0], jax.tree.map(lambda g: g.mean(axis=0), of_samples))
    plain = sample_gradients(NESTED, LOSS, params, x, labels, key=KEY)
    close(of_samples["dense2"]["weight"], 2 * plain["dense2"]["weight"])
    close(of_samples["dense1"]["weight"], 4 * plain["dense1"]["weight"])


def test_a_sample_is_its_own_loss_where_labels_are_maps():
    network = Sequential((Conv2d(4, 3, padding=1), Tanh(), Conv2d(3, 1)))
    params, x, _ = drawn(network)
    labels = jax.random.randint(jax.random.key(4), x.shape[:3], 0, 3)
    each = truth(network, LOSS, params, x, labels)
    close(sample_gradients(network, LOSS, params, x, labels), each)
    close(gradient_norms(network, LOSS, params, x, labels).norms, norms_of(each))


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(limit):
    params, x, labels = drawn(NESTED)
    with pytest.raises(InputError, match="clipped_gradient: limit is .* but must be a finite number above 0"):
        clipped_gradient(NESTED, LOSS, params, x, labels, limit)


def test_one_sample_has_no_variance_and_bad_labels_are_refused():
    params, x, labels = drawn(NESTED)
    with pytest.raises(InputError, match="gradient_variance: x has 1 samples but must have at least 2"):
        gradient_variance(NESTED, LOSS, params, x[:1], labels[:1], key=KEY)
    with pytest.raises(InputError, match="labels"):
        sample_gradients(NESTED, LOSS, params, x, labels[:2], key=KEY)


def test_a_gradient_of_zero_is_not_divided_by():
    network = Sequential((Flatten(), Dense(3)))
    params, x, labels = drawn(network)
    right = {"dense1": {"weight": jnp.zeros_like(params["dense1"]["weight"]), "bias": jnp.array([1.0, 0.0, 0.0])}}
    clipped, norms = clipped_gradient(network, SquaredError(), right, x, 0 * labels, 1.0)
    np.testing.assert_array_equal(norms, jnp.zeros(5))
    np.testing.assert_array_equal(clipped["dense1"]["bias"], jnp.zeros(3))
