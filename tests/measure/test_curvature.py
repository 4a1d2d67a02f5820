"""K-FAC's factors and the Gauss-Newton diagonal against their definitions, by automatic differentiation in float64."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explicit_patches import seen
from test_samples import CONVOLUTIONS, KEY, NESTED, OTHERS, close, drawn, truth

from jaxcnn import (
    BatchNorm,
    Conv2d,
    Dense,
    Flatten,
    GroupNorm,
    InputError,
    Loss,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    SquaredError,
    Tanh,
    squared_error,
)
from jaxcnn.geometry import resolve
from jaxcnn.kernels import LABELS
from jaxcnn.measure import Diagonal, Factors, ggn_diagonal, gradient_variance, kfac

pytestmark = pytest.mark.slow
LOSS, SQUARED = SoftmaxCrossEntropy(), SquaredError()
CONV1, CONV2 = Conv2d(3, 3, stride=2, padding=1), Conv2d(4, (2, 3), bias=False)
SMALL = Sequential((CONV1, Tanh(), CONV2, Tanh(), Flatten(), Dense(3)))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def slopes(network, name, params, x):
    """df/du (N, K, *u) for the output u of the layer called `name` of a chain: of each output of each sample."""
    before = network.names.index(name) + 1

    def through(layers, x):
        for part, layer in layers:
            x, _ = layer.forward(params.get(part, {}), x, train=True)
        return x

    layers = list(network.children().items())

    def of_one(x):
        u = through(layers[:before], x[None])
        return jax.jacrev(lambda u: through(layers[before:], u)[0])(u)[:, 0]

    return jax.vmap(of_one)(x), through(layers, x)


def output_hessians(loss, outputs, labels):
    """H_n (N, K, K) of each sample's own loss."""
    return jax.vmap(jax.hessian(lambda y, label: loss.forward(y[None], label[None])[0]))(outputs, labels)


def expected_factors(network, name, params, x, S):
    """A from the patches of what goes in, for a network whose first layer it is; S as given."""
    layer = network.children()[name]
    a = np.asarray(x)[None]
    T = 1
    if isinstance(layer, Conv2d):
        facts = {fact: getattr(layer, fact) for fact in ("stride", "padding", "dilation")}
        window = resolve("conv2d", x.shape[1:3], params[name]["weight"].shape[:2], **facts)
        a, T = seen(np.asarray(x), window, layer.groups), math.prod(window.output)
    if layer.bias:
        a = np.concatenate([a, np.ones((*a.shape[:2], 1))], axis=2)
    A = a.transpose(0, 2, 1) @ a / a.shape[1]
    groups = len(A)
    return Factors(A, S, T) if groups > 1 else Factors(A[0], S, T)


def by_group(g, groups):
    """1/(NT) sum g g^T of rows g (..., O), of each group of maps."""
    g = np.asarray(g).reshape(-1, groups, g.shape[-1] // groups)
    S = np.einsum("rgi,rgj->gij", g, g)
    return S if groups > 1 else S[0]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_factors_are_their_definition_for_every_geometry(case):
    (x_draw, weight, bias) = case.args
    groups = case.hyper.get("groups", 1)
    layer = Conv2d(weight.shape[3], weight.shape[:2], bias=bias is not None, **case.hyper)
    network = Sequential((layer, Tanh(), Flatten(), Dense(3)))
    params, x, labels = drawn(network, x_draw.shape[1:])
    J, outputs = slopes(network, "conv1", params, x)
    places = len(x) * math.prod(J.shape[2:4])

    values, vectors = np.linalg.eigh(output_hessians(LOSS, outputs, labels))
    root = vectors * np.sqrt(np.maximum(values, 0))[:, None]
    S = by_group(np.einsum("nkm,nkpqo->nmpqo", root, J), groups) / places
    exact = kfac(network, LOSS, params, x, labels, fisher="exact")
    close(exact["conv1"], jax.tree.map(jnp.asarray, expected_factors(network, "conv1", params, x, S)))

    own = jax.nn.softmax(outputs) - jax.nn.one_hot(labels, 3)
    S = by_group(np.einsum("nk,nkpqo->npqo", own, J), groups) / places
    found = kfac(network, LOSS, params, x, labels, fisher="true")
    close(found["conv1"], jax.tree.map(jnp.asarray, expected_factors(network, "conv1", params, x, S)))
    F = found["conv1"].matrix()
    assert F.shape == (*[groups] * (groups > 1), *[sum(w.size for w in jax.tree.leaves(params["conv1"])) // groups] * 2)


@pytest.mark.parametrize("loss", [LOSS, SQUARED, SoftmaxCrossEntropy(reduction="sum")], ids=["mean", "squared", "sum"])
def test_the_exact_fisher_weighs_each_label_by_its_probability(loss):
    """Of half a squared distance, whose model is a normal distribution around the output, H = 1."""
    params, x, labels = drawn(SMALL)
    found = kfac(SMALL, loss, params, x, labels, fisher="exact")
    for name in ("conv1", "conv2", "dense1"):
        J, outputs = slopes(SMALL, name, params, x)
        places = len(x) * math.prod(J.shape[2:-1])
        p = jnp.ones_like(outputs) if loss == SQUARED else jax.nn.softmax(outputs)
        g = [jnp.eye(3)[k] - (0 if loss == SQUARED else p) for k in range(3)]
        S = sum(
            by_group(jnp.einsum("n,nk,nk...->n...", jnp.sqrt(p[:, k]), jnp.broadcast_to(g[k], p.shape), J), 1)
            for k in range(3)
        )
        close(found[name].S, jnp.asarray(S / places))


def test_the_model_s_labels_are_drawn_once_for_each_sample():
    params, x, labels = drawn(SMALL)
    outputs, _ = SMALL.forward(params, x)
    at = jax.random.categorical(jax.random.split(KEY)[0], outputs)
    assert len(set(at.tolist())) > 1
    assert (at != labels).any()
    found = kfac(SMALL, LOSS, params, x, labels, fisher="model", key=KEY)
    close(found, kfac(SMALL, LOSS, params, x, at, fisher="true"))
    default = kfac(SMALL, LOSS, params, x, labels, key=KEY)
    close(default, found)


@pytest.mark.parametrize("loss", [LOSS, SQUARED], ids=["softmax", "squared"])
def test_the_model_s_factors_tend_to_the_exact_ones(loss):
    """S of a dense output layer: a mean over samples of z z^T whose variance is known, here to five deviations."""
    network, draws = Sequential((Flatten(), Dense(3))), 2000
    params, x, labels = drawn(network)
    outputs, _ = network.forward(params, x)
    keys = jax.random.split(KEY, draws)
    S = jax.vmap(lambda key: kfac(network, loss, params, x, labels, key=key)["dense1"].S)(keys)
    exact = kfac(network, loss, params, x, labels, fisher="exact")["dense1"].S
    if loss == SQUARED:  # Var(z_i z_j) = 1, and 2 where i = j
        variance = (1 + np.eye(3)) / len(x)
    else:
        p = np.asarray(jax.nn.softmax(outputs))
        g = p[:, None] - np.eye(3)  # (N, label, K)
        products = g[..., :, None] * g[..., None, :]
        first, second = (np.einsum("nk,nkij->nij", p, products**power) for power in (1, 2))
        variance = (second - first**2).sum(axis=0) / len(x) ** 2
    assert (abs(S.mean(axis=0) - exact) < 5 * np.sqrt(variance / draws)).all()
    assert (abs(S.mean(axis=0) - exact) > 0).all()


def block(network, loss, params, x, labels, name):
    """The block of the Gauss-Newton matrix for the layer's weight (-1, O) and bias, as `Factors.matrix` has it."""

    def outputs(flat):
        own = params[name]
        O = own["weight"].shape[-1]
        rows = flat.reshape(-1, O)
        count = own["weight"].size // O
        changed = {"weight": rows[:count].reshape(own["weight"].shape), "bias": rows[-1]}
        changed = {part: changed[part] for part in own}
        return network.forward(params | {name: changed}, x, train=True)[0]

    parts = [params[name]["weight"].ravel(), params[name].get("bias", jnp.zeros(0))]
    J = jax.jacobian(outputs)(jnp.concatenate(parts))
    y = outputs(jnp.concatenate(parts))
    return jnp.einsum("nkp,nkl,nlq->pq", J, output_hessians(loss, y, labels), J) / len(x)


@pytest.mark.parametrize("loss", [LOSS, SQUARED], ids=["softmax", "squared"])
def test_f_is_the_gauss_newton_matrix_where_there_is_one_sample_and_one_place(loss):
    """There the mean of a product is the product of the means."""
    network = Sequential((Conv2d(4, (7, 6)), Tanh(), Flatten(), Dense(5, bias=False), Tanh(), Dense(3)))
    params, x, labels = drawn(network, N=1)
    found = kfac(network, loss, params, x, labels, fisher="exact")
    for name, factors in found.items():
        assert factors.positions == 1
        close(factors.matrix(), block(network, loss, params, x, labels, name))


def test_f_is_that_of_each_group_alone():
    network = Sequential((Conv2d(4, (3, 2), groups=2), Tanh(), Flatten(), Dense(3)))
    params, x, labels = drawn(network, (3, 2, 4), N=1)
    F = kfac(network, LOSS, params, x, labels, fisher="exact")["conv1"].matrix()
    whole = block(network, LOSS, params, x, labels, "conv1").reshape(13, 2, 2, 13, 2, 2)
    for group in range(2):
        close(F[group], whole[:, group, :, :, group].reshape(26, 26))


@pytest.mark.parametrize(("groups", "bias"), [(1, True), (1, False), (2, True), (3, False)])
def test_a_step_solves_with_both_damped_factors(groups, bias):
    network = Sequential((Conv2d(6, (3, 2), groups=groups, bias=bias, padding=1), Tanh(), Flatten(), Dense(3)))
    params, x, labels = drawn(network, (5, 4, 6))
    found = kfac(network, LOSS, params, x, labels, fisher="exact")["conv1"]
    grads = jax.tree.map(lambda w: jax.random.normal(KEY, w.shape), params["conv1"])
    solved = found.solve(grads, 0.3)
    assert jax.tree.map(jnp.shape, solved) == jax.tree.map(jnp.shape, grads)
    for group in range(groups):
        A, S = (factor[group] if groups > 1 else factor for factor in (found.A, found.S))
        own = slice(group * len(S), (group + 1) * len(S))

        def flat(tree, own=own):
            return np.concatenate([tree["weight"][..., own].ravel(), tree["bias"][own] if bias else []])

        omega = found.positions * np.asarray(A)
        pi = math.sqrt((np.trace(omega) / len(A)) / (np.trace(S) / len(S)))
        F = np.kron(omega + pi * math.sqrt(0.3) * np.eye(len(A)), S + math.sqrt(0.3) / pi * np.eye(len(S)))
        np.testing.assert_allclose(F @ flat(solved), flat(grads), rtol=1e-9, atol=1e-9)


def test_a_layer_without_gradient_is_solved_with_the_damping_alone():
    found = Factors(jnp.eye(2), jnp.zeros((1, 1)), 1)
    solved = found.solve({"weight": jnp.array([[3.0]]), "bias": jnp.array([2.0])}, 0.25)
    close(solved, {"weight": jnp.array([[4.0]]), "bias": jnp.array([8 / 3])})


@pytest.mark.parametrize("network", [NESTED, OTHERS], ids=["nested", "others"])
def test_every_other_layer_has_the_diagonal(network):
    params, x, labels = drawn(network)
    found = kfac(network, LOSS, params, x, labels, fisher="true", key=KEY)
    each = truth(network, LOSS, params, x, labels, jax.random.split(KEY)[1])
    kinds = {name: type(part) for name, part in found.items()}
    for name, part in found.items():
        own = each
        for step in name.split("/"):
            own = own[step]
        if isinstance(part, Diagonal):
            values = jax.tree.map(lambda g: (g * g).mean(axis=0), own)
            close(part.values, values)
            close(jnp.diag(part.matrix()), jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(values)]))
            grads = jax.tree.map(lambda g: g.mean(axis=0), own)
            close(part.solve(grads, 0.1), jax.tree.map(lambda v, g: g / (v + 0.1), values, grads))
    if network is NESTED:
        assert kinds == {
            "conv1": Diagonal,  # it has connections
            "residual1/body/conv1": Factors, "residual1/body/groupnorm1": Diagonal,
            "recompute1/body/concatenate1/conv1": Factors, "layernorm1": Diagonal, "dense1": Factors, "dense2": Factors,
        }  # fmt: skip


def test_it_is_compiled_averaged_and_widened():
    network = Sequential((Conv2d(3, 3), GroupNorm(3), Tanh(), Flatten(), Dense(3)))
    params, x, labels = drawn(network)

    @jax.jit
    def of(x):
        return kfac(network, LOSS, params, x, labels, fisher="exact")

    halved = jax.tree.map(lambda one, other: (one + other) / 2, of(x), of(2 * x))
    close(halved["conv1"].A[:-1, :-1], 2.5 * of(x)["conv1"].A[:-1, :-1])
    narrow = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
    found = kfac(network, LOSS, narrow, x, labels, key=KEY)
    assert {leaf.dtype for name in ("conv1", "dense1") for leaf in jax.tree.leaves(found[name])} == {
        np.dtype("float32")
    }


# the Gauss-Newton diagonal


def gauss_newton_diagonal(network, loss, params, x, labels, key=None):
    """diag(J^T H J) with J of all outputs of the batch and H the Hessian of E in them."""
    leaves, structure = jax.tree.flatten(params)
    cuts = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def tree(flat):
        parts = [part.reshape(leaf.shape) for part, leaf in zip(jnp.split(flat, cuts), leaves, strict=True)]
        return structure.unflatten(parts)

    def outputs(flat):
        return network.forward(tree(flat), x, train=True, key=key)[0]

    flat = jnp.concatenate([leaf.ravel() for leaf in leaves])
    y = outputs(flat)
    J = jax.jacrev(outputs)(flat).reshape(y.size, -1)
    H = jax.hessian(lambda y: loss.forward(y, labels)[0])(y).reshape(y.size, y.size)
    return tree(jnp.einsum("ip,ij,jp->p", J, H, J))


LOSSES = {
    "mean": LOSS,
    "squared": SQUARED,
    "sum": SoftmaxCrossEntropy(reduction="sum"),
    "squared sum": SquaredError(reduction="sum"),
    "smooth": SoftmaxCrossEntropy(smoothing=0.2),
    "weighted": SoftmaxCrossEntropy(class_weights=(0.5, 2.0, 1.0), ignore=1, smoothing=0.1),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_diagonal_is_that_of_the_matrix(loss):
    params, x, labels = drawn(SMALL)
    close(ggn_diagonal(SMALL, loss, params, x, labels), gauss_newton_diagonal(SMALL, loss, params, x, labels))


@pytest.mark.parametrize("network", [NESTED, OTHERS], ids=["nested", "others"])
def test_the_diagonal_is_that_of_every_layer(network):
    params, x, labels = drawn(network, N=2)
    found = ggn_diagonal(network, LOSS, params, x, labels, key=KEY)
    close(found, gauss_newton_diagonal(network, LOSS, params, x, labels, jax.random.split(KEY)[1]))


@pytest.mark.parametrize("loss", [LOSS, SoftmaxCrossEntropy(ignore=2), SQUARED], ids=["softmax", "ignore", "squared"])
def test_the_diagonal_is_that_of_maps(loss):
    network = Sequential((Conv2d(4, 3, padding=1), Tanh(), Conv2d(3, 3)))
    params, x, _ = drawn(network, (4, 5, 2), N=2)
    labels = jax.random.randint(jax.random.key(4), (2, 2, 3), 0, 3)
    close(ggn_diagonal(network, loss, params, x, labels), gauss_newton_diagonal(network, loss, params, x, labels))


def test_a_draw_is_the_gradient_at_the_labels_that_were_drawn():
    params, x, labels = drawn(SMALL)
    outputs, _ = SMALL.forward(params, x)
    draws = [jax.random.categorical(key, outputs) for key in jax.random.split(jax.random.split(KEY)[0], 2)]
    each = [truth(SMALL, LOSS, params, x, at) for at in draws]
    expected = jax.tree.map(lambda one, other: (one**2 + other**2).mean(axis=0) / 2, *each)
    close(ggn_diagonal(SMALL, LOSS, params, x, labels, samples=2, key=KEY), expected)


@pytest.mark.parametrize("loss", [LOSS, SQUARED], ids=["softmax", "squared"])
def test_monte_carlo_tends_to_the_exact_diagonal(loss):
    """To five deviations of the mean; of a draw the variance is known."""
    network, draws = Sequential((Conv2d(2, 3, stride=2), Tanh(), Flatten(), Dense(3))), 3000
    params, x, labels = drawn(network)
    N = len(x)
    J = jax.jacrev(lambda params: network.forward(params, x)[0])(params)
    p = jax.nn.softmax(network.forward(params, x)[0])
    own = [jax.tree.map(lambda J, n=n: J[n], J) for n in range(N)]

    def variance(*rows):
        """Of 1/N sum_n Y_n: Y_n = (J^T (e_k - p))^2 at probability p_k, or (J^T z)^2."""
        total = 0
        for n, J in enumerate(rows):
            if loss == SQUARED:
                total += 2 * (J * J).sum(axis=0) ** 2
            else:
                Y = (J - jnp.einsum("k,k...->...", p[n], J)) ** 2
                first, second = (jnp.einsum("k,k...->...", p[n], Y**power) for power in (1, 2))
                total += second - first**2
        return total / N**2

    deviation = jax.tree.map(lambda *rows: jnp.sqrt(variance(*rows) / draws), *own)
    found = ggn_diagonal(network, loss, params, x, labels, samples=draws, key=KEY)
    exact = ggn_diagonal(network, loss, params, x, labels)
    for one, other, off in zip(*map(jax.tree.leaves, (found, exact, deviation)), strict=True):
        assert (abs(one - other) < 5 * off + 1e-14).all()
        assert (abs(one - other) > 0).any()


def test_the_variance_of_a_dense_layer_is_that_of_its_samples():
    """The squares of its gradients are products of squares."""
    for bias in (True, False):
        network = Sequential((Flatten(), Dense(3, bias=bias)))
        params, x, labels = drawn(network)
        each = truth(network, LOSS, params, x, labels)
        found = gradient_variance(network, LOSS, params, x, labels)
        close(found, jax.tree.map(lambda g: g.var(axis=0, ddof=1), each))


# other packages


def evaluated(equation, values):
    """kfac-jax 0.0.8 unpacks a pair from `get_bind_params`; JAX 0.10 returns the parameters alone."""
    found = equation.primitive.get_bind_params(equation.params)
    subfuns, facts = found if isinstance(found, tuple) else ((), found)
    y = equation.primitive.bind(*subfuns, *values, **facts)
    return y if isinstance(y, list) else [y]


PEER = Sequential((CONV1, Tanh(), CONV2, Tanh(), Flatten(), Dense(5), Tanh(), Dense(3)))


@pytest.mark.filterwarnings("ignore")
def test_f_is_that_of_kfac_jax(monkeypatch):
    """Its exact Fisher; its empirical one it divides by N once more, as it says where it computes it."""
    kfac_jax = pytest.importorskip("kfac_jax", reason="kfac-jax is not installed")
    matcher = importlib.import_module("kfac_jax._src.tag_graph_matcher")
    monkeypatch.setattr(matcher, "eval_jaxpr_eqn", evaluated)
    params, x, labels = drawn(PEER)

    def plain(params, batch):
        x, labels = batch
        for name, stride, padding in (("conv1", 2, 1), ("conv2", 1, 0)):
            facts = (stride,) * 2, ((padding,) * 2,) * 2
            x = jax.lax.conv_general_dilated(x, params[name]["weight"], *facts, dimension_numbers=LABELS)
            x = jnp.tanh(x + params[name]["bias"] if "bias" in params[name] else x)
        x = jnp.tanh(x.reshape(len(x), -1) @ params["dense1"]["weight"] + params["dense1"]["bias"])
        logits = x @ params["dense2"]["weight"] + params["dense2"]["bias"]
        kfac_jax.register_softmax_cross_entropy_loss(logits, labels)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    for fisher, mode, factor in (("exact", "fisher_exact", 1), ("true", "fisher_empirical", len(x))):
        args = (params, (x, labels))
        estimator = kfac_jax.BlockDiagonalCurvature(plain, default_estimation_mode=mode)
        estimator.finalize(args)
        keeping = {"exact_powers_to_cache": None, "approx_powers_to_cache": None, "cache_eigenvalues": False}
        state = estimator.init(KEY, args, **keeping)
        state = estimator.update_curvature_matrix_estimate(state, 0.0, 1.0, 0.0, len(x), KEY, args)
        found = kfac(PEER, LOSS, params, x, labels, fisher=fisher)
        blocks = zip(estimator.blocks, state.blocks_states, strict=True)
        theirs = {block.parameters_shapes[0]: (block, of) for block, of in blocks}
        assert len(theirs) == len(found) == 4
        for name, factors in found.items():
            block, of = theirs[params[name]["weight"].shape]
            F = block.scale(of, False) * jnp.kron(*(each.value for each in of.factors))
            close(factors.matrix(), factor * F, 1e-12)


@pytest.mark.filterwarnings("ignore")
def test_f_and_the_diagonal_are_those_of_backpack():
    """Where a convolution has one place: S of BackPACK's KFLR is that of g summed over the places, not Grosse's.

    A is the same for any, summed over the places; F of a bias stands by itself.
    """
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    backpack = pytest.importorskip("backpack", reason="BackPACK is not installed")
    from backpack.extensions import KFLR, DiagGGNExact

    network = Sequential(
        (Conv2d(3, 3, stride=2, padding=1), Tanh(), Conv2d(4, (4, 3)), Tanh(), Flatten(), Dense(5), Tanh(), Dense(3))
    )
    params, x, labels = drawn(network)
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(3, 4, (4, 3)), nn.Tanh(), nn.Flatten(),
        nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3),
    ).double()  # fmt: skip
    places = {"conv1": 0, "conv2": 2, "dense1": 5, "dense2": 7}

    def tensor(array):
        return torch.tensor(np.array(array))

    with torch.no_grad():
        for name, place in places.items():
            weight = params[name]["weight"]
            theirs[place].weight.copy_(tensor(weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight.T))
            theirs[place].bias.copy_(tensor(params[name]["bias"]))
    theirs, loss = backpack.extend(theirs), backpack.extend(nn.CrossEntropyLoss())
    with backpack.backpack(KFLR(), DiagGGNExact()):
        loss(theirs(tensor(x.transpose(0, 3, 1, 2))), tensor(labels)).backward()

    found = kfac(network, LOSS, params, x, labels, fisher="exact")
    diagonal = ggn_diagonal(network, LOSS, params, x, labels)
    for name, place in places.items():
        weight, bias, factors = theirs[place].weight, theirs[place].bias, found[name]
        of_weight = weight.diag_ggn_exact.numpy()
        of_weight = of_weight.transpose(2, 3, 1, 0) if of_weight.ndim == 4 else of_weight.T
        expected = {"bias": jnp.asarray(bias.diag_ggn_exact.numpy()), "weight": jnp.asarray(of_weight)}
        close(diagonal[name], expected, 1e-12)
        S, A = (jnp.asarray(factor.numpy()) for factor in weight.kflr)
        if place in (0, 2):
            U, V, I, _ = params[name]["weight"].shape
            A = A.reshape(I, U, V, I, U, V).transpose(1, 2, 0, 4, 5, 3).reshape(U * V * I, -1)  # its order is (I, U, V)
        K, O = len(A), len(S)
        close(factors.positions * factors.A[:K, :K], A, 1e-12)
        if factors.positions == 1:
            F = factors.matrix()
            close(F[: K * O, : K * O], jnp.kron(A, S), 1e-12)
            close(F[K * O :, K * O :], jnp.asarray(bias.kflr[0].numpy()), 1e-12)
    assert [factors.positions for factors in found.values()] == [12, 1, 1, 1]


# what is refused


class Other(Loss):
    op = squared_error


def test_what_cannot_be_measured_is_refused_by_name():
    params, x, labels = drawn(SMALL)
    with pytest.raises(InputError, match="kfac: fisher is 'empirical' but must be one of model, true, exact"):
        kfac(SMALL, LOSS, params, x, labels, fisher="empirical")
    with pytest.raises(InputError, match="kfac: key is None but must be a key"):
        kfac(SMALL, LOSS, params, x, labels)
    with pytest.raises(InputError, match="ggn_diagonal: key is None but must be a key"):
        ggn_diagonal(SMALL, LOSS, params, x, labels, samples=3)
    with pytest.raises(InputError, match="ggn_diagonal: samples is 0 but must be"):
        ggn_diagonal(SMALL, LOSS, params, x, labels, samples=0, key=KEY)
    for measure in (kfac, ggn_diagonal):
        with pytest.raises(
            InputError, match=f"{measure.__name__}: loss is Other.* but must be a SoftmaxCrossEntropy or"
        ):
            measure(SMALL, Other(), params, x, labels, key=KEY)


def test_a_batch_norm_is_refused_in_training():
    network = Sequential((Conv2d(3, 3), BatchNorm(), ReLU(), MaxPool2d(2), Residual(Tanh()), Flatten(), Dense(3)))
    params, x, labels = drawn(network)
    with pytest.raises(InputError, match="batchnorm1: is a BatchNorm in training"):
        kfac(network, LOSS, params, x, labels, fisher="true")
    with pytest.raises(InputError, match="batchnorm1: is a BatchNorm in training"):
        ggn_diagonal(network, LOSS, params, x, labels)
