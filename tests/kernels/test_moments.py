"""The second moment of patches against the patches themselves, taken place by place with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explicit_patches import seen

from jaxcnn.geometry import resolve
from jaxcnn.kernels import moments, patch_moments
from jaxcnn.verify.cases import find_operation

CONVOLUTIONS = find_operation("conv2d").cases


def of_case(case, rng):
    draw, weight, _ = case.args
    facts = {name: value for name, value in case.hyper.items() if name != "groups"}
    x = rng.standard_normal((3, *draw.shape[1:]))
    return x, resolve("conv2d", x.shape[1:3], weight.shape[:2], **facts), case.hyper.get("groups", 1)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_moments_are_those_of_the_patches(case, rng, float64):
    x, window, groups = of_case(case, rng)
    moment, total = patch_moments(jnp.asarray(x), window, groups)
    a = seen(x, window, groups)
    np.testing.assert_allclose(moment, a.transpose(0, 2, 1) @ a, rtol=0, atol=1e-12 * (a * a).sum())
    np.testing.assert_allclose(total, a.sum(axis=1), rtol=0, atol=1e-12 * abs(a).sum())


@pytest.mark.parametrize("case", [case for case in CONVOLUTIONS if "stride" not in case.hyper], ids=str)
def test_both_ways_agree_where_there_is_no_stride(case, rng, float64):
    """Where most places are outside, too, in which `patch_moments` takes the patches."""
    x, window, _ = of_case(case, rng)
    one, other = (way(jnp.asarray(x), window) for way in (moments._by_distance, moments._by_patches))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * (seen(x, window, 1) ** 2).sum())


@pytest.mark.parametrize(
    ("size", "stride", "kernel"), [((12, 10), 1, 3), ((9, 11), 2, 3)], ids=["by distance", "by patches"]
)
def test_in_float32_it_is_symmetric_and_as_exact_as_a_sum(size, stride, kernel, rng, either):
    """Each entry is a sum of at most N H W products, first with those outside; n roundings walk as sqrt(n) do."""
    x = rng.standard_normal((16, *size, 4)).astype(np.float32)
    window = resolve("conv2d", size, kernel, stride=stride, padding=1)
    moment, _ = patch_moments(jnp.asarray(x), window, 1)
    a = seen(x.astype(np.float64), window, 1)[0]
    off = np.sqrt(x[..., 0].size) * np.finfo(np.float32).eps * float(moment.max())
    np.testing.assert_allclose(moment[0], a.T @ a, rtol=0, atol=off)
    np.testing.assert_allclose(moment[0], moment[0].T, rtol=0, atol=off)
    assert np.linalg.eigvalsh(np.asarray(moment[0], np.float64)).min() > 0


def test_bfloat16_is_summed_in_float32(rng):
    x = jnp.asarray(rng.standard_normal((8, 6, 6, 2)), jnp.bfloat16)
    window = resolve("conv2d", (6, 6), 3, padding=1)
    for found, expected in zip(
        patch_moments(x, window, 1), patch_moments(x.astype(jnp.float32), window, 1), strict=True
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, expected)


def test_patches_are_made_a_few_images_at_a_time(rng):
    """The largest array between is that of some images, not of the batch."""
    x = jnp.asarray(rng.standard_normal((64, 16, 16, 2)), jnp.float32)
    window = resolve("conv2d", (16, 16), 3, stride=2)
    jaxpr = jax.make_jaxpr(lambda x: patch_moments(x, window, 1))(x).jaxpr
    (scan,) = (equation for equation in jaxpr.eqns if equation.primitive.name == "scan")
    assert scan.params["length"] == 64  # 49 places of each image give a product of 18 rows enough terms
