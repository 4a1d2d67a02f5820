import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_autograd import assert_same_as_torch

from jaxcnn import InputError, Upsample2d, spec_from_json, spec_to_json, upsample2d_bilinear, upsample2d_nearest
from jaxcnn.layers.upsample import downsample, upsample

BOTH = [upsample2d_nearest, upsample2d_bilinear]


@pytest.mark.usefixtures("float64")
def test_upsampling_is_the_kronecker_product_and_downsampling_a_correlation_with_ones(rng):
    """[T5], [B4]: up(x) = x ⊗ 1; down is a convolution with a kernel of ones, every n-th sample taken."""
    x = rng.standard_normal((2, 3, 4, 2))
    np.testing.assert_array_equal(upsample(x, (2, 3)), np.kron(x, np.ones((1, 2, 3, 1))))
    big = rng.standard_normal((7, 9))
    correlated = [[big[i : i + 2, j : j + 3].sum() for j in range(9 - 2)] for i in range(7 - 1)]
    found = downsample(jnp.asarray(big)[None, :, :, None], (2, 3))[0, :, :, 0]
    np.testing.assert_allclose(found, np.array(correlated)[::2, ::3], rtol=1e-13)


@pytest.mark.parametrize("factor", [(2, 3), (3, 2), 2, (1, 4)])
@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_value_and_gradients_are_pytorchs(method, factor, rng):
    def theirs(x):
        from torch.nn.functional import interpolate

        both = (factor, factor) if isinstance(factor, int) else factor
        scale = tuple(float(f) for f in both)
        corners = {} if method == "nearest" else {"align_corners": False}
        return interpolate(x.permute(0, 3, 1, 2), scale_factor=scale, mode=method, **corners).permute(0, 2, 3, 1)

    op = {"nearest": upsample2d_nearest, "bilinear": upsample2d_bilinear}[method]
    assert_same_as_torch(op, theirs, [rng.standard_normal((2, 4, 3, 2))], factor=factor)


@pytest.mark.usefixtures("float64")
def test_bilinear_upsampling_is_a_matrix_on_either_side(rng):
    """[N23]: written out for 3 rows and the factor 2, 2 columns and the factor 3."""
    A_h = np.array([[4, 0, 0], [3, 1, 0], [1, 3, 0], [0, 3, 1], [0, 1, 3], [0, 0, 4]]) / 4
    A_w = np.array([[3, 0], [3, 0], [2, 1], [1, 2], [0, 3], [0, 3]]) / 3
    x, dy = rng.standard_normal((3, 2)), rng.standard_normal((6, 6))
    y, residuals = upsample2d_bilinear.forward(x[None, :, :, None], factor=(2, 3))
    np.testing.assert_allclose(y[0, :, :, 0], A_h @ x @ A_w.T, rtol=1e-13)
    (dx,) = upsample2d_bilinear.backward(residuals, dy[None, :, :, None], factor=(2, 3))
    np.testing.assert_allclose(dx[0, :, :, 0], A_h.T @ dy @ A_w, rtol=1e-13)


@pytest.mark.usefixtures("float64")
def test_bilinear_upsampling_is_jaxs_linear_resizing(rng):
    x = jnp.asarray(rng.standard_normal((2, 5, 3, 4)))
    expected = jax.image.resize(x, (2, 20, 9, 4), "linear")
    np.testing.assert_allclose(upsample2d_bilinear(x, factor=(4, 3)), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("op", BOTH)
def test_the_factor_one_changes_nothing(op, rng):
    x = jnp.asarray(rng.standard_normal((2, 3, 4, 2)), jnp.float32)
    y, residuals = op.forward(x, factor=1)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(op.backward(residuals, y, factor=1)[0], x)


@pytest.mark.parametrize("op", BOTH)
def test_the_gradient_of_bfloat16_is_summed_in_float32(op):
    """256 + 1 is 256 in bfloat16, along a row and then along a column; XLA may not be more precise than is asked."""
    dy = jnp.array([[256, 1, 0], [1, 0, 0], [0, 0, 0]], jnp.bfloat16).reshape(1, 3, 3, 1)
    _, residuals = op.forward(jnp.zeros((1, 1, 1, 1), jnp.bfloat16), factor=3)
    exactly = {"xla_allow_excess_precision": False}
    (dx,) = jax.jit(lambda dy: op.backward(residuals, dy, factor=3), compiler_options=exactly)(dy)
    assert (dx.dtype, float(dx[0, 0, 0, 0])) == (jnp.bfloat16, 258)


def test_nearest_leaves_a_nan_in_its_block_and_bilinear_spreads_it_over_its_map():
    x = jnp.zeros((1, 3, 4, 2)).at[0, 0, 1, 0].set(jnp.nan)
    assert jnp.isnan(upsample2d_nearest(x, factor=2)).sum() == 4
    found = jnp.isnan(upsample2d_bilinear(x, factor=2))
    assert found[..., 0].all()
    assert not found[..., 1].any()


@pytest.mark.parametrize("op", BOTH)
def test_the_residual_is_the_shape_alone(op):
    assert jax.tree.leaves(op.forward(jnp.ones((1, 3, 4, 2)), factor=2)[1]) == []


def test_the_spec_takes_its_operation_by_name(rng):
    x = jnp.asarray(rng.standard_normal((2, 3, 4, 2)), jnp.float32)
    for layer, op in ((Upsample2d((2, 1)), upsample2d_nearest), (Upsample2d((2, 1), "bilinear"), upsample2d_bilinear)):
        y, residuals = layer.forward({}, x)
        np.testing.assert_array_equal(y, op(x, factor=(2, 1)))
        np.testing.assert_array_equal(layer.apply({}, x), y)
        dx, grads = layer.backward(residuals, 2 * y)
        np.testing.assert_array_equal(dx, op.backward(residuals, 2 * y, factor=(2, 1))[0])
        assert grads == {}
        assert layer.output_shape((3, 4, 2)) == (6, 4, 2)
        assert layer.multiply_adds((3, 4, 2)) == 0
        assert spec_from_json(spec_to_json(layer)) == layer


@pytest.mark.parametrize("op", BOTH)
def test_errors_are_one_sentence(op):
    x = jnp.ones((2, 4, 3, 2))
    residuals = op.forward(x, factor=2)[1]
    for call, message in (
        (lambda: op(jnp.ones((4, 3, 2)), factor=2), "x has shape (4, 3, 2) but must have 4 dimensions"),
        (lambda: op(x, factor=0), "factor is 0 but must be an int or a pair of ints, each at least 1"),
        (lambda: op(x, factor=1.5), "factor is 1.5 but must be an int or a pair of ints, each at least 1"),
        (
            lambda: op(x[:, :0], factor=2),
            "the output is 0x6 but must have at least 1 and fewer than 2**31 entries in a map",
        ),
        (
            lambda: op(x, factor=(2**15, 2**15)),
            "the output is 131072x98304 but must have at least 1 and fewer than 2**31 entries in a map",
        ),
        (
            lambda: op.backward(residuals, x, factor=2),
            "dy has shape (2, 4, 3, 2) but must have shape (2, 8, 6, 2)",
        ),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value).removeprefix(op.name).removeprefix(".backward") == f": {message}"


def test_the_spec_refuses_what_fits_no_input():
    with pytest.raises(InputError) as error:
        Upsample2d(2, "cubic")
    assert str(error.value) == "upsample2d: method is 'cubic' but must be one of nearest, bilinear"
    with pytest.raises(InputError, match="upsample2d: factor is 0 but must be an int or a pair of ints, each at least"):
        Upsample2d(0)
