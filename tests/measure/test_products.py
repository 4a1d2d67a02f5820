"""Products with the Hessian and the Gauss-Newton matrix against `jax.hessian` of the plain forward, in float64."""

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree
from test_samples import KEY, NESTED, OTHERS, close, drawn

from jaxcnn import (
    BatchNorm,
    Conv2d,
    Dense,
    Flatten,
    InputError,
    MaxPool2d,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    SquaredError,
    Tanh,
)
from jaxcnn.measure import ggn_diagonal, ggn_vector_product, hessian_vector_product

LOSS = SoftmaxCrossEntropy()
SMALL = Sequential((Conv2d(2, 3, stride=2), Tanh(), Flatten(), Dense(3)))
DEEP = Sequential(
    (Conv2d(3, 3, bias=False), BatchNorm(), ReLU(), MaxPool2d(2), Conv2d(2, 2), Tanh(), Flatten(), Dense(3))
)
LOSSES = {
    "mean": LOSS,
    "squared": SquaredError(),
    "weighted sum": SoftmaxCrossEntropy(reduction="sum", class_weights=(0.5, 2.0, 1.0), smoothing=0.1),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def direction(params):
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    drawn = [jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    return structure.unflatten(drawn)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_products_are_those_of_the_matrices(loss):
    params, x, labels = drawn(SMALL)
    v = direction(params)
    flat, tree = ravel_pytree(params)

    def outputs(flat):
        return SMALL.forward(tree(flat), x)[0]

    H = jax.hessian(lambda flat: loss.forward(outputs(flat), labels)[0])(flat)
    close(hessian_vector_product(SMALL, loss, params, x, labels, v), tree(H @ ravel_pytree(v)[0]))

    J = jax.jacobian(outputs)(flat).reshape(-1, len(flat))
    inner = jax.hessian(lambda y: loss.forward(y, labels)[0])(outputs(flat)).reshape(len(J), len(J))
    G = J.T @ inner @ J
    assert abs(G - H).max() > 1e-3 * abs(H).max()
    close(ggn_vector_product(SMALL, loss, params, x, labels, v), tree(G @ ravel_pytree(v)[0]))
    close(ggn_diagonal(SMALL, loss, params, x, labels), tree(jnp.diag(G)))


@pytest.mark.parametrize("network", [NESTED, OTHERS, DEEP], ids=["nested", "others", "batch norm"])
def test_products_are_those_of_every_layer(network):
    """By forward mode over automatic differentiation of the forward pass, in which there is no rule."""
    params, x, labels = drawn(network)
    v = direction(params)

    def outputs(params):
        return network.forward(params, x, train=True, key=KEY)[0]

    def E(params):
        return LOSS.forward(outputs(params), labels)[0]

    expected = jax.jit(lambda params, v: jax.jvp(jax.grad(E), (params,), (v,))[1])(params, v)
    close(hessian_vector_product(network, LOSS, params, x, labels, v, key=KEY), expected)

    @jax.jit
    def gauss_newton(params, v):
        y, Jv = jax.jvp(outputs, (params,), (v,))
        HJv = jax.jvp(jax.grad(lambda y: LOSS.forward(y, labels)[0]), (y,), (Jv,))[1]
        return jax.vjp(outputs, params)[1](HJv)[0]

    close(ggn_vector_product(network, LOSS, params, x, labels, v, key=KEY), gauss_newton(params, v))


def test_they_are_compiled_with_others_and_batched():
    params, x, labels = drawn(SMALL)
    v = direction(params)
    for product in (hessian_vector_product, ggn_vector_product):
        one = product(SMALL, LOSS, params, x, labels, v)

        def scaled(scale, product=product):
            return product(SMALL, LOSS, params, x, labels, jax.tree.map(lambda a: scale * a, v))

        several = jax.jit(jax.vmap(scaled))(jnp.array([1.0, -2.0]))
        close(jax.tree.map(lambda a: a[1], several), jax.tree.map(lambda a: -2 * a, one))


@pytest.mark.parametrize("product", [hessian_vector_product, ggn_vector_product])
def test_a_vector_that_is_no_tree_like_the_parameters_is_refused(product):
    params, x, labels = drawn(SMALL)
    for v in (
        {"conv1": params["conv1"]},
        params | {"dense1": params["conv1"]},
        jax.tree.map(lambda w: w.astype(jnp.float32), params),
    ):
        with pytest.raises(InputError, match=f"{product.__name__}: v is another tree than params but must have its"):
            product(SMALL, LOSS, params, x, labels, v)
