import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_autograd import assert_same_as_torch

from jaxcnn import (
    BatchNorm,
    GroupNorm,
    InputError,
    InstanceNorm,
    LayerNorm,
    batch_norm,
    fixed_batch_norm,
    group_norm,
    init_statistics,
    instance_norm,
    layer_norm,
    merged,
)

NORMS = {batch_norm: {}, layer_norm: {}, instance_norm: {}, group_norm: {"groups": 2}}


def drawn(rng, shape=(4, 5, 3, 6), dtype=jnp.float32):
    return [jnp.asarray(rng.standard_normal(s), dtype) for s in (shape, shape[-1:], shape[-1:])]


def together(op, x):
    """The entries (N, H, W, 6) with those that are normalised together in a column, float64."""
    x = np.asarray(x, np.float64)
    rows = x.reshape(len(x), -1, 6)
    return {
        batch_norm: rows.reshape(-1, 6),
        layer_norm: rows.reshape(-1, 6).T,
        instance_norm: rows.swapaxes(0, 1),
        group_norm: rows.reshape(len(x), -1, 2, 3).transpose(1, 3, 0, 2).reshape(-1, 2 * len(x)),
    }[op]


@pytest.mark.parametrize("op", NORMS)
def test_what_is_normalised_together_has_mean_0_and_variance_1(op, rng):
    x = 3 * drawn(rng)[0] + 7
    y = together(op, op(x, jnp.ones(6), jnp.zeros(6), **NORMS[op], epsilon=1e-12))
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(0), 1, atol=1e-5)


def test_groups_of_one_channel_and_of_all():
    """One channel a group is instance norm; one group is layer norm over the sample (Wu & He, section 3.1)."""
    x, scale, bias = drawn(np.random.default_rng(3))
    np.testing.assert_allclose(
        group_norm(x, scale, bias, groups=6), instance_norm(x, scale, bias), rtol=1e-5, atol=1e-6
    )
    flat = group_norm(x.reshape(4, 90), jnp.ones(90), jnp.zeros(90), groups=1).reshape(x.shape)
    np.testing.assert_allclose(group_norm(x, scale, bias, groups=1), scale * flat + bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 5, 3, 6), (7, 6)])
def test_pytorch_has_the_same_values_and_gradients(shape, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    arrays = [np.asarray(rng.standard_normal(s)) for s in (shape, (6,), (6,))]
    functional, maps = torch.nn.functional, len(shape) == 4

    def channels_second(function):
        return lambda x, *others: function(x.movedim(-1, 1), *others).movedim(1, -1)

    def by_batch(x, scale, bias):
        return functional.batch_norm(x, None, None, scale, bias, training=True)

    def fixed(x, scale, bias, mean, variance):  # PyTorch has no gradients of the last two
        return scale.view(-1, *[1] * (x.ndim - 2)) * (x - mean.view(-1, *[1] * (x.ndim - 2))) / (
            variance.view(-1, *[1] * (x.ndim - 2)) + 1e-5
        ).sqrt() + bias.view(-1, *[1] * (x.ndim - 2))

    assert_same_as_torch(batch_norm, channels_second(by_batch), arrays)
    assert_same_as_torch(layer_norm, lambda x, s, b: functional.layer_norm(x, (6,), s, b), arrays)
    by_group = channels_second(lambda x, s, b: functional.group_norm(x, 3, s, b))
    assert_same_as_torch(group_norm, by_group, arrays, groups=3)
    if maps:
        by_map = channels_second(lambda x, s, b: functional.instance_norm(x, weight=s, bias=b))
        assert_same_as_torch(instance_norm, by_map, arrays)
    given = [rng.standard_normal(6), rng.uniform(1, 2, 6)]
    assert_same_as_torch(fixed_batch_norm, channels_second(fixed), [*arrays, *given])

    def evaluated(x, scale, bias):
        return functional.batch_norm(x, torch.tensor(given[0]), torch.tensor(given[1]), scale, bias)

    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    y = channels_second(evaluated)(*tensors)
    dy = rng.standard_normal(shape)
    y.backward(torch.tensor(dy))
    with jax.enable_x64(True):
        ours, residuals = fixed_batch_norm.forward(*arrays, *given)
        np.testing.assert_allclose(ours, y.detach().numpy(), rtol=1e-10)
        for grad, tensor in zip(fixed_batch_norm.backward(residuals, dy), tensors, strict=False):
            np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("op", NORMS)
def test_a_constant_gives_the_bias_and_no_gradient(op):
    """(1)-(6) with v = 0: xh = 0, and d minus its mean is all that could pass; constant dy gives none."""
    x, scale, bias = jnp.full((3, 2, 2, 4), 5.0), jnp.array([1.0, 1, 1, 1]), jnp.array([0.0, 1, 2, 3])
    y, residuals = op.forward(x, scale, bias, **NORMS[op])
    np.testing.assert_array_equal(y, jnp.broadcast_to(bias, x.shape))
    dx, dscale, dbias = op.backward(residuals, jnp.full(x.shape, 2.0), epsilon=1e-5, **NORMS[op])
    np.testing.assert_array_equal(dx, 0)
    np.testing.assert_array_equal(dscale, 0)
    np.testing.assert_array_equal(dbias, 24)


def test_a_batch_of_one_row_gives_the_bias_and_no_gradient(rng):
    x, scale, bias = drawn(rng, (1, 6))
    y, residuals = batch_norm.forward(x, scale, bias)
    np.testing.assert_array_equal(y[0], bias)
    np.testing.assert_array_equal(batch_norm.backward(residuals, jnp.ones((1, 6)), epsilon=1e-5)[0], 0)


@pytest.mark.parametrize("op", NORMS)
def test_a_small_variance_on_a_large_mean_is_found_in_float32(op, rng):
    """m is rounded to a step of float32 at 10,000, 2**-10, by half of it; a mean of squares would be wrong by 8."""
    x = jnp.asarray(1e4 + rng.standard_normal((64, 16, 16, 6)), jnp.float32)
    y = together(op, op(x, jnp.ones(6), jnp.zeros(6), **NORMS[op]))
    entries = together(op, x)
    deviation = np.sqrt(entries.var(0) + 1e-5)
    assert np.abs((y - (entries - entries.mean(0)) / deviation) * deviation).max() < 2.0**-10


@pytest.mark.parametrize("op", NORMS)
def test_bfloat16_is_summed_in_float32_and_rounded_once(op, rng):
    x, scale, bias = drawn(rng, (32, 16, 16, 6), jnp.bfloat16)
    wide = [a.astype(jnp.float32) for a in (x, scale, bias)]
    y, residuals = op.forward(x, scale, bias, **NORMS[op])
    assert y.dtype == jnp.bfloat16
    truth, kept = op.forward(*wide, **NORMS[op])
    np.testing.assert_array_equal(y, truth.astype(jnp.bfloat16))
    dy = jnp.asarray(rng.standard_normal(x.shape), jnp.bfloat16)
    grads = op.backward(residuals, dy, epsilon=1e-5, **NORMS[op])
    truths = op.backward(kept, dy.astype(jnp.float32), epsilon=1e-5, **NORMS[op])
    for grad, true in zip(grads, truths, strict=True):
        assert grad.dtype == jnp.bfloat16
        np.testing.assert_array_equal(grad, true.astype(jnp.bfloat16))


def test_nan_spoils_what_is_normalised_with_it_alone(rng):
    x, scale, bias = drawn(rng, (2, 3, 3, 4))
    x = x.at[0, 0, 0, 1].set(jnp.nan)
    spoilt = {op: int(jnp.isnan(op(x, scale, bias, **NORMS[op])).sum()) for op in NORMS}
    assert spoilt == {batch_norm: 18, layer_norm: 4, instance_norm: 9, group_norm: 18}


def test_the_layer_normalises_by_the_batch_in_training_and_by_statistics_otherwise(rng):
    x, scale, bias = drawn(rng)
    norm, params = BatchNorm(), {"scale": scale, "bias": bias}
    np.testing.assert_array_equal(norm.apply(params, x, train=True), batch_norm(x, scale, bias))
    y, residuals = norm.forward(params, x, train=True)
    found = norm.statistics(residuals)
    np.testing.assert_allclose(found["mean"], x.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(found["variance"], x.var((0, 1, 2)), rtol=1e-5)
    assert found["count"] == 60
    given = {"mean": found["mean"], "variance": found["variance"]}
    np.testing.assert_allclose(norm.apply(merged(params, given), x), y, atol=1e-6)
    y, residuals = norm.forward(merged(params, given), x)
    assert norm.statistics(residuals) == {}
    dx, grads = norm.backward(residuals, jnp.ones_like(y))
    assert set(grads) == {"scale", "bias", "mean", "variance"}
    np.testing.assert_allclose(dx, jnp.broadcast_to(scale / jnp.sqrt(given["variance"] + 1e-5), x.shape), rtol=1e-5)


def test_what_does_not_fit_is_refused():
    norm, x = BatchNorm(), jnp.ones((2, 3))
    params = norm.init(jax.random.key(0), (3,))
    with pytest.raises(InputError, match="BatchNorm: params has no mean and variance but must have them when train is"):
        norm.apply(params, x)
    evaluated = merged(params, init_statistics(norm, params, (3,)))
    with pytest.raises(InputError, match="but must be without statistics when train is True"):
        norm.apply(evaluated, x, train=True)
    with pytest.raises(InputError, match="group_norm: groups is 4 but must divide the 6 channels"):
        GroupNorm(4).init(jax.random.key(0), (2, 2, 6))
    with pytest.raises(InputError, match=r"BatchNorm: epsilon is 0 but must be a finite number above 0"):
        BatchNorm(0)
    with pytest.raises(InputError, match=r"LayerNorm: epsilon is nan but"):
        LayerNorm(float("nan"))
    with pytest.raises(InputError, match=r"instance_norm: x has shape \(2, 3\) but must have at least 3 dimensions"):
        InstanceNorm().apply(params, x)
    with pytest.raises(InputError, match=r"batch_norm: scale has shape \(4,\) but must have shape \(3,\)"):
        batch_norm(x, jnp.ones(4), jnp.ones(3))
    with pytest.raises(InputError, match=r"fixed_batch_norm: variance has shape \(1,\) but must have shape \(3,\)"):
        fixed_batch_norm(x, *[jnp.ones(3)] * 3, jnp.ones(1))
