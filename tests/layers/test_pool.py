import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, avg_pool2d, max_pool2d


def test_the_first_of_tied_maxima_owns_all_of_dy():
    x = jnp.array([[1.0, 7, 7], [7, 7, 0]]).reshape(1, 2, 3, 1)
    _, residuals = max_pool2d.forward(x, 2, stride=1)
    (dx,) = max_pool2d.backward(residuals, jnp.array([2.0, 3.0]).reshape(1, 1, 2, 1), window_size=2, stride=1)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 5, 0], [0, 0, 0]])


def test_overlapping_windows_add_up():
    x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1, 0].set(1.0)
    _, residuals = max_pool2d.forward(x, 2, stride=1)
    (dx,) = max_pool2d.backward(residuals, jnp.arange(1.0, 5).reshape(1, 2, 2, 1), window_size=2, stride=1)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 0, 0], [0, 10, 0], [0, 0, 0]])


def test_max_pads_with_minus_infinity_and_mean_counts_the_zeros():
    x = jnp.full((1, 2, 2, 1), -4.0)
    np.testing.assert_array_equal(max_pool2d(x, 2, padding=1), x)
    np.testing.assert_array_equal(avg_pool2d(x, 2, padding=1), x / 4)


def test_minus_infinity_beside_the_padding_keeps_its_gradient():
    """The padding is -inf too, but owns nothing: the first entry of the input does."""
    x = jnp.full((1, 3, 3, 1), -jnp.inf)
    _, residuals = max_pool2d.forward(x, 2, stride=2, padding=1)
    dy = jnp.arange(1.0, 5).reshape(1, 2, 2, 1)
    (dx,) = max_pool2d.backward(residuals, dy, window_size=2, stride=2, padding=1)
    np.testing.assert_array_equal(dx[0, :, :, 0], [[1, 2, 0], [3, 4, 0], [0, 0, 0]])


def test_the_first_nan_owns_dy():
    x = jnp.array([[jnp.nan, 1], [2, jnp.nan]]).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(jax.grad(lambda x: max_pool2d(x, 2).sum())(x)[0, :, :, 0], [[1, 0], [0, 0]])


def test_bfloat16_gradients_are_summed_in_float32():
    """256 + 1 is 256 in bfloat16, eight times over."""
    x = jnp.zeros((1, 5, 5, 1), jnp.bfloat16).at[0, 2, 2, 0].set(1)
    dy = jnp.ones((1, 3, 3, 1), jnp.bfloat16).at[0, 2, 2, 0].set(256)
    _, residuals = max_pool2d.forward(x, 3, stride=1)
    assert max_pool2d.backward(residuals, dy, window_size=3, stride=1)[0][0, 2, 2, 0] == 264


def test_nan_wins_wherever_it_stands_in_the_window():
    for position in np.ndindex(2, 2):
        x = jnp.ones((2, 2)).at[position].set(jnp.nan).reshape(1, 2, 2, 1)
        assert jnp.isnan(max_pool2d(x, 2)).all()


@pytest.mark.parametrize(("window", "dtype"), [((2, 2), jnp.int8), ((8, 16), jnp.int8), ((3, 43), jnp.int16)])
def test_the_position_is_a_small_integer(window, dtype):
    x = jnp.asarray(np.random.default_rng(0).permutation(50 * 50).reshape(1, 50, 50, 1).astype(np.float32))

    @jax.jit
    def both(x):
        y, residuals = max_pool2d.forward(x, window)
        return y, residuals[0], max_pool2d.backward(residuals, y, window_size=window)[0]

    y, position, dx = map(np.asarray, both(x))
    assert position.dtype == dtype
    assert position.max() < window[0] * window[1]
    np.testing.assert_array_equal(np.sort(dx[dx != 0]), np.sort(y.ravel()))
    np.testing.assert_array_equal(np.where(dx != 0, dx, x), x)


def test_no_select_and_scatter_in_the_backward():
    def gradient(x):
        return jax.grad(lambda x: max_pool2d(x, 3, stride=2, padding=1).sum())(x)

    assert "select_and_scatter" not in jax.jit(gradient).lower(jnp.ones((2, 9, 9, 3))).as_text()

    def automatic(x):
        return jax.grad(lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID").sum())(x)  # fmt: skip  # noqa: E501

    assert "select_and_scatter" in jax.jit(automatic).lower(jnp.ones((2, 9, 9, 3))).as_text()


@pytest.mark.usefixtures("float64")
def test_mean_pooling_backward_is_the_kronecker_product(rng):
    """[B4]: up(delta) = delta ⊗ 1_{n x n}, over n^2."""
    dy = rng.standard_normal((1, 3, 4, 1))
    _, residuals = avg_pool2d.forward(jnp.ones((1, 6, 8, 1)), 2)
    (dx,) = avg_pool2d.backward(residuals, dy, window_size=2)
    np.testing.assert_allclose(dx[0, :, :, 0], np.kron(dy[0, :, :, 0], np.ones((2, 2))) / 4, rtol=1e-14)


def test_bfloat16_means_are_summed_in_float32():
    x = jnp.ones((1, 32, 32, 1), jnp.bfloat16)
    assert avg_pool2d(x, 32) == 1


@pytest.mark.parametrize("op", [max_pool2d, avg_pool2d])
def test_errors_name_the_operation(op):
    for x, arguments, message in (
        (jnp.ones((2, 7, 5)), {"window_size": 2}, "x has shape (2, 7, 5) but must have 4 dimensions"),
        (jnp.ones((2, 7, 5, 1)), {"window_size": 6}, "a window of width 6 does not fit the input of width 5"),
        (jnp.ones((2, 7, 5, 1)), {"window_size": 0}, "kernel_size is 0 but must be an int or a pair"),
        (jnp.ones((2, 7, 5, 1)), {"window_size": 2, "padding": 2}, "lies wholly in the padding"),
    ):
        with pytest.raises(InputError) as error:
            op(x, **arguments)
        assert str(error.value).startswith(f"{op.__name__}: ")
        assert message.replace("kernel_size", "window_size") in str(error.value)


def test_a_wrong_cotangent_is_named():
    _, residuals = max_pool2d.forward(jnp.ones((1, 4, 4, 1)), 2)
    with pytest.raises(InputError, match="max_pool2d.backward: dy has shape"):
        max_pool2d.backward(residuals, jnp.ones((1, 4, 4, 1)), window_size=2)
    _, residuals = avg_pool2d.forward(jnp.ones((1, 4, 4, 1)), 2)
    with pytest.raises(InputError, match="avg_pool2d.backward: dy has shape"):
        avg_pool2d.backward(residuals, jnp.ones((1, 4, 4, 1)), window_size=2)


def test_padding_never_owns_the_maximum_even_where_all_is_minus_infinity():
    """Each window holds one entry, -inf like the padding around it: nothing of dy may be lost to the padding."""
    x, dy = jnp.full((1, 2, 2, 1), -jnp.inf), jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1)
    _, residuals = max_pool2d.forward(x, 2, padding=1)
    (dx,) = max_pool2d.backward(residuals, dy, window_size=2, padding=1)
    np.testing.assert_array_equal(dx, dy)
