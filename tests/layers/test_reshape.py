import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, flatten


def test_the_order_is_row_column_channel():
    x = jnp.arange(24.0).reshape(2, 2, 3, 2)
    np.testing.assert_array_equal(flatten(x)[1], np.arange(12, 24))


def test_the_documents_order_is_a_permutation():
    """[F9]: the documents unroll map by map."""
    x = np.arange(12.0).reshape(1, 2, 3, 2)
    by_map = x.transpose(0, 3, 1, 2).reshape(1, -1)
    np.testing.assert_array_equal(
        by_map, np.asarray(flatten(jnp.asarray(x)))[:, [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]]
    )


def test_a_batch_without_samples_keeps_its_features():
    assert flatten(jnp.ones((0, 2, 3))).shape == (0, 6)


def test_errors_are_one_sentence():
    with pytest.raises(InputError, match=r"flatten: x has shape \(\) but must have shape \(batch, ...\)"):
        flatten(jnp.array(1.0))
    with pytest.raises(InputError, match=r"flatten.backward: dy has shape \(2, 7\) but must have shape \(2, 12\)"):
        flatten.backward(flatten.forward(jnp.ones((2, 3, 4)))[1], jnp.ones((2, 7)))
