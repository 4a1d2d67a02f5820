"""oneDNN's convolutions and products: exact on whole numbers, called where they can be, and nowhere else.

Where this jaxlib or machine does not carry oneDNN, what the primitives mean is tested, and that nothing else is called.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from test_lowering import GEOMETRIES, _rot180, plain

from jaxcnn import lowering
from jaxcnn.geometry import resolve
from jaxcnn.lowering import onednn

CALL = 'custom_call_target="__onednn$'
CARRIED = onednn._carried() and jax.default_backend() == "cpu"


def whole(rng, *shape):
    return jnp.asarray(rng.integers(-3, 4, shape), jnp.float32)


def convolve(x, weight):
    return onednn.convolution(
        x,
        weight,
        strides=(2, 1),
        padding=((1, 0), (0, 2)),
        dilation=(1, 2),
        groups=2,
        labels=("NHWC", "HWIO", "NHWC"),
    )


def meant(x, weight):
    return plain(
        resolve("conv2d", (7, 9), (3, 2), stride=(2, 1), padding=((1, 0), (0, 2)), dilation=(1, 2)), 2, x, weight
    )


@pytest.fixture
def arrays(rng):
    return whole(rng, 3, 7, 9, 4), whole(rng, 3, 2, 2, 6)


def compiled(f, *args):
    return jax.jit(f).lower(*args).compile().as_text()


def test_it_is_called_exactly_where_it_is_carried(arrays):
    assert (CALL in compiled(convolve, *arrays)) == CARRIED
    assert (CALL in compiled(onednn.product_of_transposed, jnp.ones((3, 2)), jnp.ones((3, 4)))) == CARRIED
    assert onednn.takes(*arrays) == CARRIED


@pytest.mark.parametrize("hyper", GEOMETRIES, ids=str)
@pytest.mark.parametrize(
    ("kernel", "in_channels", "out_channels", "groups"),
    [((3, 2), 3, 5, 1), ((2, 3), 7, 6, 1), ((1, 1), 3, 2, 1), ((3, 2), 4, 4, 4), ((3, 2), 3, 6, 3), ((3, 2), 12, 8, 2)],
)
def test_the_correlations_are_exact(rng, hyper, kernel, in_channels, out_channels, groups):
    """y, dx and dweight on whole numbers, 18 samples, of an image large enough for two chunks of nine in one case."""
    size = (40, 41) if in_channels == 7 and not hyper else (9, 11)
    window = resolve("conv2d", size, kernel, **hyper)
    x, weight = whole(rng, 18, *size, in_channels), whole(rng, *kernel, in_channels // groups, out_channels)
    dy = whole(rng, 18, *window.output, out_channels)

    @jax.jit
    def expected(x, weight, dy):
        y, pullback = jax.vjp(partial(plain, window, groups), x, weight)
        return y, *pullback(dy)

    @jax.jit
    def found(x, weight, dy):
        return (
            lowering.correlate(x, weight, window, groups),
            lowering.correlate(dy, _rot180(weight, groups), window.backward, groups),
            lowering.kernel_gradient(x, dy, window, groups),
        )

    jax.tree.map(np.testing.assert_array_equal, found(x, weight, dy), expected(x, weight, dy))
    assert (CALL in found.lower(x, weight, dy).compile().as_text()) == CARRIED


def test_the_sum_over_positions_and_the_product_are_exact(rng):
    dy, a, b = whole(rng, 18, 7, 5, 3), whole(rng, 50, 7), whole(rng, 50, 4)
    np.testing.assert_array_equal(jax.jit(lowering.sum_over_positions)(dy), dy.sum((0, 1, 2)))
    np.testing.assert_array_equal(jax.jit(onednn.product_of_transposed)(a, b), a.T @ b)


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
    np.testing.assert_array_equal(jax.vmap(onednn.product_of_transposed)(a, a), a.mT @ a)


def test_an_exported_program_has_what_is_meant(arrays):
    exported = export.export(jax.jit(convolve))(*arrays)
    assert "__onednn" not in exported.mlir_module()
    np.testing.assert_array_equal(exported.call(*arrays), meant(*arrays))


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
        monkeypatch.setattr(jax, "local_device_count", lambda backend=None: 2)
    else:
        jax.config.update("jax_compilation_cache_dir", "/nowhere")
    try:
        assert not onednn.takes(*arrays)
        lowered = jax.jit(lambda x, weight: convolve(x, weight)).lower(*arrays)  # anew: JAX keeps what it lowered
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        onednn._carried.cache_clear()
    assert "__onednn" not in lowered.as_text()


def test_what_it_does_not_take(arrays):
    x, _ = arrays
    assert not onednn.takes(x.astype(jnp.bfloat16))
    assert not onednn.takes(x[:0])
    assert not onednn.takes(x, padding=((0, 0), (0, -1)))
    assert onednn.takes(x, padding=((0, 0), (0, 1))) == CARRIED


def test_images_have_their_channels_last_in_each_call(rng):
    """Else oneDNN computes with its reference loops, a thousand times as long."""
    x, weight, dy = whole(rng, 4, 8, 7, 6), whole(rng, 3, 3, 6, 5), whole(rng, 4, 8, 7, 5)
    window = resolve("conv2d", (8, 7), (3, 3), padding=1)

    def both(x, weight, dy):
        return lowering.correlate(x, weight, window, 1), lowering.kernel_gradient(x, dy, window, 1)

    text = jax.jit(both).lower(x, weight, dy).as_text().replace("\\22", '"')
    calls = [line for line in text.splitlines() if "@__onednn$convolution" in line]
    assert len(calls) == 2 * CARRIED
    for call, dims in zip(calls, (4, 5), strict=False):
        last = f'{{"batch_dim": 0, "feature_dim": {dims - 1}, "spatial_dims": {list(range(1, dims - 1))}}}'
        assert call.count(last) == 2
