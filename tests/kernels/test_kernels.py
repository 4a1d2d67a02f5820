"""Each fast formulation equals the plain one, and stays in the compiled program."""

from functools import partial

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
from jaxcnn.kernels import LABELS, convolution, onednn, program
from jaxcnn.kernels.fold import Fold
from jaxcnn.kernels.phases import Phases
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
    """y, dx and dweight of (x, weight, dy) by the lowering, and by XLA's convolution and its automatic derivative."""

    @jax.jit
    def expected(x, weight, dy):
        y, pullback = jax.vjp(partial(plain, window, groups), x, weight)
        return y, *pullback(dy)

    @jax.jit
    def found(x, weight, dy):
        return (
            kernels.correlate(x, weight, window, groups),
            kernels.input_gradient(dy, weight, window, groups),
            kernels.kernel_gradient(x, dy, window, groups),
        )

    return found, expected


def is_convolution(line):
    """Of a compiled program: XLA's own or oneDNN's."""
    return " convolution(" in line or 'custom_call_target="__onednn$convolution"' in line


@pytest.fixture
def without_onednn(monkeypatch):
    """As on a machine or with a jaxlib that does not carry it."""
    monkeypatch.setattr(onednn, "_callable", lambda: False)


@pytest.mark.parametrize("hyper", GEOMETRIES, ids=str)
@pytest.mark.parametrize(
    ("name", "kernel", "in_channels", "out_channels", "groups"),
    [
        ("folded", (3, 2), 3, 5, 1),
        ("few maps", (3, 2), 2, 8, 1),
        ("in chunks", (3, 2), 6, 24, 1),
        ("folded back", (2, 3), 20, 3, 1),
        ("a product", (1, 1), 3, 2, 1),
        ("depthwise", (3, 2), 4, 4, 4),
        ("depthwise, two of each", (3, 2), 3, 6, 3),
        ("grouped", (3, 2), 4, 6, 2),
    ],
)
@pytest.mark.usefixtures("float64", "without_onednn")
def test_every_formulation_is_the_convolution(rng, monkeypatch, hyper, name, kernel, in_channels, out_channels, groups):
    """y, dweight and dx against XLA's own convolution and its automatic derivative, in two chunks of nine samples."""
    monkeypatch.setattr(convolution, "_chunks", lambda x, dy: 2)
    x = jnp.asarray(rng.standard_normal((18, 9, 11, in_channels)))
    weight = jnp.asarray(rng.standard_normal((*kernel, in_channels // groups, out_channels)))
    window = resolve("conv2d", x.shape[1:3], kernel, **hyper)
    dy = jnp.asarray(rng.standard_normal((18, *window.output, out_channels)))

    found, expected = correlations(window, groups)
    lengths = (weight[..., 0].size, int(np.prod(kernel)) * out_channels // groups, 18 * int(np.prod(window.output)))
    truth = expected(x, weight, dy)
    for dtype in (jnp.float64, jnp.float32) if hyper in GEOMETRIES[::4] else (jnp.float64,):
        results = found(*(jnp.asarray(a, dtype) for a in (x, weight, dy)))
        for result, true, length in zip(results, truth, lengths, strict=True):
            assert result.dtype == dtype
            assert relative_error(result, true) <= tolerance(dtype, length)


@pytest.mark.parametrize("columns", [2, 3, 8])
@pytest.mark.parametrize("hyper", GEOMETRIES, ids=str)
def test_a_fold_is_the_convolution_exactly(rng, hyper, columns):
    """Whole numbers: no rounding hides a misplaced tap."""
    x = jnp.asarray(rng.integers(-3, 4, (2, 7, 13, 3)), jnp.float32)
    weight = jnp.asarray(rng.integers(-3, 4, (2, 3, 3, 2)), jnp.float32)
    window = resolve("conv2d", (7, 13), (2, 3), **hyper)
    fold = Fold(window, columns)
    folded = plain(fold.window, 1, fold.image(x), fold.kernel(weight))
    assert folded.shape[1:3] == fold.window.output
    np.testing.assert_array_equal(fold.result(folded), plain(window, 1, x, weight))


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("hyper", GEOMETRIES, ids=str)
def test_the_gradient_of_a_folded_kernel_is_that_of_the_kernel_exactly(rng, hyper, columns):
    """Every element of dw' that (3) filled goes back to its tap, and no other."""
    weight = jnp.asarray(rng.integers(-3, 4, (2, 3, 3, 2)), jnp.float32)
    fold = Fold(resolve("conv2d", (7, 13), (2, 3), **hyper), columns)
    folded, pullback = jax.vjp(fold.kernel, weight)
    dfolded = jnp.asarray(rng.integers(-3, 4, folded.shape), jnp.float32)
    np.testing.assert_array_equal(fold.kernel_gradient(dfolded), pullback(dfolded)[0])


@pytest.mark.parametrize("hyper", [*GEOMETRIES, {"stride": 5}, {"stride": 4, "dilation": 2, "padding": 1}], ids=str)
def test_the_phases_are_the_correlation_of_the_spread_input_exactly(rng, hyper):
    """Also where a phase has no tap, where the dilation meets the stride, and where the padding is cut off."""
    window = resolve("conv2d", (11, 13), (2, 3), **hyper).backward
    x = jnp.asarray(rng.integers(-3, 4, (2, *window.size, 3)), jnp.float32)
    weight = jnp.asarray(rng.integers(-3, 4, (2, 3, 3, 2)), jnp.float32)
    expected = jax.lax.conv_general_dilated(
        x, weight, (1, 1), window.padding, window.spread, window.dilation, dimension_numbers=LABELS
    )
    phases = Phases(window)
    y = plain(phases.window, 1, x, phases.kernel(weight))
    assert y.shape[1:3] == phases.window.output
    np.testing.assert_array_equal(phases.result(y), expected)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
@pytest.mark.usefixtures("float64", "without_onednn")
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
    if jax.default_backend() == "cpu":
        assert 'inlineable="false"' in kept
    assert 'inlineable="false"' not in fused


@pytest.fixture(params=["by oneDNN", "by XLA"])
def either(request):
    """With and without oneDNN, where it is carried."""
    if request.param == "by XLA":
        request.getfixturevalue("without_onednn")


@pytest.mark.usefixtures("either")
def test_the_gradient_of_a_kernel_is_computed_before_dx_so_that_x_can_be_given_back():
    """In the compiled schedule on CPU; elsewhere XLA may choose."""
    x, weight, dy = jnp.ones((4, 8, 7, 32)), jnp.ones((3, 3, 32, 64)), jnp.ones((4, 8, 7, 64))
    backward = jax.jit(lambda *args: conv2d.backward(*args, padding=1), compiler_options=compiler_options())
    compiled = backward.lower((x, weight, None), dy).compile().as_text()
    results = [line.split("= f32[")[1].split("]")[0] for line in compiled.splitlines() if is_convolution(line)]
    sizes = [int(np.prod([int(n) for n in result.split(",")])) for result in results]
    assert sorted(sizes) == sorted((weight.size, x.size))
    if jax.default_backend() == "cpu":
        assert sizes == [weight.size, x.size]


@pytest.mark.usefixtures("either")
def test_no_select_and_scatter_no_odd_labels_and_no_second_copy_in_a_training_step():
    """Three convolutions forwards, three for the kernels, two for the inputs: the first input needs no gradient."""
    layers = [layer for channels in (4, 5, 6) for layer in (Conv2d(channels, 3, padding=1), ReLU(), MaxPool2d(2))]
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
    assert any("__onednn" in line for line in convolutions) == onednn._callable()
    assert all("dim_labels=b01f_01io->b01f" in line for line in convolutions if "__onednn" not in line)


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
