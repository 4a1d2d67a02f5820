"""oneDNN's convolutions and products: exact on whole numbers, called where they can be, and nowhere else.

Where this jaxlib or machine does not carry oneDNN, what the primitives mean is tested, and that nothing else is called.
"""

import os
import platform
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from test_kernels import GEOMETRIES, correlations, plain

from jaxcnn import kernels
from jaxcnn.geometry import resolve
from jaxcnn.kernels import convolution, onednn

CALL = 'custom_call_target="__onednn$'
CARRIED = onednn._callable()


def whole(rng, *shape):
    return jnp.asarray(rng.integers(-3, 4, shape), jnp.float32)


WINDOW = resolve("conv2d", (7, 9), (3, 2), stride=(2, 1), padding=((1, 0), (0, 2)), dilation=(1, 2))
meant = partial(plain, WINDOW, 2)


def convolve(x, weight):
    def by_onednn(x, weight):
        return onednn.convolution(
            x,
            weight,
            strides=WINDOW.stride,
            padding=WINDOW.padding,
            dilation=WINDOW.dilation,
            groups=2,
            labels=kernels.LABELS,
        )

    return onednn.instead_of(meant, by_onednn, x, weight)


def product(a, b):
    return onednn.instead_of(lambda a, b: a.T @ b, onednn.product_of_transposed, a, b)


@pytest.fixture
def arrays(rng):
    return whole(rng, 3, 7, 9, 4), whole(rng, 3, 2, 2, 6)


def compiled(f, *args):
    return jax.jit(f).lower(*args).compile().as_text()


def test_it_is_called_exactly_where_it_is_carried(arrays):
    assert (CALL in compiled(convolve, *arrays)) == CARRIED
    assert (CALL in compiled(product, jnp.ones((3, 2)), jnp.ones((3, 4)))) == CARRIED
    assert onednn.takes(*arrays) == CARRIED


def test_it_is_carried_by_the_jaxlibs_it_was_tried_with():
    """Said in other words, so that a slip in the condition does not switch it off unseen."""
    tried = version("jaxlib") in {"0.10.0", "0.10.1", "0.10.2", "0.11.0", "0.11.1", "0.12.0", "0.12.0.1"}
    cpuinfo = Path("/proc/cpuinfo")
    x86 = platform.machine() == "x86_64" and cpuinfo.exists() and "avx2" in cpuinfo.read_text()
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    assert (tried and x86 and not cache and [d.platform for d in jax.devices()] == ["cpu"]) == CARRIED


@pytest.mark.parametrize("hyper", GEOMETRIES, ids=str)
@pytest.mark.parametrize(
    ("kernel", "in_channels", "out_channels", "groups"),
    [((3, 2), 3, 5, 1), ((2, 3), 7, 9, 1), ((1, 1), 3, 2, 1), ((3, 2), 4, 4, 4), ((3, 2), 3, 6, 3), ((3, 2), 12, 8, 2)],
)
def test_the_correlations_are_exact(rng, hyper, kernel, in_channels, out_channels, groups):
    check_correlations(rng, (18, 9, 11), kernel, in_channels, out_channels, groups, hyper)


@pytest.mark.parametrize(
    ("shape", "kernel", "in_channels", "out_channels", "groups", "hyper"),
    [
        ((1, 1, 1), (1, 1), 6, 4, 2, {}),
        ((2, 5, 4), (5, 4), 7, 3, 1, {}),
        ((3, 5, 5), (3, 3), 1, 1, 1, {"padding": 1}),
        ((1, 5, 5), (3, 3), 8, 4, 1, {"padding": 4, "stride": 11}),
        ((2, 5, 6), (3, 3), 8, 4, 1, {"padding": 3, "stride": 9}),
        ((2, 5, 6), (3, 3), 8, 4, 1, {"padding": ((3, 0), (0, 0)), "stride": 6}),
    ],
)
def test_the_correlations_are_exact_at_the_edge(rng, shape, kernel, in_channels, out_channels, groups, hyper):
    """One pixel, a kernel as large as the image, one map, and windows that see nothing of x."""
    check_correlations(rng, shape, kernel, in_channels, out_channels, groups, hyper)


def test_the_gradient_of_a_kernel_is_exact_in_chunks(rng, monkeypatch):
    monkeypatch.setattr(convolution, "_chunks", lambda x, dy: 3)
    check_correlations(rng, (18, 9, 11), (2, 3), 7, 9, 1, {"padding": 1})


def check_correlations(rng, shape, kernel, in_channels, out_channels, groups, hyper):
    """y, dx and dweight on whole numbers are those of XLA's own convolution and its automatic derivative."""
    window = resolve("conv2d", shape[1:], kernel, **hyper)
    x, weight = whole(rng, *shape, in_channels), whole(rng, *kernel, in_channels // groups, out_channels)
    dy = whole(rng, shape[0], *window.output, out_channels)

    found, expected = correlations(window, groups)
    jax.tree.map(np.testing.assert_array_equal, found(x, weight, dy), expected(x, weight, dy))
    assert (CALL in found.lower(x, weight, dy).compile().as_text()) == CARRIED


def test_the_sum_over_positions_and_the_product_are_exact(rng):
    dy, a, b = whole(rng, 18, 7, 5, 3), whole(rng, 50, 7), whole(rng, 50, 4)
    np.testing.assert_array_equal(jax.jit(kernels.sum_over_positions)(dy), dy.sum((0, 1, 2)))
    np.testing.assert_array_equal(jax.jit(product)(a, b), a.T @ b)


def test_derivatives_and_batches_are_those_of_what_is_meant(rng, arrays):
    x, weight = arrays
    dy, dx = whole(rng, *meant(x, weight).shape), whole(rng, *x.shape)
    gradients = [jax.vjp(f, x, weight)[1](dy) for f in (convolve, meant)]
    jax.tree.map(np.testing.assert_array_equal, *gradients)
    tangents = [jax.jvp(lambda x, f=f: f(x, weight), (x,), (dx,)) for f in (convolve, meant)]
    jax.tree.map(np.testing.assert_array_equal, *tangents)
    many = whole(rng, 5, *x.shape)
    batches = [jax.vmap(f, (0, None))(many, weight) for f in (convolve, meant)]
    np.testing.assert_array_equal(*batches)
    a = whole(rng, 2, 5, 3)
    np.testing.assert_array_equal(jax.vmap(product)(a, a), a.mT @ a)


def test_an_exported_program_has_what_xla_runs_fast(rng, arrays):
    exported = export.export(jax.jit(convolve))(*arrays)
    assert "__onednn" not in exported.mlir_module()
    np.testing.assert_array_equal(exported.call(*arrays), meant(*arrays))
    window = resolve("conv2d", (8, 7), (3, 3), padding=1)
    gradient = jax.jit(lambda x, dy: kernels.kernel_gradient(x, dy, window, 1))
    module = export.export(gradient)(whole(rng, 4, 8, 7, 6), whole(rng, 4, 8, 7, 5)).mlir_module()
    convolutions = [line for line in module.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 1
    assert "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in convolutions[0]


@pytest.mark.parametrize(
    "why",
    ["another jaxlib", "another system", "a compilation cache on disk", "two devices"],
)
def test_it_is_not_called_where_it_would_fail(monkeypatch, arrays, why):
    onednn._carried.cache_clear()
    if why == "another jaxlib":
        monkeypatch.setattr(onednn, "JAXLIB", ())
    elif why == "another system":
        monkeypatch.setattr(onednn.platform, "machine", lambda: "aarch64")
    elif why == "two devices":
        monkeypatch.setattr(jax, "device_count", lambda: 2)
    before = jax.config.values["jax_compilation_cache_dir"]
    if why == "a compilation cache on disk":
        jax.config.update("jax_compilation_cache_dir", "/nowhere")
    try:
        assert not onednn.takes(*arrays)
        lowered = jax.jit(lambda x, weight: convolve(x, weight)).lower(*arrays)  # anew: JAX keeps what it lowered
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        onednn._carried.cache_clear()
    assert "__onednn" not in lowered.as_text()


def test_what_it_does_not_take(arrays):
    x, _ = arrays
    assert not onednn.takes(x.astype(jnp.bfloat16))
    assert not onednn.takes(x[:0])
    assert not onednn.takes(x, padding=((0, 0), (0, -1)))
    assert onednn.takes(x, padding=((0, 0), (0, 1))) == CARRIED
    with pytest.raises(ValueError, match="onednn: matmul of"):
        onednn.product_of_transposed(x[:0, 0, 0], x[:0, 0, 0])


def test_images_have_their_channels_last_in_each_call(rng):
    """Else oneDNN computes with its reference loops, a thousand times as long."""
    x, weight, dy = whole(rng, 4, 8, 7, 6), whole(rng, 3, 3, 6, 5), whole(rng, 4, 8, 7, 5)
    window = resolve("conv2d", (8, 7), (3, 3), padding=1)

    def both(x, weight, dy):
        return kernels.correlate(x, weight, window, 1), kernels.kernel_gradient(x, dy, window, 1)

    text = jax.jit(both).lower(x, weight, dy).as_text().replace("\\22", '"')
    calls = [line for line in text.splitlines() if "@__onednn$convolution" in line]
    assert len(calls) == 2 * CARRIED
    for call, dims in zip(calls, (4, 5), strict=False):
        last = f'{{"batch_dim": 0, "feature_dim": {dims - 1}, "spatial_dims": {list(range(1, dims - 1))}}}'
        assert call.count(last) == 2
