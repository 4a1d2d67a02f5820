"""Each fast formulation equals the plain one, and stays in the compiled program."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import (
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    ReLU,
    Sequential,
    SoftmaxCrossEntropy,
    compiler_options,
    kernels,
    relu_after_pool,
)
from jaxcnn.geometry import resolve
from jaxcnn.kernels import LABELS, onednn, program
from jaxcnn.layers.conv import conv2d
from jaxcnn.verify.tolerances import relative_error, tolerance

GEOMETRIES = [
    {},
    {"stride": (2, 3)},
    {"padding": ((1, 0), (0, 2)), "stride": 2},
    {"dilation": (2, 1), "padding": "SAME"},
    {"stride": (1, 4), "dilation": (1, 2), "padding": 2},
]


def plain(window, groups, x, weight):
    return jax.lax.conv_general_dilated(
        x,
        weight,
        window.stride,
        window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=groups,
        dimension_numbers=LABELS,
    )


def correlations(window, groups):
    """y, dx, dweight and dbias of (x, weight, bias, dy) by the lowering, and by XLA's convolution differentiated."""

    @jax.jit
    def expected(x, weight, bias, dy):
        y, pullback = jax.vjp(lambda x, weight, bias: plain(window, groups, x, weight) + bias, x, weight, bias)
        return y, *pullback(dy)

    @jax.jit
    def found(x, weight, bias, dy):
        return (
            kernels.correlate(x, weight, bias, window, groups),
            kernels.input_gradient(dy, weight, window, groups),
            *kernels.kernel_gradient(x, dy, window, groups, bias=True),
        )

    return found, expected


def is_convolution(line):
    """Of a compiled program: XLA's own or oneDNN's."""
    return " convolution(" in line or 'custom_call_target="jaxcnn_' in line


@pytest.mark.parametrize("hyper", GEOMETRIES, ids=str)
@pytest.mark.parametrize(
    ("name", "kernel", "in_channels", "out_channels", "groups"),
    [
        ("plain", (3, 2), 9, 5, 1),
        ("few maps", (3, 2), 3, 8, 1),
        ("one map", (3, 2), 1, 4, 1),
        ("to one map", (2, 3), 9, 1, 1),
        ("more taps than are written out", (7, 5), 1, 1, 1),
        ("one tap", (1, 1), 3, 2, 1),
        ("depthwise", (3, 2), 4, 4, 4),
        ("depthwise, two of each", (3, 2), 3, 6, 3),
        ("grouped", (3, 2), 4, 6, 2),
    ],
)
@pytest.mark.usefixtures("float64", "without_onednn")
def test_every_formulation_is_the_convolution(rng, hyper, name, kernel, in_channels, out_channels, groups):
    """y, dx, dweight and dbias against XLA's own convolution and its automatic derivative."""
    x = jnp.asarray(rng.standard_normal((18, 15, 13, in_channels)))
    weight = jnp.asarray(rng.standard_normal((*kernel, in_channels // groups, out_channels)))
    window = resolve("conv2d", x.shape[1:3], kernel, **hyper)
    dy = jnp.asarray(rng.standard_normal((18, *window.output, out_channels)))
    bias = jnp.asarray(rng.standard_normal(out_channels))

    found, expected = correlations(window, groups)
    positions = 18 * int(np.prod(window.output))
    lengths = (weight[..., 0].size + 1, int(np.prod(kernel)) * out_channels // groups, positions, positions)
    truth = expected(x, weight, bias, dy)
    for dtype in (jnp.float64, jnp.float32) if hyper in GEOMETRIES[::4] else (jnp.float64,):
        results = found(*(jnp.asarray(a, dtype) for a in (x, weight, bias, dy)))
        for result, true, length in zip(results, truth, lengths, strict=True):
            assert result.dtype == dtype
            assert relative_error(result, true) <= tolerance(dtype, length)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
@pytest.mark.usefixtures("float64")
def test_the_sum_over_positions_is_the_sum(rng, dtype):
    dy = jnp.asarray(rng.standard_normal((18, 7, 5, 3)), dtype)
    found, expected = kernels.sum_over_positions(dy), np.asarray(dy, np.float64).sum((0, 1, 2))
    assert (found.shape, found.dtype) == ((3,), dtype)
    sizes = (
        np.abs(np.asarray(dy, np.float64)).sum((0, 1, 2)).max()
    )  # n rounded additions at worst: sqrt(n) eps of these
    assert relative_error(np.asarray(found, np.float64), expected, sizes) <= tolerance(dtype, 18 * 7 * 5)


def test_what_is_materialized_is_not_fused_away():
    """Without the boundary the product ends in one fusion with the sum; with it a call stays between them."""

    def f(barrier, x):
        return (barrier(x * 3) + 1).sum(axis=0)

    x = jnp.ones((32, 32))
    kept = jax.jit(lambda x: f(kernels.materialized, x)).lower(x).compile().as_text()
    fused = jax.jit(lambda x: f(lambda x: x, x)).lower(x).compile().as_text()
    assert 'inlineable="false"' in kept
    assert 'inlineable="false"' not in fused


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(("index", "count"), [(0, 1), (1, 1), (slice(0, 2), 2)])
def test_what_nobody_asks_for_is_not_computed(index, count):
    """dx alone is one convolution, though the gradient of the kernel stands before it."""
    x, weight, dy = jnp.ones((4, 8, 7, 32)), jnp.ones((3, 3, 32, 64)), jnp.ones((4, 8, 7, 64))
    backward = jax.jit(lambda *args: conv2d.backward(*args, padding=1)[index])
    compiled = backward.lower((x, weight, None), dy).compile().as_text()
    assert sum(map(is_convolution, compiled.splitlines())) == count


@pytest.mark.usefixtures("either")
def test_the_gradient_of_a_kernel_is_computed_before_dx_so_that_x_can_be_given_back():
    """In the compiled schedule on CPU."""
    x, weight, dy = jnp.ones((4, 8, 7, 32)), jnp.ones((3, 3, 32, 64)), jnp.ones((4, 8, 7, 64))
    backward = jax.jit(lambda *args: conv2d.backward(*args, padding=1), compiler_options=compiler_options())
    compiled = backward.lower((x, weight, None), dy).compile().as_text()
    results = [re.search(r"= \(?f32\[([\d,]+)", line)[1] for line in compiled.splitlines() if is_convolution(line)]
    sizes = [int(np.prod([int(n) for n in result.split(",")])) for result in results]
    assert sizes == [weight.size, x.size]


@pytest.mark.usefixtures("either")
def test_no_select_and_scatter_no_odd_labels_and_no_second_copy_in_a_training_step():
    """Three convolutions forwards, three for the kernels, two for the inputs: the first input needs no gradient."""
    layers = [layer for channels in (8, 9, 10) for layer in (Conv2d(channels, 3, padding=1), ReLU(), MaxPool2d(2))]
    network, loss = Sequential([*layers, Flatten(), Dense(3)]), SoftmaxCrossEntropy()
    params = network.init(jax.random.key(0), (16, 16, 4))

    def step(params, x):
        y, residuals = network.forward(params, x)
        return network.backward(residuals, loss.backward(loss.forward(y, jnp.zeros(2, int))[1]))[1]

    lowered = jax.jit(lambda p, x: jax.lax.scan(lambda p, x: (step(p, x), None), p, x)[0]).lower(
        params, jnp.ones((3, 2, 16, 16, 4))
    )
    assert "select_and_scatter" not in lowered.as_text()
    compiled = lowered.compile().as_text()
    convolutions = [line for line in compiled.splitlines() if is_convolution(line)]
    assert len(convolutions) == 8
    called = ["custom_call_target" in line for line in convolutions]
    assert all(called) if onednn.why_not() is None else not any(called)
    assert all("dim_labels=b01f_01io->b01f" in line for line in convolutions if "custom_call_target" not in line)


@pytest.mark.usefixtures("float64")
def test_relu_after_pool_is_the_same_function_with_the_same_gradients(rng):
    inner = Sequential((Conv2d(3, 2), ReLU(), MaxPool2d(2, stride=1)))
    network = Sequential((Conv2d(2, 3), ReLU(), MaxPool2d(3, stride=2, padding=1), inner, Flatten(), Dense(2)))
    moved = relu_after_pool(network)
    assert moved.names[1:3] == ("maxpool1", "relu1")
    assert moved.layers[3].names == ("conv1", "maxpool1", "relu1")
    params = network.init(jax.random.key(0), (9, 8, 1))
    # whole numbers: windows tie, windows are dead, and sums are exact
    params = jax.tree.map(lambda w: jnp.asarray(rng.integers(-2, 2, w.shape), float), params)
    x, dy = jnp.asarray(rng.integers(-2, 3, (3, 9, 8, 1)), float), jnp.asarray(rng.integers(-3, 4, (3, 2)), float)
    results = []
    for net in (network, moved):
        y, residuals = jax.jit(net.forward)(params, x)
        results.append((y, jax.jit(net.backward)(residuals, dy)))
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert any(leaf.any() for leaf in jax.tree.leaves(results[0]))


def test_compiler_options_can_be_used_and_are_harmless_where_unknown(monkeypatch):
    assert jax.jit(lambda x: 2 * x, compiler_options=compiler_options())(3) == 6
    monkeypatch.setattr(program, "OPTIONS", {"xla_no_such_option": "1"})
    assert compiler_options() == {}
