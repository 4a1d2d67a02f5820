import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import Dense, InputError, dense


@pytest.mark.usefixtures("float64")
def test_the_formulas_in_the_documents_own_orientation(rng):
    """[B1], [B2], [B6] for one sample as a column: W of the documents is weight transposed."""
    x, weight, dy = rng.standard_normal((1, 3)), rng.standard_normal((3, 2)), rng.standard_normal((1, 2))
    dx, dweight, dbias = dense.backward(dense.forward(x, weight, np.zeros(2))[1], dy)
    W, delta = weight.T, dy.T
    np.testing.assert_allclose(dx.T, W.T @ delta, rtol=1e-14)
    np.testing.assert_allclose(dweight.T, delta @ x, rtol=1e-14)
    np.testing.assert_allclose(dbias, delta[:, 0], rtol=1e-14)


def test_errors_are_one_sentence():
    for call, message in (
        (
            lambda: dense(jnp.ones((2, 3, 4)), jnp.ones((4, 5))),
            "dense: x has shape (2, 3, 4) but must have 2 dimensions",
        ),
        (
            lambda: dense(jnp.ones((2, 3)), jnp.ones((4, 5))),
            "dense: weight has shape (4, 5) but must have shape (3, out_features) for x of shape (2, 3)",
        ),
        (
            lambda: dense(jnp.ones((2, 3)), jnp.ones((3, 5)), jnp.ones((1, 5))),
            "dense: bias has shape (1, 5) but must have shape (5,)",
        ),
        (
            lambda: Dense(3).init(jax.random.key(0), (4, 4, 1)),
            "dense: the input has shape (4, 4, 1) but must have shape (in_features,); add Flatten()",
        ),
        (
            lambda: dense.backward(dense.forward(jnp.ones((2, 3)), jnp.ones((3, 5)))[1], jnp.ones((2, 3))),
            "dense.backward: dy has shape (2, 3) but must have shape (2, 5)",
        ),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == message


def test_the_spec_counts_and_initialises():
    params = Dense(5, initializer="glorot_uniform").init(jax.random.key(1), (40,))
    assert params["weight"].shape == (40, 5)
    assert not params["bias"].any()
    assert abs(params["weight"]).max() <= (6 / 45) ** 0.5
    assert Dense(5).multiply_adds((40,)) == 200
    assert set(Dense(5, bias=False).init(jax.random.key(1), (40,))) == {"weight"}
