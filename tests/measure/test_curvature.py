"""Curvature against its definitions: explicit patches, the dense Gauss-Newton matrix, the dense Hessian; in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxcnn import (
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GroupNorm,
    InputError,
    MaxPool2d,
    Recompute,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SoftmaxCrossEntropy,
    SquaredError,
    Tanh,
    init_statistics,
    merged,
)
from jaxcnn.geometry import resolve
from jaxcnn.measure import (
    Diagonal,
    Factors,
    ggn_diagonal,
    ggn_vector_product,
    hessian_vector_product,
    kfac,
    sample_gradients,
)
from jaxcnn.verify.cases import find_operation

CONVOLUTIONS = find_operation("conv2d").cases
LOSS, KEY = SoftmaxCrossEntropy(), jax.random.key(3)
BODY = Sequential((Conv2d(2, 3, padding=1, groups=2), GroupNorm(2), Tanh()))
NETWORK = Sequential(
    (Conv2d(2, 3), ReLU(), MaxPool2d(2), Residual(BODY), Recompute(Conv2d(3, 1)), Dropout(0.3), Flatten(), Dense(3))
)
IN_SHAPE = (6, 5, 1)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def drawn(network, in_shape=IN_SHAPE, N=4):
    params = network.init(jax.random.key(0), in_shape)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        jnp.asarray(w + 0.3 * jax.random.normal(k, w.shape), jnp.float64) for k, w in zip(keys, leaves, strict=True)
    ]
    x = jax.random.normal(jax.random.key(2), (N, *in_shape), jnp.float64)
    return tree.unflatten(leaves), x, jnp.arange(N) % 3


def close(found, expected, rtol=1e-10):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * float(np.abs(other).max()))


def dense_matrices(network, loss, params, x, labels, key=None):
    """The Gauss-Newton matrix and the Hessian of E by jacobians of the plain forward, as `ravel_pytree` orders."""
    flat, unflat = ravel_pytree(params)

    def outputs(flat):
        return network.forward(unflat(flat), x, train=True, key=key)[0]

    def E(y):
        return loss.forward(y, labels)[0]

    y = outputs(flat)
    J = jax.jacfwd(outputs)(flat).reshape(y.size, -1)
    H = jax.hessian(lambda y_flat: E(y_flat.reshape(y.shape)))(y.ravel())
    return J.T @ H @ J, jax.hessian(lambda flat: E(outputs(flat)))(flat)


def patches(x, window, groups):
    """What a unit of each group sees at each place, by loops: (groups, N T, K)."""
    (U, V), (P, Q), (s, t), (d, e) = window.kernel, window.output, window.stride, window.dilation
    x = np.pad(x, ((0, 0), *window.padding, (0, 0)))
    rows = [
        [x[n, p * s + u * d, q * t + v * e] for u in range(U) for v in range(V)]
        for n in range(len(x))
        for p in range(P)
        for q in range(Q)
    ]
    rows = np.array(rows).reshape(len(rows), U * V, groups, -1)
    return rows.transpose(2, 0, 1, 3).reshape(groups, len(rows), -1)


def deltas_of_own_losses(network, params, x, labels):
    """dE_n/du at the output of the first layer, by automatic differentiation of the layers behind it."""
    first, *others = network.children().items()
    u, _ = first[1].forward(params[first[0]], x)

    def own(u, label):
        y = u[None]
        for name, layer in others:
            y, _ = layer.forward(params.get(name, {}), y)
        return LOSS.forward(y, label[None])[0]

    return jax.vmap(jax.grad(own))(u, labels)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_the_factors_of_every_convolution_are_those_of_explicit_patches(case):
    x_draw, weight, bias = case.args
    hyper = dict(case.hyper)
    network = Sequential(
        (Conv2d(weight.shape[3], weight.shape[:2], bias=bias is not None, **hyper), Tanh(), Flatten(), Dense(3))
    )
    params, x, labels = drawn(network, x_draw.shape[1:], N=3)
    found = kfac(network, LOSS, params, x, labels, fisher="true")["conv1"]

    groups = hyper.pop("groups", 1)
    window = resolve("conv2d", x.shape[1:3], weight.shape[:2], **hyper)
    a = patches(np.asarray(x), window, groups)
    if bias is not None:
        a = np.concatenate([a, np.ones((*a.shape[:2], 1))], axis=2)
    g = np.asarray(deltas_of_own_losses(network, params, x, labels)).reshape(a.shape[1], groups, -1).swapaxes(0, 1)
    A, S = (factor.swapaxes(1, 2) @ factor / a.shape[1] for factor in (a, g))
    close((found.A, found.S), (A, S) if groups > 1 else (A[0], S[0]))
    assert found.positions * len(x) == a.shape[1]
    kron = np.array([found.positions * np.kron(one, other) for one, other in zip(A, S, strict=True)])
    close(found.matrix(), kron if groups > 1 else kron[0])


def test_of_one_sample_the_exact_factors_of_a_dense_layer_are_its_block_of_the_gauss_newton_matrix():
    network = Sequential((Dense(4), Tanh(), Dense(3)))
    params, x, labels = drawn(network, (5,), N=1)
    found = kfac(network, LOSS, params, x, labels, fisher="exact")
    ggn, _ = dense_matrices(network, LOSS, params, x, labels)
    _, unflat = ravel_pytree(params)
    places = unflat(jnp.arange(len(ggn)))
    for name in ("dense1", "dense2"):
        order = jnp.concatenate([places[name]["weight"], places[name]["bias"][None]]).ravel().astype(int)
        close(found[name].matrix(), ggn[jnp.ix_(order, order)])


def test_the_exact_factor_is_the_sum_over_labels_and_the_models_is_drawn_from_it():
    network = Sequential((Conv2d(2, 3), Tanh(), Flatten(), Dense(3)))
    params, x, _ = drawn(network, N=2)
    p = jax.nn.softmax(network.forward(params, x)[0])
    each = []  # S by the label of each sample: S = 1/2 (of sample 0 + of sample 1), each by its label
    for label in range(3):
        of_label = jnp.full(2, label)
        each.append(
            [kfac(network, LOSS, params, x[n : n + 1], of_label[:1], fisher="true")["conv1"].S for n in range(2)]
        )
    each = np.array(each)  # (label, sample, O, O)
    exact = np.einsum("nk,knij->ij", p, each) / 2
    close(kfac(network, LOSS, params, x, jnp.zeros(2, int), fisher="exact")["conv1"].S, exact)

    draws = 400
    many = jax.lax.map(
        lambda key: kfac(network, LOSS, params, x, jnp.zeros(2, int), fisher="model", key=key)["conv1"].S,
        jax.random.split(KEY, draws),
    )
    possible = np.array([(each[i, 0] + each[j, 1]) / 2 for i in range(3) for j in range(3)])
    nearest = np.abs(np.asarray(many)[:, None] - possible).max((2, 3)).argmin(1)
    close(np.asarray(many), possible[nearest])
    second = np.einsum("nk,knij->nij", p, each**2) - np.einsum("nk,knij->nij", p, each) ** 2
    deviation = np.sqrt(second.sum(0) / 4 / draws)
    assert (np.abs(many.mean(0) - exact) <= 5 * deviation + 1e-12).all()  # one entry in 10^6 lies beyond 5


def test_a_layer_of_another_kind_has_the_diagonal():
    params, x, labels = drawn(NETWORK)
    found = kfac(NETWORK, LOSS, params, x, labels, fisher="true", key=KEY)
    assert {name: type(part) for name, part in found.items()} == {
        "conv1": Factors, "residual1/body/conv1": Factors, "residual1/body/groupnorm1": Diagonal,
        "recompute1/body": Factors, "dense1": Factors,
    }  # fmt: skip
    _, key = jax.random.split(KEY)
    each = sample_gradients(NETWORK, LOSS, params, x, labels, key=key)["residual1"]["body"]["groupnorm1"]
    diagonal = found["residual1/body/groupnorm1"]
    close(diagonal.values, jax.tree.map(lambda g: (g * g).mean(0), each))
    assert diagonal.matrix().shape == (4, 4)
    grads = {"scale": jnp.ones(2), "bias": jnp.arange(2.0)}
    close(diagonal.solve(grads, 0.1)["bias"], jnp.arange(2.0) / (diagonal.values["bias"] + 0.1))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_natural_step_solves_with_the_damped_factors(groups):
    network = Sequential((Conv2d(4, (3, 2), groups=groups), Tanh(), Flatten(), Dense(3)))
    params, x, labels = drawn(network, (5, 4, 2))
    found = kfac(network, LOSS, params, x, labels, fisher="exact")["conv1"]
    grads = jax.tree.map(lambda w: jax.random.normal(KEY, w.shape, w.dtype), params["conv1"])
    solved = found.solve(grads, 0.05)
    A, S = (factor.reshape(groups, *factor.shape[-2:]) for factor in (found.positions * found.A, found.S))
    size = 4 // groups
    for g in range(groups):
        own = slice(g * size, (g + 1) * size)
        pi = np.sqrt(np.trace(A[g]) / len(A[g]) / (np.trace(S[g]) / size))
        left, right = A[g] + pi * np.sqrt(0.05) * np.eye(len(A[g])), S[g] + np.sqrt(0.05) / pi * np.eye(size)
        G, R = (
            np.concatenate([t["weight"][..., own].reshape(-1, size), t["bias"][None, own]]) for t in (grads, solved)
        )
        close((np.kron(left, right) @ R.ravel()).reshape(G.shape), G)


LOSSES = [LOSS, SquaredError(), SoftmaxCrossEntropy(reduction="sum"), SoftmaxCrossEntropy(smoothing=0.2)]


@pytest.mark.parametrize("loss", LOSSES, ids=["mean", "squared", "sum", "smoothed"])
def test_the_diagonal_and_both_products_are_those_of_the_dense_matrices(loss):
    params, x, labels = drawn(NETWORK)
    _, key = jax.random.split(KEY)  # what ggn_diagonal leaves for dropout
    ggn, _ = dense_matrices(NETWORK, loss, params, x, labels, key)
    close(ravel_pytree(ggn_diagonal(NETWORK, loss, params, x, labels, key=KEY))[0], jnp.diag(ggn))

    ggn, hessian = dense_matrices(NETWORK, loss, params, x, labels, KEY)
    v = jax.tree.map(lambda w: jax.random.normal(jax.random.key(w.size), w.shape, w.dtype), params)
    flat = ravel_pytree(v)[0]
    close(ravel_pytree(ggn_vector_product(NETWORK, loss, params, x, labels, v, key=KEY))[0], ggn @ flat)
    close(ravel_pytree(hessian_vector_product(NETWORK, loss, params, x, labels, v, key=KEY))[0], hessian @ flat)
    assert not np.allclose(ggn @ flat, hessian @ flat, rtol=1e-3)


def test_the_diagonal_where_labels_are_maps_with_weights():
    network = Sequential((Conv2d(4, 3, padding=1), Sigmoid(), Conv2d(3, 1)))
    params, x, _ = drawn(network, N=2)
    labels = jax.random.randint(KEY, x.shape[:3], 0, 3)
    loss = SoftmaxCrossEntropy(class_weights=(1.0, 0.5, 2.0), ignore=1)
    ggn, _ = dense_matrices(network, loss, params, x, labels)
    close(ravel_pytree(ggn_diagonal(network, loss, params, x, labels))[0], jnp.diag(ggn))


@pytest.mark.parametrize("loss", [LOSS, SquaredError()], ids=["softmax", "squared"])
def test_the_drawn_diagonal_tends_to_the_exact_one(loss):
    network = Sequential((Dense(4), Tanh(), Dense(3)))
    params, x, labels = drawn(network, (5,), N=2)
    exact = ravel_pytree(ggn_diagonal(network, loss, params, x, labels))[0]
    draws = 2000
    one_each = jax.lax.map(
        lambda key: ravel_pytree(ggn_diagonal(network, loss, params, x, labels, samples=1, key=key))[0],
        jax.random.split(KEY, draws),
    )
    deviation = one_each.std(0, ddof=1) / np.sqrt(draws)
    assert (jnp.abs(one_each.mean(0) - exact) <= 5 * deviation).all()
    assert (deviation > 0).all()
    many = ravel_pytree(ggn_diagonal(network, loss, params, x, labels, samples=draws, key=jax.random.key(9)))[0]
    assert (jnp.abs(many - exact) <= 5 * deviation).all()


def test_at_rest_a_batch_norm_is_part_of_it_and_in_training_refused():
    network = Sequential((Conv2d(2, 3), BatchNorm(), Tanh(), Flatten(), Dense(3)))
    params, x, labels = drawn(network)
    with pytest.raises(InputError, match="batchnorm1: is a BatchNorm in training, in which samples meet"):
        kfac(network, LOSS, params, x, labels, fisher="true")
    with pytest.raises(InputError, match="batchnorm1: is a BatchNorm in training"):
        ggn_diagonal(network, LOSS, params, x, labels)
    at_rest = merged(params, init_statistics(network, params, IN_SHAPE))
    assert set(ggn_diagonal(network, LOSS, at_rest, x, labels, train=False)["batchnorm1"]) == {"scale", "bias"}
    assert isinstance(kfac(network, LOSS, at_rest, x, labels, fisher="true", train=False)["batchnorm1"], Diagonal)


def test_what_cannot_be_meant_is_refused():
    params, x, labels = drawn(NETWORK)
    args = params, x, labels
    for arguments, sentence in (
        (
            lambda: kfac(NETWORK, LOSS, *args, fisher="false", key=KEY),
            "kfac: fisher is 'false' but must be one of model, true",
        ),
        (lambda: kfac(NETWORK, LOSS, *args), "kfac: key is None but must be a key"),
        (lambda: ggn_diagonal(NETWORK, LOSS, *args, samples=0, key=KEY), "ggn_diagonal: samples is 0 but must be"),
        (lambda: ggn_diagonal(NETWORK, LOSS, *args, samples=3), "ggn_diagonal: key is None but must be a key"),
        (lambda: ggn_vector_product(NETWORK, LOSS, *args, {}), "ggn_vector_product: v is another tree than params"),
        (lambda: hessian_vector_product(NETWORK, LOSS, *args, {}), "hessian_vector_product: v is another tree"),
    ):
        with pytest.raises(InputError, match=sentence):
            arguments()
