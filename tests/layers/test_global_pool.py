import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_autograd import assert_same_as_torch

from jaxcnn import GlobalAvgPool2d, GlobalMaxPool2d, InputError, global_avg_pool2d, global_max_pool2d

BOTH = [global_avg_pool2d, global_max_pool2d]


def test_value_and_gradients_are_pytorchs(rng):
    x = rng.standard_normal((3, 5, 4, 2))
    assert_same_as_torch(global_avg_pool2d, lambda x: x.mean((1, 2)), [x])
    assert_same_as_torch(global_max_pool2d, lambda x: x.amax((1, 2)), [x])


@pytest.mark.usefixtures("float64")
def test_every_entry_receives_its_share_of_dy(rng):
    """[N20]: dx = dy / (HW), so the entries of dx's map add up to dy."""
    x, dy = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((2, 4))
    y, residuals = global_avg_pool2d.forward(x)
    np.testing.assert_allclose(y, [[x[n, :, :, c].sum() / 15 for c in range(4)] for n in range(2)], rtol=1e-12)
    (dx,) = global_avg_pool2d.backward(residuals, dy)
    np.testing.assert_allclose(dx, np.tile(dy[:, None, None] / 15, (1, 3, 5, 1)), rtol=1e-14)


def test_the_first_of_tied_maxima_owns_all_of_dy():
    """[N21]: row by row, not column by column, where (0, 1) stands behind (1, 0)."""
    x = jnp.array([[1.0, 7, 7], [7, 7, 0]]).reshape(1, 2, 3, 1)
    y, residuals = global_max_pool2d.forward(x)
    assert y == 7
    (dx,) = global_max_pool2d.backward(residuals, jnp.array([[2.0]]))
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 2, 0], [0, 0, 0]])


def test_nan_wins_and_the_first_owns_dy():
    x = jnp.array([[1.0, jnp.nan, 9.0], [jnp.nan, 2.0, jnp.inf]]).reshape(1, 2, 3, 1)
    y, residuals = global_max_pool2d.forward(x)
    assert jnp.isnan(y).all()
    (dx,) = global_max_pool2d.backward(residuals, jnp.array([[2.0]]))
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 2, 0], [0, 0, 0]])


def test_a_map_of_minus_infinity_keeps_its_gradient():
    x = jnp.full((1, 2, 2, 1), -jnp.inf)
    np.testing.assert_array_equal(jax.grad(lambda x: global_max_pool2d(x).sum())(x)[0, :, :, 0], [[1, 0], [0, 0]])


@pytest.mark.parametrize(("size", "dtype"), [((8, 16), jnp.int8), ((3, 43), jnp.int16), ((190, 180), jnp.int32)])
def test_residuals_are_small(size, dtype):
    """The last position, which needs the most room, is the maximum."""
    x = jnp.zeros((1, *size, 1)).at[0, -1, -1, 0].set(1.0)
    _, (k, in_shape) = global_max_pool2d.forward(x)
    assert (k.dtype, k.shape, in_shape.value) == (dtype, (1, 1), x.shape)
    assert k == size[0] * size[1] - 1
    assert jax.tree.leaves(global_avg_pool2d.forward(x)[1]) == []


def test_bfloat16_means_are_summed_in_float32():
    """256 + 1 is 256 in bfloat16: one after the other, 1024 ones add up to 256."""
    exactly = {"xla_allow_excess_precision": False}
    y = jax.jit(lambda x: global_avg_pool2d(x), compiler_options=exactly)(jnp.ones((1, 32, 32, 1), jnp.bfloat16))
    assert (y.dtype, float(y[0, 0])) == (jnp.bfloat16, 1.0)


def test_specs_have_no_parameters_and_drop_the_image():
    for layer in (GlobalAvgPool2d(), GlobalMaxPool2d()):
        assert layer.init(jax.random.key(0), (4, 5, 3)) == {}
        assert layer.output_shape((4, 5, 3)) == (3,)
        assert layer.multiply_adds((4, 5, 3)) == 0


@pytest.mark.parametrize("op", BOTH)
def test_errors_are_one_sentence(op):
    residuals = op.forward(jnp.ones((2, 4, 4, 3)))[1]
    for call, message in (
        (lambda: op(jnp.ones((4, 4, 3))), "x has shape (4, 4, 3) but must have 4 dimensions"),
        (lambda: op(jnp.ones((2, 4, 4, 3), int)), "x is of type int32 but must be a floating-point array"),
        (
            lambda: op(jnp.ones((2, 4, 0, 3))),
            "x has shape (2, 4, 0, 3) but must have at least one row and one column",
        ),
        (
            lambda: op.backward(residuals, jnp.ones((2, 1, 1, 3))),
            "dy has shape (2, 1, 1, 3) but must have shape (2, 3)",
        ),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value).removeprefix(op.name).removeprefix(".backward") == f": {message}"
