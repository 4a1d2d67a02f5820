import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, MedianPool2d, median_pool2d


def gradient(x, dy, **hyper):
    return median_pool2d.backward(median_pool2d.forward(x, **hyper)[1], dy, **hyper)[0][0, :, :, 0]


def test_an_even_window_takes_the_mean_of_the_two_middle_values_and_each_owns_half():
    x = jnp.array([[4.0, 1.0], [9.0, 2.0]]).reshape(1, 2, 2, 1)
    assert float(median_pool2d(x, 2)[0, 0, 0, 0]) == 3
    np.testing.assert_array_equal(gradient(x, jnp.full((1, 1, 1, 1), 6.0), window_size=2), [[3, 0], [0, 3]])


def test_an_odd_window_takes_the_middle_value_which_owns_all():
    x = jnp.array([[4.0, 1.0, 7.0]]).reshape(1, 1, 3, 1)
    assert float(median_pool2d(x, (1, 3))[0, 0, 0, 0]) == 4
    np.testing.assert_array_equal(gradient(x, jnp.full((1, 1, 1, 1), 6.0), window_size=(1, 3)), [[6, 0, 0]])


def test_equal_values_are_ordered_as_they_stand():
    """2, 5, 5, 5 in the order of the sort: the middle two are the first and the second 5."""
    x = jnp.array([[5.0, 5.0], [2.0, 5.0]]).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(gradient(x, jnp.full((1, 1, 1, 1), 6.0), window_size=2), [[3, 3], [0, 0]])


@pytest.mark.usefixtures("float64")
def test_it_is_numpys_median(rng):
    x = rng.standard_normal((2, 7, 6, 3))
    for size in ((2, 2), (3, 3), (2, 3)):
        windows = np.lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2))
        found = median_pool2d(jnp.asarray(x), size, stride=1)
        np.testing.assert_allclose(found, np.median(windows, axis=(-2, -1)), rtol=1e-14)


def test_nan_wins():
    assert jnp.isnan(median_pool2d(jnp.ones((1, 2, 2, 1)).at[0, 1, 0, 0].set(jnp.nan), 2)).all()


def test_the_mean_of_large_values_does_not_overflow():
    assert float(median_pool2d(jnp.full((1, 2, 2, 1), 3e38), 2)[0, 0, 0, 0]) == np.float32(3e38)


def test_the_layer_and_its_errors():
    x = jnp.ones((1, 4, 4, 2))
    assert MedianPool2d(2).apply({}, x).shape == (1, 2, 2, 2)
    with pytest.raises(InputError, match="median_pool2d: window_size is 0 but must be an int or a pair"):
        MedianPool2d(0)
    with pytest.raises(InputError, match="median_pool2d.backward: dy has shape"):
        median_pool2d.backward(median_pool2d.forward(x, 2)[1], x, window_size=2)
    with pytest.raises(InputError, match="median_pool2d: a window of height 5 does not fit"):
        jax.jit(lambda x: median_pool2d(x, 5))(x)
