r"""Penalties that are to make the weights alpha of `combine_maps` sparse.

Shapes:  c, alpha (I,J), alpha_ij = exp c_ij / sum_k exp c_kj over the inputs i of map j   E and dE: scalars

(1)  L1        E = sum_ij |alpha_ij|                       dalpha = dE sign(alpha)                             [B11]
(2)  entropy   E = sum_j H_j,  H_j = - sum_i alpha_ij ln alpha_ij
(3)            dc_ij = - dE alpha_ij (ln alpha_ij + H_j)                                                       [B11]

Behind a softmax (1) is the number of maps whatever c is, and its gradient |alpha_i| - alpha_i sum_k |alpha_k| with
respect to c_i is exactly zero: it is here because the documents write it, and does nothing there. (2) falls as alpha
becomes sparse: exp H_j is the effective number of inputs of map j, I where all count alike, 1 where one alone does.
Loops: reference/sparsity.py. Tests: tests/layers/test_sparsity.py.
"""

import jax
import jax.numpy as jnp

from ..errors import check_floating, check_shape
from ..operation import operation

__all__ = ["effective_inputs", "entropy_penalty", "l1_penalty"]


@operation
def l1_penalty(alpha):
    """Sum of the absolute values [B11]: any shape, any floating dtype; the derivative at 0 is 0.

    Of weights from a softmax it is constant: use `entropy_penalty` for them.

    Raises:
        InputError: alpha is not a floating-point array.

    >>> print(l1_penalty(jnp.array([1.0, -2.0])), jax.grad(l1_penalty)(jnp.array([1.0, -2.0])))
    3.0 [ 1. -1.]
    """
    check_floating("l1_penalty", alpha=alpha)
    return jnp.abs(alpha).sum(), alpha


@l1_penalty.rule
def _(alpha, dy):
    """(1): `(dalpha,)` from the residual alpha and the scalar dy = dE."""
    check_shape("l1_penalty.backward", "dy", dy, ())
    return (dy * jnp.sign(alpha),)


@operation
def entropy_penalty(c):
    """Entropy of the weights softmax(c) over the inputs, summed over the maps [B11].

    It takes c, not alpha: there is no c for which an ln alpha is infinite.

    Args:
        c: (I, J), floating point: I inputs, J maps.

    Returns:
        A scalar of that dtype, from 0 to J ln I. Its derivative is `entropy_penalty.backward`.

    Raises:
        InputError: c is not a floating-point array of two dimensions.

    >>> print(entropy_penalty(jnp.zeros((4, 1))).round(4), entropy_penalty(jnp.array([[99.0], [0.0]])).round(4))
    1.3863 0.0
    """
    check_floating("entropy_penalty", 2, c=c)
    log_alpha = jax.nn.log_softmax(c, axis=0)
    H = (jnp.exp(log_alpha) * -log_alpha).sum(axis=0)
    return H.sum(), (log_alpha, H)


@entropy_penalty.rule
def _(residuals, dy):
    """(3): `(dc,)` from `entropy_penalty.forward`'s residuals and the scalar dy = dE."""
    log_alpha, H = residuals
    check_shape("entropy_penalty.backward", "dy", dy, ())
    return (-dy * jnp.exp(log_alpha) * (log_alpha + H),)


def effective_inputs(c) -> jax.Array:
    """exp H of every map: how many inputs it effectively combines, (J,) from c (I, J).

    >>> print(effective_inputs(jnp.array([[0.0, 99.0], [0.0, 0.0], [0.0, 0.0]])).round(4))
    [3. 1.]
    """
    return jnp.exp(entropy_penalty.forward(c)[1][1])
