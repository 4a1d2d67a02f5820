"""All operations in the meshes of others: inside of `jax.shard_map`, and with Auto and Explicit axes.

Values and gradients are those of one device, or of one part after another where each device has statistics, a mean or a
mask of its own. Devices sum in another order than one of them does: EXACT, as for two compilations.
"""

import copy
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcnn import (
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    InputError,
    MaxPool2d,
    Recompute,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    apply_with_statistics,
    concatenate,
    conv2d,
    dense,
    dropout,
    gradients,
    relu,
    softmax_cross_entropy,
)
from jaxcnn.kernels import onednn, quick_jit
from jaxcnn.verify.cases import OPERATIONS
from jaxcnn.verify.problem import is_floating
from jaxcnn.verify.tolerances import EXACT, relative_error, tolerance

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_cpu_alone", "float64")]

DEVICES = 2
OF_SAMPLES = {"x", "u", "a", "b", "outputs", "targets", "logits", "labels", "weights", "alpha", "c of entropy_penalty"}
FIRST = [pytest.param(name, entry.cases[0], 0, id=name) for name, entry in OPERATIONS.items()]
DEPTHWISE = pytest.param("conv2d", OPERATIONS["conv2d"].cases[10], 10, id="conv2d-depthwise")


def is_array(drawn):
    return isinstance(drawn, np.ndarray)


def mesh_of(kind, shape=(DEVICES,), names=("d",)):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))


def assert_same(found, expected):
    """Two trees of arrays agree to EXACT, in structure and shape too."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == e.shape
        assert relative_error(a, e) <= EXACT


class Problem:
    """An operation with a batch for every device, one drawn after another; `loss` is a sum over the batch."""

    def __init__(self, name, case, seed):
        self.op = partial(OPERATIONS[name].op, **case.hyper)
        names = OPERATIONS[name].op.arguments[: len(case.args)]
        draws = [case.draw(seed + i) for i in range(DEVICES)]
        of_samples = [arg in OF_SAMPLES or f"{arg} of {name}" in OF_SAMPLES for arg in names]
        self.specs = tuple(P("d") if divided else P() for divided in of_samples)
        self.args = [
            jnp.asarray(np.concatenate(parts) if divided else parts[0])
            if isinstance(parts[0], np.ndarray)
            else parts[0]
            for parts, divided in zip(zip(*draws, strict=True), of_samples, strict=True)
        ]
        self.floating = tuple(i for i, arg in enumerate(self.args) if arg is not None and is_floating(arg))
        self.seed = seed

    def loss(self, args):
        y = self.op(*args)
        return (jnp.sin(y) * np.random.default_rng(self.seed).standard_normal(y.shape)).sum()

    def part(self, args, device):
        """What a device has of the arguments."""
        return [
            arg if arg is None or spec == P() else jnp.split(arg, DEVICES)[device]
            for arg, spec in zip(args, self.specs, strict=True)
        ]

    def with_floating(self, arrays, args=None):
        args = list(self.args if args is None else args)
        for i, array in zip(self.floating, arrays, strict=True):
            args[i] = array
        return args

    def arrays(self):
        return tuple(self.args[i] for i in self.floating)

    def value_and_grads(self, loss, args=None):
        """The loss and its gradients, as a function of the floating-point arrays."""
        return jax.value_and_grad(lambda arrays: loss(self.with_floating(arrays, args)))


@cache
def on_one_device(name, seed):
    """The problem of the operation's case of this number, its value and its gradients."""
    problem = Problem(name, OPERATIONS[name].cases[seed], seed)
    return problem, quick_jit(problem.value_and_grads(problem.loss))(problem.arrays())


def and_grad_of_grad(value_and_grads):
    def penalised(arrays):
        E, grads = value_and_grads(arrays)
        return sum((jnp.cos(i + grad) * grad).sum() for i, grad in enumerate(grads)), (E, grads)

    return jax.jit(jax.grad(penalised, has_aux=True))


@pytest.mark.parametrize(("name", "case", "seed"), [*FIRST, DEPTHWISE])
def test_inside_of_shard_map_gradients_are_those_of_the_sum_over_the_devices(name, case, seed):
    """With `check_vma`: that of a replicated weight is summed by JAX, that of what is divided is not; twice."""
    problem = Problem(name, case, seed)

    def inside(*args):
        E, grads = problem.value_and_grads(problem.loss, args)(tuple(args[i] for i in problem.floating))
        return jax.lax.psum(E, "d"), grads

    def mapped(arrays):
        of_grads = tuple(problem.specs[i] for i in problem.floating)
        over_mesh = jax.shard_map(
            inside, mesh=mesh_of(AxisType.Auto), in_specs=problem.specs, out_specs=(P(), of_grads), check_vma=True
        )
        return over_mesh(*problem.with_floating(arrays))

    def one_by_one(args):
        return sum(problem.loss(problem.part(args, device)) for device in range(DEVICES))

    expected = and_grad_of_grad(problem.value_and_grads(one_by_one))(problem.arrays())
    assert_same(and_grad_of_grad(mapped)(problem.arrays()), expected)


def over(problem, mesh, specs):
    """The same problem, its arguments over the mesh; keys stay where they are."""
    placed = copy.copy(problem)
    placed.args = [
        jax.device_put(arg, NamedSharding(mesh, spec)) if arg is not None and arg.dtype != KEY else arg
        for arg, spec in zip(problem.args, specs, strict=True)
    ]
    return placed


KEY = jax.eval_shape(lambda: jax.random.key(0)).dtype


@pytest.mark.parametrize(("name", "case", "seed"), [*FIRST, DEPTHWISE])
def test_xla_divides_a_batch_and_no_device_gathers_it(name, case, seed):
    problem, expected = on_one_device(name, seed)
    divided = over(problem, mesh_of(AxisType.Auto), problem.specs)
    compiled = jax.jit(divided.value_and_grads(divided.loss)).lower(divided.arrays()).compile()
    assert_same(compiled(divided.arrays()), expected)
    assert "all-gather" not in compiled.as_text()


@pytest.mark.parametrize(("name", "case", "seed"), [*FIRST, DEPTHWISE])
def test_explicit_axes_keep_the_batch_of_y_and_the_types_of_gradients(name, case, seed):
    problem, expected = on_one_device(name, seed)
    mesh = mesh_of(AxisType.Explicit)
    divided = over(problem, mesh, problem.specs)
    with jax.set_mesh(mesh):
        y = jax.eval_shape(divided.op, *divided.args)
        found = jax.jit(divided.value_and_grads(divided.loss))(divided.arrays())
    assert y.sharding.spec == P(*("d", *[None] * y.ndim)[: y.ndim])
    assert_same(found, expected)
    for grad, array in zip(found[1], divided.arrays(), strict=True):
        assert jax.typeof(grad) == jax.typeof(array)


def divisible():
    """For each axis of an operation's first array but the batch the first case in which it can be divided."""
    for name, entry in OPERATIONS.items():
        for axis in range(1, 4):
            for seed, case in enumerate(entry.cases):
                shape = case.args[0].shape
                if len(shape) > axis and shape[axis] % DEVICES == 0:
                    yield pytest.param(name, case, seed, axis, id=f"{name}-{axis}")
                    break


@pytest.mark.parametrize(("name", "case", "seed", "axis"), list(divisible()))
def test_space_and_channels_may_be_divided(name, case, seed, axis):
    """By XLA; by Explicit axes where y has that axis, or none, and else it is said which way out."""
    problem, expected = on_one_device(name, seed)
    specs = [P(*[None] * axis, "d"), *[P()] * (len(problem.args) - 1)]
    divided = over(problem, mesh_of(AxisType.Auto), specs)
    assert_same(jax.jit(divided.value_and_grads(divided.loss))(divided.arrays()), expected)

    y, x = jax.eval_shape(problem.op, *problem.args), problem.args[0]
    mesh = mesh_of(AxisType.Explicit)
    divided = over(problem, mesh, specs)
    with jax.set_mesh(mesh):
        if y.ndim == 0 or y.shape[axis : axis + 1] == x.shape[axis : axis + 1]:
            assert_same(jax.jit(divided.value_and_grads(divided.loss))(divided.arrays()), expected)
        else:
            with pytest.raises(InputError, match="divided by Explicit axes only where the result"):
                divided.op(*divided.args)


NETWORK = Sequential(
    (
        Conv2d(4, 3, padding=1, bias=False),  # before a batch norm its gradient is 0
        BatchNorm(),
        ReLU(),
        MaxPool2d(2),
        Recompute(Sequential((Conv2d(4, 3, padding=1), ReLU()))),
        Flatten(),
        Dropout(0.5),
        Dense(5),
    )
)


@pytest.fixture
def batch(rng):
    """Parameters of `NETWORK`, images of two halves with means of their own, labels."""
    x = rng.standard_normal((8, 6, 6, 2)) + np.arange(8)[:, None, None, None] // 4
    return NETWORK.init(jax.random.key(0), (6, 6, 2)), jnp.asarray(x), jnp.arange(8) % 5


def by_layers(params, x, labels, key):
    y = NETWORK.apply(params, x, train=True, key=key)
    return softmax_cross_entropy(y, labels), {}


def by_the_network(params, x, labels, key):
    y, statistics = apply_with_statistics(NETWORK, params, x, key=key)
    return softmax_cross_entropy(y, labels), statistics


@pytest.mark.parametrize("loss", [by_layers, by_the_network])
def test_a_network_over_explicit_axes_has_the_gradient_and_the_statistics_of_one_device(batch, loss):
    params, x, labels = batch
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    expected = step(params, x, labels, jax.random.key(3))
    mesh = mesh_of(AxisType.Explicit, (4, 2), ("d", "m"))
    divided = NamedSharding(mesh, P("d"))
    with jax.set_mesh(mesh):
        found = step(params, jax.device_put(x, divided), jax.device_put(labels, divided), jax.random.key(3))
    assert_same(found, expected)


@pytest.mark.parametrize("loss", [by_layers, by_the_network])
def test_a_network_inside_of_shard_map_has_statistics_and_masks_for_each_device(batch, loss):
    params, x, labels = batch
    step = jax.value_and_grad(loss, has_aux=True)

    def inside(params, x, labels):
        key = jax.random.fold_in(jax.random.key(3), jax.lax.axis_index("d"))  # a mask for each
        (E, statistics), grads = step(params, x, labels, key)
        return jax.lax.psum((E, statistics), "d"), grads

    mapped = jax.shard_map(inside, mesh=mesh_of(AxisType.Auto), in_specs=(P(), P("d"), P("d")), out_specs=P())
    one_by_one = [
        quick_jit(step)(params, *half, jax.random.fold_in(jax.random.key(3), i))
        for i, half in enumerate(zip(jnp.split(x, 2), jnp.split(labels, 2), strict=True))
    ]
    assert_same(jax.jit(mapped)(params, x, labels), jax.tree.map(jnp.add, *one_by_one))


def test_a_key_that_varies_makes_all_vary():
    """The gradient of what is replicated is the sum of what the masks let through."""

    def inside(x):
        key = jax.random.fold_in(jax.random.key(0), jax.lax.axis_index("d"))
        return jax.grad(lambda x: dropout(x, key, rate=0.5).sum())(x)

    found = jax.jit(jax.shard_map(inside, mesh=mesh_of(AxisType.Auto), in_specs=P(), out_specs=P()))(jnp.ones(50))
    keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(DEVICES)]
    assert_same(found, sum(dropout(jnp.ones(50), key, rate=0.5) for key in keys))
    assert set(np.asarray(found)) == {0.0, 2.0, 4.0}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_weights_may_be_divided(rng, kind):
    """Their gradients are divided as they are."""
    x, weight, bias = (jnp.asarray(rng.standard_normal(shape)) for shape in ((4, 6, 5, 4), (3, 3, 4, 6), (6,)))

    def loss(weight, bias, x):
        return (conv2d(x, weight, bias) ** 2).sum()

    expected = jax.grad(loss, (0, 1))(weight, bias, x)
    mesh = mesh_of(kind, (2, 2), ("d", "m"))
    for specs in ((P(None, None, None, "m"), P("m")), (P(None, None, ("d", "m")), P())):
        placed = [
            jax.device_put(array, NamedSharding(mesh, spec))
            for array, spec in zip((weight, bias, x), (*specs, P("d")), strict=True)
        ]
        with jax.set_mesh(mesh):
            found = jax.jit(jax.grad(loss, (0, 1)))(*placed)
        assert_same(found, expected)
        if kind == AxisType.Explicit:
            assert [jax.typeof(grad) for grad in found] == [jax.typeof(array) for array in placed[:2]]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_inside_of_shard_map_over_some_axes_others_may_divide(rng, kind):
    """XLA divides along them, so nothing there is a call of oneDNN, for which it would gather."""
    x, weight = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((4, 6, 5, 4), (3, 3, 4, 6)))

    def gradient(weight, x):
        return jax.grad(lambda weight: (conv2d(x, weight) ** 2).sum())(weight)

    mesh = mesh_of(kind, (2, 2), ("d", "m"))
    divided = jax.device_put(x, NamedSharding(mesh, P(("d", "m"))))
    over_d = jax.shard_map(gradient, mesh=mesh, in_specs=(P(), P("d")), out_specs=P(), axis_names={"d"})
    with jax.set_mesh(mesh):
        compiled = jax.jit(over_d).lower(weight, divided).compile()
        found = compiled(weight, divided)
    assert relative_error(found, gradient(weight, x)) <= tolerance(jnp.float32, 3 * 3 * 4 + 4 * 4 * 3)
    assert "jaxcnn_" not in compiled.as_text()
    if kind == AxisType.Auto:  # along Explicit ones shard_map itself gathers what its in_specs do not name
        assert "all-gather" not in compiled.as_text()


@pytest.mark.skipif(onednn.why_not() is not None, reason=onednn.why_not() or "")
def test_inside_of_shard_map_over_all_axes_onednn_is_called(rng):
    x, weight = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((4, 6, 5, 4), (3, 3, 4, 6)))
    mapped = jax.shard_map(conv2d, mesh=mesh_of(AxisType.Auto), in_specs=(P("d"), P()), out_specs=P("d"))
    compiled = jax.jit(mapped).lower(x, weight).compile()
    assert "jaxcnn_correlate" in compiled.as_text()
    assert relative_error(compiled(x, weight), conv2d(x, weight)) <= tolerance(jnp.float32, 3 * 3 * 4)


def test_halves_inside_of_shard_map_have_gradients_of_the_device():
    """`backward` is the formula alone: the sum over the devices is left to whoever calls it."""
    x, weight = jnp.arange(8.0).reshape(4, 2), jnp.ones((2, 3))

    def inside(x, weight):
        y, residuals = dense.forward(x, weight)
        return dense.backward(residuals, jnp.ones(y.shape))[1][None]

    mapped = jax.shard_map(inside, mesh=mesh_of(AxisType.Auto), in_specs=(P("d"), P()), out_specs=P("d"))
    assert_same(jax.jit(mapped)(x, weight), jnp.stack([half.T @ jnp.ones((2, 3)) for half in jnp.split(x, 2)]))


def test_the_derivative_of_a_half_inside_of_shard_map_is_summed_over_the_devices(rng):
    """That of `backward`, in the weight and in dy: both are replicated, x is not."""
    x, weight, dy = (jnp.asarray(rng.standard_normal(shape)) for shape in ((4, 5, 5, 2), (3, 3, 2, 3), (2, 3, 3, 3)))

    def inside(x, weight, dy):
        def norm(weight, dy):
            return sum((grad**2).sum() for grad in conv2d.backward((x, weight, None), dy)[:2])

        return jax.grad(norm, (0, 1))(weight, dy)

    mapped = jax.shard_map(inside, mesh=mesh_of(AxisType.Auto), in_specs=(P("d"), P(), P()), out_specs=P())
    one_by_one = [inside(half, weight, dy) for half in jnp.split(x, 2)]
    assert_same(jax.jit(mapped)(x, weight, dy), jax.tree.map(jnp.add, *one_by_one))


def test_a_rule_may_return_a_constant_inside_of_shard_map():
    frozen = dense.with_rule(lambda residuals, dy: (dy @ residuals[1].T, jnp.zeros((2, 3)), None))

    def inside(x, weight):
        return jax.grad(lambda weight: frozen(x, weight).sum())(weight)

    mapped = jax.shard_map(inside, mesh=mesh_of(AxisType.Auto), in_specs=(P("d"), P()), out_specs=P())
    assert_same(jax.jit(mapped)(jnp.ones((4, 2)), jnp.ones((2, 3))), jnp.zeros((2, 3)))


def test_a_whole_rule_runs_within_auto_axes(batch):
    """The way out that the sentences name."""
    params, x, labels = batch

    def step(params, x, labels):
        return gradients(NETWORK, SoftmaxCrossEntropy(), params, x, labels, key=jax.random.key(3))[0]

    mesh = mesh_of(AxisType.Explicit)
    divided = NamedSharding(mesh, P("d"))
    with jax.set_mesh(mesh):
        found = jax.jit(jax.sharding.auto_axes(step, out_sharding=P()))(
            params, jax.device_put(x, divided), jax.device_put(labels, divided)
        )
    assert_same(found, jax.jit(step)(params, x, labels))


OVER = "of shape (4, 2), divided as P"
OUT = "; within jax.sharding.auto_axes, "


@pytest.mark.parametrize(
    ("call", "spec", "sentence"),
    [
        (
            lambda x: concatenate(x, x),
            P(None, "d"),
            f"concatenate: a is float64 {OVER}(None, 'd'), but must be divided by Explicit axes only where the result, "
            f"(4, 4), has the same size{OUT}or in a mesh with Auto axes, it may be",
        ),
        (
            relu.forward,
            P("d"),
            f"relu.forward: an array is float64 {OVER}('d', None), but must not be divided by Explicit axes where "
            f"residuals are given or returned{OUT}around forward and backward, it may be",
        ),
        (
            lambda x: relu.backward(jnp.ones((4, 2)), x),
            P("d"),
            f"relu.backward: an array is float64 {OVER}('d', None), but must not be divided by Explicit axes where "
            f"residuals are given or returned{OUT}around forward and backward, it may be",
        ),
    ],
)
def test_what_explicit_axes_may_not_divide_is_said(call, spec, sentence):
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh), pytest.raises(InputError) as error:
        call(jax.device_put(jnp.ones((4, 2)), NamedSharding(mesh, spec)))
    assert str(error.value).replace("PartitionSpec", "P") == sentence
