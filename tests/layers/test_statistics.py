import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    SGD,
    Averaged,
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    InputError,
    MaxPool2d,
    Recompute,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    apply_with_statistics,
    diagnose,
    evaluate,
    exact_statistics,
    fit,
    gradients,
    init_state,
    init_statistics,
    merged,
    moving_statistics,
    predict,
    summary,
    train_epoch,
    train_step,
)
from jaxcnn.inspect.flow import flow
from jaxcnn.store.checkpoint import load_checkpoint, load_progress, save_checkpoint

BODY = Sequential((Conv2d(4, 3, padding=1, bias=False), BatchNorm(), ReLU(), Conv2d(4, 3, padding=1), BatchNorm()))
NETWORK = Sequential(
    (Conv2d(4, 3), BatchNorm(), ReLU(), Residual(BODY), ReLU(), MaxPool2d(2), Flatten(), Dropout(0.2), Dense(3))
)
LOSS = SoftmaxCrossEntropy()
OPTIMIZER = SGD(0.05, momentum=0.9)
KEY = jax.random.key(7)


def start(optimizer=OPTIMIZER, dtype=None):
    return init_state(NETWORK, optimizer, jax.random.key(0), (6, 6, 1), dtype=dtype)


def names(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(tree)}


def test_they_are_a_tree_by_the_names_of_the_parameters():
    state = start()
    norms = ("batchnorm1", "residual1/body/batchnorm1", "residual1/body/batchnorm2")
    assert names(state.statistics) == {f"{norm}/{name}" for norm in norms for name in ("mean", "variance")}
    assert names(state.averaged) == names(state.params) | names(state.statistics)
    assert init_statistics(Dense(3), Dense(3).init(KEY, (2,)), (2,)) == {}


def test_moving_statistics_are_pytorchs(rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    norm, theirs = BatchNorm(), torch.nn.BatchNorm2d(3, momentum=0.3)
    params = norm.init(KEY, (2, 4, 3))
    statistics = init_statistics(norm, params, (2, 4, 3))
    for _ in range(4):
        x = rng.standard_normal((5, 2, 4, 3)).astype(np.float32) * 3 + 1
        theirs(torch.tensor(x).permute(0, 3, 1, 2))
        _, batch = apply_with_statistics(norm, params, jnp.asarray(x))
        statistics = moving_statistics(statistics, batch, momentum=0.3)
    np.testing.assert_allclose(statistics["mean"], theirs.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(statistics["variance"], theirs.running_var.numpy(), rtol=1e-5)


def test_exact_statistics_are_those_of_all_entries(rng):
    x = rng.standard_normal((50, 3, 2, 4)) * np.arange(1, 51)[:, None, None, None] + 100
    norm = BatchNorm()
    with jax.enable_x64(True):
        found = exact_statistics(norm, norm.init(KEY, (3, 2, 4)), jnp.asarray(x), batch_size=7)
        np.testing.assert_allclose(found["mean"], x.mean((0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(found["variance"], x.var((0, 1, 2)), rtol=1e-12)


def test_one_exact_batch_evaluates_as_it_trains(images):
    """All images as one batch: evaluation with exact statistics is training's forward pass, but for dropout."""
    network = Sequential(NETWORK.layers[:-2])
    state = init_state(network, OPTIMIZER, jax.random.key(0), (6, 6, 1))
    statistics = exact_statistics(network, state.params, images[0], batch_size=50)
    trained, batch = apply_with_statistics(network, state.params, images[0])
    np.testing.assert_allclose(network.apply(merged(state.params, statistics), images[0]), trained, atol=1e-5)
    assert names(batch) == names(statistics) | {name.replace("mean", "count") for name in names(statistics)}


def test_the_gradient_with_statistics_is_the_explicit_chain_and_autodiffs(images):
    x, labels = (jnp.asarray(a) for a in images)

    def with_rule(params):
        outputs, statistics = apply_with_statistics(NETWORK, params, x, key=KEY)
        return LOSS.apply(outputs, labels), statistics

    def plain(params):
        return LOSS.forward(NETWORK.forward(params, x, train=True, key=KEY)[0], labels)[0]

    with jax.enable_x64(True):
        x = x.astype(jnp.float64)
        params = start(dtype=jnp.float64).params
        grads, statistics = jax.jit(jax.grad(with_rule, has_aux=True))(params)
        ours, _, _, batch = gradients(NETWORK, LOSS, params, x, labels, key=KEY)
        truth = jax.grad(plain)(params)
        second = [
            jax.grad(lambda p, E=E: sum(jnp.vdot(g, g) for g in jax.tree.leaves(jax.grad(E)(p))))(params)
            for E in (lambda p: with_rule(p)[0], plain)
        ]
    for a, b, true in zip(*map(jax.tree.leaves, (grads, ours, truth)), strict=True):
        np.testing.assert_allclose(a, true, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(b, true, rtol=1e-9, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), statistics, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), *second)


def test_a_step_moves_them_and_the_optimizer_never_sees_them(images):
    x, labels = images
    state, _ = train_step(NETWORK, LOSS, OPTIMIZER, start(), x, labels)
    _, first = apply_with_statistics(Sequential(NETWORK.layers[:2]), start().params, x)
    mean, variance = (first["batchnorm1"][name] for name in ("mean", "variance"))
    np.testing.assert_allclose(state.statistics["batchnorm1"]["mean"], 0.1 * mean, rtol=1e-5)
    n = 50 * 4 * 4
    moved = 0.9 + 0.1 * variance * n / (n - 1)
    np.testing.assert_allclose(state.statistics["batchnorm1"]["variance"], moved, rtol=1e-5)
    assert not any("mean" in name for name in names(state.optimizer))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_is_learned_saved_and_used(images, tmp_path, dtype):
    state, _ = fit(NETWORK, LOSS, OPTIMIZER, start(dtype=dtype), *images, batch_size=10, epochs=12)
    measured = evaluate(NETWORK, LOSS, state.averaged, *images)
    assert measured.accuracy > 0.9
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.statistics))
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, NETWORK, (6, 6, 1), state)
    read = load_checkpoint(path).params
    jax.tree.map(np.testing.assert_array_equal, read, state.averaged)
    again = load_progress(path, start(dtype=dtype)).state
    jax.tree.map(np.testing.assert_array_equal, (again.params, again.statistics), (state.params, state.statistics))
    np.testing.assert_array_equal(predict(NETWORK, state.averaged, images[0])[0], measured.predictions)
    diagnose(NETWORK, state.averaged, images[0])
    flow(NETWORK, LOSS, state.averaged, images[0][0], 1)


def test_a_fit_that_goes_on_ends_with_the_same_statistics(images):
    told = []
    optimizer = Averaged(OPTIMIZER, 0.9)
    arguments = {"batch_size": 10, "epochs": 4}
    whole, _ = fit(NETWORK, LOSS, optimizer, start(optimizer), *images, **arguments, on_epoch=told.append)
    later, _ = fit(NETWORK, LOSS, optimizer, start(optimizer), *images, **arguments, resume=told[1])
    jax.tree.map(np.testing.assert_array_equal, later.statistics, whole.statistics)
    assert names(whole.averaged) == names(whole.params) | names(whole.statistics)


def test_an_epoch_is_its_steps(images):
    state, _ = train_epoch(NETWORK, LOSS, OPTIMIZER, start(), *images, 50)
    step, _ = train_step(NETWORK, LOSS, OPTIMIZER, start(), *images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.statistics, step.statistics)


def test_a_file_without_them_is_refused_by_the_name_of_the_first(images, tmp_path):
    import dataclasses

    path = tmp_path / "model.safetensors"
    save_checkpoint(path, NETWORK, (6, 6, 1), dataclasses.replace(start(), statistics={}))
    with pytest.raises(InputError, match="has no array as statistics/batchnorm1/mean but must have float32 of shape"):
        load_checkpoint(path)
    with pytest.raises(InputError, match="statistics/batchnorm1/mean"):
        load_progress(path, start())


def test_evaluation_without_them_is_one_sentence(images):
    with pytest.raises(InputError, match="'batchnorm1' .*: BatchNorm: params has no mean and variance but must have"):
        evaluate(NETWORK, LOSS, start().params, *images)


def test_a_momentum_out_of_range_is_refused():
    with pytest.raises(InputError, match="moving_statistics: momentum is 1.5 but must be from 0 to 1"):
        moving_statistics({}, {}, 1.5)


def test_the_summary_counts_learned_numbers_alone():
    total = sum(leaf.size for leaf in jax.tree.leaves(start().params))
    assert summary(NETWORK, (6, 6, 1)).total.parameters == total


def test_a_body_that_is_recomputed_has_the_same_statistics_and_gradients(images):
    x, labels = images
    plain = Sequential((Conv2d(4, 3), BatchNorm(), ReLU(), Flatten(), Dense(3)))
    again = Sequential((Recompute(Sequential(plain.layers[:3])), Flatten(), Dense(3)))
    params = plain.init(KEY, (6, 6, 1))
    moved = {"recompute1": {"body": {name: params[name] for name in ("conv1", "batchnorm1")}}} | {
        "dense1": params["dense1"]
    }
    (grads, _, _, batch), (of_body, _, _, inside) = (
        gradients(network, LOSS, tree, x, labels) for network, tree in ((plain, params), (again, moved))
    )
    jax.tree.map(np.testing.assert_array_equal, inside, {"recompute1": {"body": batch}})
    for name in ("conv1", "batchnorm1"):
        for kind, grad in grads[name].items():
            np.testing.assert_allclose(of_body["recompute1"]["body"][name][kind], grad, rtol=1e-5, atol=1e-7)
    state = init_state(again, OPTIMIZER, KEY, (6, 6, 1))
    state, _ = train_step(again, LOSS, OPTIMIZER, state, x, labels)
    assert evaluate(again, LOSS, state.averaged, x, labels).loss < 10
