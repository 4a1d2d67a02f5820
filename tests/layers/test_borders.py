import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_autograd import assert_same_as_torch

from jaxcnn import Crop2d, InputError, Pad2d, crop2d, pad2d, spec_from_json, spec_to_json


def test_value_and_gradients_are_pytorchs(rng):
    def theirs(x):
        from torch.nn.functional import pad

        return pad(x, (0, 0, 2, 1, 0, 3))  # the last axis first

    x = rng.standard_normal((2, 6, 5, 3))
    assert_same_as_torch(pad2d, theirs, [x], padding=((0, 3), (2, 1)))
    assert_same_as_torch(crop2d, lambda x: x[:, 1:-3, 2:], [x], rows=(1, 3), columns=(2, 0))


def test_each_is_the_transpose_of_the_other(rng):
    """[N26]: the backward of one is the other, bit for bit."""
    rows, columns = (1, 2), (0, 3)
    big, small = (jnp.asarray(rng.standard_normal((2, *size, 3)), jnp.float32) for size in ((6, 7), (3, 4)))
    cut, of_cut = crop2d.forward(big, rows=rows, columns=columns)
    padded, of_padded = pad2d.forward(small, padding=(rows, columns))
    np.testing.assert_array_equal(cut, np.asarray(big)[:, 1:4, :4])
    np.testing.assert_array_equal(padded, np.pad(small, ((0, 0), rows, columns, (0, 0))))
    np.testing.assert_array_equal(crop2d.backward(of_cut, small, rows=rows, columns=columns)[0], padded)
    np.testing.assert_array_equal(pad2d.backward(of_padded, big, padding=(rows, columns))[0], cut)


def test_nothing_cut_or_put_around_changes_nothing(rng):
    x = jnp.asarray(rng.standard_normal((2, 3, 4, 2)), jnp.float32)
    np.testing.assert_array_equal(crop2d(x, rows=(0, 0), columns=(0, 0)), x)
    np.testing.assert_array_equal(pad2d(x, padding=0), x)


def test_a_nan_that_is_cut_off_is_gone():
    x = jnp.ones((1, 3, 3, 1)).at[0, 0].set(jnp.nan)
    assert jnp.isfinite(crop2d(x, rows=(1, 0), columns=(0, 0))).all()
    dx = jax.grad(lambda x: (pad2d(x, padding=((1, 0), (0, 0))) * jnp.zeros((1, 4, 3, 1)).at[0, 0].set(jnp.nan)).sum())
    np.testing.assert_array_equal(dx(jnp.ones((1, 3, 3, 1))), jnp.zeros((1, 3, 3, 1)))


def test_the_residual_is_the_shape_alone():
    x = jnp.ones((1, 3, 4, 2))
    assert jax.tree.leaves(crop2d.forward(x, rows=(1, 0), columns=(0, 1))[1]) == []
    assert jax.tree.leaves(pad2d.forward(x, padding=1)[1]) == []


def test_the_specs_hand_on_their_fields(rng):
    x = jnp.asarray(rng.standard_normal((2, 5, 6, 2)), jnp.float32)
    for layer, expected in (
        (Crop2d((1, 0), (0, 2)), crop2d(x, rows=(1, 0), columns=(0, 2))),
        (Pad2d(((1, 0), (0, 2))), pad2d(x, padding=((1, 0), (0, 2)))),
    ):
        np.testing.assert_array_equal(layer.apply({}, x), expected)
        y, residuals = layer.forward({}, x)
        dx, grads = layer.backward(residuals, y)
        assert (dx.shape, grads, layer.multiply_adds((5, 6, 2))) == (x.shape, {}, 0)
        assert spec_from_json(spec_to_json(layer)) == layer


X = jnp.ones((2, 5, 4, 3))
NONE = {"columns": (0, 0)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crop2d(X[0], rows=(0, 0), **NONE), "crop2d: x has shape (5, 4, 3) but must have 4 dimensions"),
        (lambda: crop2d(X, rows=1, **NONE), "crop2d: rows is 1 but must be a pair of ints, each at least 0"),
        (
            lambda: crop2d(X, rows=(0, -1), **NONE),
            "crop2d: rows is (0, -1) but must be a pair of ints, each at least 0",
        ),
        (
            lambda: crop2d(X, rows=(0, 0), columns=(1.0, 0)),
            "crop2d: columns is (1.0, 0) but must be a pair of ints, each at least 0",
        ),
        (lambda: crop2d(X, rows=(2, 3), **NONE), "crop2d: rows is (2, 3) but must leave at least 1 of the 5 rows of x"),
        (
            lambda: crop2d(X, rows=(2, 2), columns=(9, 0)),
            "crop2d: columns is (9, 0) but must leave at least 1 of the 4 columns of x",
        ),
        (
            lambda: crop2d.backward(crop2d.forward(X, rows=(1, 0), **NONE)[1], X, rows=(1, 0), **NONE),
            "crop2d.backward: dy has shape (2, 5, 4, 3) but must have shape (2, 4, 4, 3)",
        ),
        (lambda: Crop2d((1, 1), 2), "crop2d: columns is 2 but must be a pair of ints, each at least 0"),
        (lambda: pad2d(X[0], padding=1), "pad2d: x has shape (5, 4, 3) but must have 4 dimensions"),
        (
            lambda: pad2d(X, padding=-1),
            "pad2d: padding is -1 but must be an int >= 0 or ((top, bottom), (left, right)) of such ints",
        ),
        (
            lambda: pad2d(X, padding="SAME"),
            "pad2d: padding is 'SAME' but must be an int >= 0 or ((top, bottom), (left, right)) of such ints",
        ),
        (
            lambda: pad2d(X, padding=30_000),
            "pad2d: the output is 60005x60004 but must have fewer than 2**31 entries in a map",
        ),
        (
            lambda: pad2d.backward(pad2d.forward(X, padding=1)[1], X, padding=1),
            "pad2d.backward: dy has shape (2, 5, 4, 3) but must have shape (2, 7, 6, 3)",
        ),
        (
            lambda: Pad2d((1, 1)),
            "pad2d: padding is (1, 1) but must be an int >= 0 or ((top, bottom), (left, right)) of such ints",
        ),
    ],
)
def test_errors_are_one_sentence(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message
