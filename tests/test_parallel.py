"""Training on several devices is training on one: the same parameters, one exchange of the gradients, no other."""

import math
import re
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    SGD,
    Averaged,
    BatchNorm,
    CombineMaps,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    InputError,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    SquaredError,
    StochasticPool2d,
    evaluate,
    fit,
    gradients,
    init_state,
)
from jaxcnn.data import Augmentation
from jaxcnn.fit import _steps, _streamed_steps
from jaxcnn.layers.rewrite import spread_over
from jaxcnn.plan import Plan
from jaxcnn.progress import Progress
from jaxcnn.training import _step

DEVICES = 8
KEY = jax.random.key(3)
PLAIN = Sequential((Conv2d(6, 3, padding=1), ReLU(), MaxPool2d(2), Flatten(), Dense(5)))
DRAWING = Sequential(
    (Conv2d(6, 3, padding=1), ReLU(), StochasticPool2d(2), Flatten(), Dropout(0.4), Dense(7), Dropout(0.2), Dense(5))
)
NORMS = Sequential(
    (
        Conv2d(6, 3, padding=1, bias=False),
        BatchNorm(),
        ReLU(),
        Residual(Sequential((Conv2d(6, 3, padding=1, bias=False), BatchNorm(), ReLU()))),
        Flatten(),
        Dense(7, bias=False),
        BatchNorm(),
        Dropout(0.3),
        Dense(5),
    )
)
PENALISED = Sequential((Conv2d(4, 3), ReLU(), CombineMaps(5, 3, entropy=0.7), Flatten(), Dense(5)))
OPTIMIZER = SGD(0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
NETWORKS = {"plain": PLAIN, "penalty": PENALISED, "drawing": DRAWING, "batch norm": NORMS}


@pytest.fixture
def mesh():
    if len(jax.devices()) < DEVICES:
        pytest.skip(f"needs {DEVICES} devices; there are {len(jax.devices())}")
    return jax.make_mesh((DEVICES,), ("batch",))


@pytest.fixture
def samples(rng):
    """Images (84, 6, 8, 2), of which no part of a batch is like another, and labels."""
    images = rng.standard_normal((84, 6, 8, 2)) + np.linspace(-1, 2, 84)[:, None, None, None]
    return images, rng.integers(0, 5, 84)


def trained(network, images, labels, dtype, *, loss=None, optimizer=OPTIMIZER, epochs=1, **how):
    state = init_state(network, optimizer, KEY, images.shape[1:], dtype=dtype)
    loss = SoftmaxCrossEntropy(smoothing=0.1) if loss is None else loss
    state, history = fit(network, loss, optimizer, state, images, labels, batch_size=16, epochs=epochs, **how)
    return state, history


def differ(found, expected):
    """The largest difference of an array, relative to the array's largest entry."""

    def of_one(a, b):
        return float(np.abs(np.asarray(a) - np.asarray(b)).max() / max(np.abs(np.asarray(b)).max(), 1e-30))

    return max(of_one(a, b) for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True))


def learned(state):
    return state.params, state.statistics


@pytest.mark.parametrize("name", NETWORKS)
def test_after_an_epoch_the_parameters_are_those_of_one_device(name, mesh, samples, float64):
    augment = Augmentation(("crop:1", "flip", "cutout:2"))
    one, alone = trained(NETWORKS[name], *samples, jnp.float64, augment=augment)
    many, spread = trained(NETWORKS[name], *samples, jnp.float64, augment=augment, mesh=mesh)
    assert differ(learned(many), learned(one)) < 1e-10
    assert [alone[0][key] for key in ("accuracy", "step")] == [spread[0][key] for key in ("accuracy", "step")]
    assert alone[0]["loss"] == pytest.approx(spread[0]["loss"], rel=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_after_a_step_in_float32_too(name, mesh, samples):
    images, labels = samples[0][:16].astype(np.float32), samples[1][:16]
    (one, _), (many, _) = (trained(NETWORKS[name], images, labels, jnp.float32, **how) for how in ({}, {"mesh": mesh}))
    assert differ(many.params, one.params) < 1e-5


@pytest.mark.parametrize("network", [DRAWING, Sequential((Flatten(), Dropout(0.5), Dense(5)))])
def test_what_is_drawn_does_not_depend_on_the_number_of_devices(network, samples, float64):
    states = [
        trained(network, *samples, jnp.float64, mesh=jax.make_mesh((count,), ("anything",)))[0] for count in (1, 2, 4)
    ]
    assert differ(states[1].params, states[0].params) < 1e-10
    assert differ(states[2].params, states[0].params) < 1e-10


@pytest.mark.parametrize(
    "loss",
    [
        SoftmaxCrossEntropy(class_weights=(1.0, 2.0, 0.5, 3.0, 1.0), ignore=4, smoothing=0.1),
        SoftmaxCrossEntropy("sum"),
        SquaredError(low=-1.0),
    ],
    ids=["weights", "sum", "squared error"],
)
@pytest.mark.parametrize("how", [{"mesh": True}, {"accumulate": 4}, {"mesh": True, "accumulate": 2}], ids=str)
def test_the_loss_is_that_of_the_whole_batch(loss, how, mesh, samples, float64):
    """Where labels are weighted the parts of a batch count as much as their labels weigh."""
    how = how | ({"mesh": mesh} if "mesh" in how else {})
    optimizer = SGD(0.01)
    one, alone = trained(PLAIN, *samples, jnp.float64, loss=loss, optimizer=optimizer)
    many, spread = trained(PLAIN, *samples, jnp.float64, loss=loss, optimizer=optimizer, **how)
    assert differ(many.params, one.params) < 1e-10
    assert alone[0]["loss"] == pytest.approx(spread[0]["loss"], rel=1e-10)


def test_a_weighted_batch_norm_network_too(mesh, samples, float64):
    loss = SoftmaxCrossEntropy(class_weights=(1.0, 2.0, 0.5, 3.0, 1.0), ignore=4)
    one, many = (trained(NORMS, *samples, jnp.float64, loss=loss, **how)[0] for how in ({}, {"mesh": mesh}))
    assert differ(learned(many), learned(one)) < 1e-10


def test_parts_of_a_batch_are_its_rows_in_turn(samples, float64):
    """Without what mixes samples the gradient is the whole batch's; a batch norm's is that of each part by itself."""
    x, labels = jnp.asarray(samples[0][:12]), samples[1][:12]
    loss = SoftmaxCrossEntropy()
    for network, parts in ((PLAIN, [slice(None)]), (NORMS, [slice(k, None, 3) for k in range(3)])):
        network = Sequential([layer for layer in network.layers if not isinstance(layer, Dropout)])
        params = init_state(network, OPTIMIZER, KEY, x.shape[1:], dtype=jnp.float64).params
        grads, E, outputs, statistics = gradients(network, loss, params, x, labels, accumulate=3)
        each = [gradients(network, loss, params, x[part], labels[part]) for part in parts]
        mean = jax.tree.map(lambda *found: sum(found) / len(found), *[found[:2] for found in each])
        assert differ((grads, E), mean) < 1e-12
        for part, found in zip(parts, each, strict=True):
            np.testing.assert_allclose(outputs[part], found[2], rtol=1e-12, atol=1e-12)
        if statistics:
            entries = network.layers[0].forward(params["conv1"], x)[0]
            np.testing.assert_allclose(statistics["batchnorm1"]["mean"], entries.mean((0, 1, 2)), rtol=1e-12)
            np.testing.assert_allclose(statistics["batchnorm1"]["variance"], entries.var((0, 1, 2)), rtol=1e-12)
            assert statistics["batchnorm1"]["count"] == 12 * 6 * 8


@pytest.mark.parametrize("optimizer", [OPTIMIZER, Averaged(OPTIMIZER, 0.9)], ids=["sgd", "averaged"])
def test_each_device_has_its_part_of_a_sharded_state(optimizer, mesh, samples, float64):
    network = Sequential((Conv2d(16, 3, padding=1), ReLU(), Flatten(), Dense(24), Dropout(0.2), Dense(5, bias=False)))
    one, _ = trained(network, *samples, jnp.float64, optimizer=optimizer, epochs=2)
    many, _ = trained(network, *samples, jnp.float64, optimizer=optimizer, epochs=2, mesh=mesh, sharded=True)
    assert differ(many.params, one.params) < 1e-10
    for tree in (many.params, many.optimizer):
        leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim]
        assert len(leaves) >= 5
        for leaf in leaves:
            own = {shard.data.nbytes for shard in leaf.addressable_shards}
            assert own == {leaf.nbytes // DEVICES}, leaf.shape
    images, labels = samples
    found, expected = (
        evaluate(network, SoftmaxCrossEntropy(), state.averaged, images, labels, batch_size=32) for state in (many, one)
    )
    assert found.loss == pytest.approx(expected.loss, rel=1e-10)
    np.testing.assert_array_equal(found.predictions, expected.predictions)


@pytest.mark.parametrize("devices", [1, DEVICES])
def test_batches_of_the_hosts_memory_are_those_on_the_devices(devices, samples):
    """As where images are in files, or each of several processes has its own rows; an epoch of five steps, cut."""
    images, labels = samples[0].astype(np.float32), samples[1]
    plan = Plan(jax.make_mesh((devices,), ("batch",)))
    state = plan.placed(init_state(DRAWING, OPTIMIZER, KEY, images.shape[1:]))
    specs = DRAWING, SoftmaxCrossEntropy(), OPTIMIZER, plan, Augmentation(("crop:1",))
    found = []
    for make in (_steps, _streamed_steps):
        steps, progress = make(specs, images, labels, 16, state.key), Progress(state)
        for count in (2, 1, 4):
            progress = steps(progress, count)
        assert len(progress.losses) == 5
        found.append((progress.state.params, progress.losses, progress.correct))
    jax.tree.map(np.testing.assert_array_equal, *found)


def collectives(network, mesh, **how):
    """(kind, bytes) of every exchange between devices in the compiled step, and the bytes of what is learned."""
    plan, loss, augment = Plan(mesh, **how), SoftmaxCrossEntropy(), Augmentation(("crop:1", "flip"))
    state = plan.placed(init_state(network, OPTIMIZER, KEY, (6, 8, 2)))
    x, labels = np.ones((16, 6, 8, 2), np.float32), np.zeros(16, int)
    step = jax.jit(_step, static_argnums=(0, 1, 2, 3, 7))
    text = step.lower(network, loss, OPTIMIZER, plan, state, x, labels, augment).compile().as_text()
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast|ragged-all-to-all"
    width = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f64": 8, "pred": 1}
    found = []
    for shapes, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text):
        sizes = re.findall(rf"({'|'.join(width)})\[([\d,]*)\]", shapes)
        found.append((kind, sum(width[of] * math.prod(map(int, filter(None, n.split(",")))) for of, n in sizes)))
    return found, jax.tree.map(lambda leaf: leaf.nbytes, state.params)


@pytest.mark.parametrize("how", [{}, {"accumulate": 2}, {"precision": "mixed"}], ids=str)
def test_a_step_has_one_exchange_of_the_gradients_and_the_metrics(how, mesh):
    for network in (PLAIN, DRAWING):
        found, parameters = collectives(network, mesh, **how)
        assert found == [("all-reduce", sum(jax.tree.leaves(parameters)) + 8)]  # the loss and how many were right


def test_each_batch_norm_adds_one_exchange_on_either_way(mesh):
    """Forward the means and variances of each device, backward dscale and dbias, which are not exchanged again."""
    found, parameters = collectives(NORMS, mesh)
    inside = parameters.pop("residual1")["body"]
    others = [part for tree in (parameters, inside) for name, part in tree.items() if not name.startswith("batchnorm")]
    channels = [6, 6, 7]
    forward = [("all-gather", 2 * 4 * n * DEVICES) for n in channels]
    backward = [("all-reduce", 2 * 4 * n) for n in channels]
    assert Counter(found) == Counter([("all-reduce", sum(jax.tree.leaves(others)) + 8), *forward, *backward])


def test_the_evaluation_is_spread_too_and_its_last_batch_may_be_uneven(mesh, samples, float64):
    images, labels = samples
    state, _ = trained(NORMS, images, labels, jnp.float64)
    expected = evaluate(NORMS, SoftmaxCrossEntropy(), state.averaged, images, labels, batch_size=24)
    params = Plan(mesh).placed(state.averaged)
    found = evaluate(NORMS, SoftmaxCrossEntropy(), params, images, labels, batch_size=24)  # 84 = 3 * 24 + 12
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    np.testing.assert_array_equal(found.predictions, expected.predictions)


def test_mixed_precision_learns_in_float32_and_computes_in_bfloat16(samples):
    images, labels = samples[0].astype(np.float32), samples[1]
    x, t = jnp.asarray(images[:32]), labels[:32]
    params = init_state(NORMS, OPTIMIZER, KEY, x.shape[1:]).params
    step = jax.jit(gradients, static_argnums=(0, 1), static_argnames="dtype")
    grads, E, outputs, statistics = step(NORMS, SoftmaxCrossEntropy(), params, x, t, key=KEY, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves((grads, E, outputs, statistics))} == {np.dtype(np.float32)}
    exact, *_ = step(NORMS, SoftmaxCrossEntropy(), params, x, t, key=KEY)
    for found, expected in zip(jax.tree.leaves(grads), jax.tree.leaves(exact), strict=True):
        cosine = jnp.vdot(found, expected) / jnp.linalg.norm(found) / jnp.linalg.norm(expected)
        assert cosine > 0.99 or jnp.linalg.norm(expected) < 1e-3
    text = str(
        jax.make_jaxpr(lambda p: gradients(PLAIN, SoftmaxCrossEntropy(), p, x, t, dtype=jnp.bfloat16))(
            init_state(PLAIN, OPTIMIZER, KEY, x.shape[1:]).params
        )
    )
    products = re.findall(r"(\w+)\[[\d,]*\] = (?:conv_general_dilated|dot_general|correlate|kernel_gradient)", text)
    assert products
    assert set(products) == {"bf16"}
    state, history = trained(NORMS, images, labels, jnp.float32, precision="mixed", epochs=3)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.statistics))} == {np.dtype(np.float32)}
    assert history[-1]["loss"] < history[0]["loss"]


def test_the_gradient_sums_small_parts_in_the_parameters_precision(samples):
    """256 equal gradients in bfloat16 would sum to one of them: 1 + 1/256 is 1 there."""
    x, labels = jnp.ones((256, 1)), np.zeros(256, int)
    params = {"weight": jnp.zeros((1, 3)), "bias": jnp.zeros(3)}
    how = {"dtype": jnp.bfloat16, "accumulate": 256}
    grads, *_ = gradients(Dense(3), SoftmaxCrossEntropy(), params, x, labels, **how)
    np.testing.assert_allclose(grads["bias"], [-2 / 3, 1 / 3, 1 / 3], rtol=2**-8)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"mesh": 8}, "mesh is 8 but must be a mesh of one axis"),
        ({"sharded": True}, "sharded is True but mesh is None"),
        ({"sharded": 1}, "sharded is 1 but must be True or False"),
        ({"accumulate": 0}, "accumulate is 0 but must be an int of at least 1"),
        ({"accumulate": 5}, "batch_size is 16 but must be a multiple of 5: 1 devices times 5 parts"),
        ({"precision": "float16"}, "precision is 'float16' but must be one of full, mixed"),
    ],
    ids=str,
)
def test_what_fit_cannot_do_is_refused(how, words, samples):
    with pytest.raises(InputError, match=re.escape(words)):
        trained(PLAIN, *samples, jnp.float32, **how)


def test_a_mesh_of_two_axes_is_refused(samples):
    mesh = jax.make_mesh((1, 1), ("a", "b"))
    with pytest.raises(InputError, match="must be a mesh of one axis"):
        trained(PLAIN, *samples, jnp.float32, mesh=mesh)


def test_only_layers_with_the_field_are_spread():
    network = Sequential((Residual(Sequential((BatchNorm(), ReLU()))), StochasticPool2d(2), Dropout(0.5), Flatten()))
    spread = spread_over(network, "rows")
    assert spread == Sequential(
        (
            Residual(Sequential((replace(BatchNorm(), batch_axis="rows"), ReLU()))),
            replace(StochasticPool2d(2), batch_axis="rows"),
            replace(Dropout(0.5), batch_axis="rows"),
            Flatten(),
        )
    )
