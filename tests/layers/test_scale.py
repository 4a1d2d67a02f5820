import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_autograd import assert_same_as_torch

from jaxcnn import InputError, Scale, scale, spec_from_json, spec_to_json, summary


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 2), (4,)])
def test_value_and_gradients_are_pytorchs(shape, rng):
    assert_same_as_torch(scale, lambda x, f: x * f, [rng.standard_normal(shape), rng.standard_normal(shape[-1])])


@pytest.mark.usefixtures("float64")
def test_each_map_has_its_own_factor(rng):
    """[N25]."""
    x, factor, dy = rng.standard_normal((2, 3, 4, 2)), rng.standard_normal(2), rng.standard_normal((2, 3, 4, 2))
    y, residuals = scale.forward(x, factor)
    dx, dfactor = scale.backward(residuals, dy)
    for c in range(2):
        np.testing.assert_allclose(y[..., c], factor[c] * x[..., c], rtol=1e-14)
        np.testing.assert_allclose(dx[..., c], factor[c] * dy[..., c], rtol=1e-14)
        np.testing.assert_allclose(dfactor[c], (dy[..., c] * x[..., c]).sum(), rtol=1e-12)


def test_the_gradient_of_bfloat16_is_summed_in_float32():
    """1.6171875^2, one hundred times, is 261.53: 262 in bfloat16, but 260 of products that were rounded to it first."""
    x = jnp.full((100, 1), 1.6171875, jnp.bfloat16)
    exactly = {"xla_allow_excess_precision": False}
    _, residuals = scale.forward(x, jnp.ones(1, jnp.bfloat16))
    _, dfactor = jax.jit(lambda dy: scale.backward(residuals, dy), compiler_options=exactly)(x)
    assert (dfactor.dtype, float(dfactor[0])) == (jnp.bfloat16, 262)


def test_the_spec_starts_at_one_and_counts_a_product_for_each_entry():
    layer = Scale()
    params = layer.init(jax.random.key(0), (4, 5, 3))
    np.testing.assert_array_equal(params["factor"], [1, 1, 1])
    x = jnp.arange(120.0).reshape(2, 4, 5, 3)
    np.testing.assert_array_equal(layer.apply(params, x), x)
    _, grads = layer.backward(layer.forward(params, x)[1], jnp.ones_like(x))
    np.testing.assert_array_equal(grads["factor"], x.sum((0, 1, 2)))
    total = summary(layer, (4, 5, 3)).total
    assert (total.parameters, total.multiply_adds, total.output_shape) == (3, 60, (4, 5, 3))
    assert layer.init(jax.random.key(0), (7,))["factor"].shape == (7,)
    assert spec_from_json(spec_to_json(layer)) == layer


def test_errors_are_one_sentence():
    x = jnp.ones((2, 4, 3))
    for call, message in (
        (lambda: scale(x, jnp.ones(4)), "scale: factor has shape (4,) but must have shape (3,)"),
        (lambda: scale(x, jnp.ones(())), "scale: factor has shape () but must have shape (3,)"),
        (lambda: scale(jnp.ones(()), jnp.ones(1)), "scale: x has shape () but must have at least one dimension"),
        (
            lambda: scale(x, jnp.ones(3, jnp.bfloat16)),
            "scale: factor is bfloat16 but x is float32; they must have one dtype",
        ),
        (
            lambda: scale.backward(scale.forward(x, jnp.ones(3))[1], x[0]),
            "scale.backward: dy has shape (4, 3) but must have shape (2, 4, 3)",
        ),
        (
            lambda: Scale().init(jax.random.key(0), ()),
            "scale: the input has shape () but must have at least one dimension",
        ),
        (lambda: Scale().apply({}, x), "Scale: params has [] but must have 'factor'"),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == message
