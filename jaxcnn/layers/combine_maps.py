r"""Learned combination of maps: each output map chooses, by a softmax, which convolved input maps it sums. NHWC.

Shapes:  x (N,H,W,I)   kernels (U,V,I)   c (I,J)   bias (J,)   y, dy (N,P,Q,J)   z (N,P,Q,I)

(1)  z_i      = x_i * k_i                                     one kernel for each input map, valid, stride 1
(2)  alpha_ij = exp c_ij / sum_k exp c_kj                     so 0 <= alpha_ij <= 1, sum_i alpha_ij = 1          [F8]
(3)  y_j      = sum_i alpha_ij z_i + b_j                                                                        [F8]
(4)  dbias_j  = sum_{n,p,q} dy_j
(5)  dalpha_ij = sum_{n,p,q} dy_j z_i                                                                          [B10]
(6)  dc_ij    = alpha_ij (dalpha_ij - sum_k dalpha_kj alpha_kj)                                                [B10]
(7)  dz_i     = sum_j alpha_ij dy_j                                                                            [B10]
(8)  dkernel_i = x_i correlated with dz_i ;  dx_i = dz_i, zero-padded, correlated with rot180(k_i)         [B10, B3]

y is the documents' pre-activation u; an activation layer follows. (1) and (8) are a convolution with I groups.
Loops: reference/combine_maps.py. Tests: tests/layers/test_combine_maps.py.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ..errors import InputError, check_count, check_floating, check_shape, is_number, shown
from ..geometry import Pair, pair
from ..initializers import find_initializer, initial_bias, initialize
from ..kernels import sum_over_positions
from ..operation import operation
from .base import OperationLayer, check_image, parameter
from .conv import conv2d
from .sparsity import entropy_penalty

__all__ = ["CombineMaps", "combine_maps"]


@operation
def combine_maps(x, kernels, c, bias):
    """Sum of the convolved input maps, weighted by a softmax over the inputs, plus bias [F8].

    J. Bouvrie, *Notes on Convolutional Neural Networks* (2006), section 3.3.

    Args:
        x: (N, H, W, I), float32, bfloat16 or float64.
        kernels: (U, V, I), the same dtype: one for each input map, not flipped.
        c: (I, J), the same dtype: its softmax over I is the weight of each input map in each output map.
        bias: (J,), the same dtype.

    Returns:
        (N, H - U + 1, W - V + 1, J) of x's dtype. Its derivative is `combine_maps.backward`.

    Raises:
        InputError: a shape, a dtype or the geometry does not fit.

    >>> x = jnp.array([2.0, 6.0]).reshape(1, 1, 1, 2)
    >>> print(combine_maps(x, jnp.ones((1, 1, 2)), jnp.array([[0.0, 99.0], [0.0, 0.0]]), jnp.zeros(2)))
    [[[[4. 2.]]]]

    >>> x = jnp.array([2.0, 6.0]).reshape(1, 1, 1, 2)
    >>> y, residuals = combine_maps.forward(x, jnp.ones((1, 1, 2)), jnp.zeros((2, 1)), jnp.zeros(1))
    >>> dx, dkernels, dc, dbias = combine_maps.backward(residuals, jnp.ones_like(y))
    >>> print(dc)
    [[-1.]
     [ 1.]]
    """
    check_floating("combine_maps", 4, x=x, kernels=kernels, c=c, bias=bias)
    I = x.shape[3]
    if kernels.shape[2:] != (I,):
        raise InputError(
            f"combine_maps: kernels has shape {kernels.shape} but must have shape (height, width, {I}) for x of shape "
            f"{x.shape}"
        )
    if c.ndim != 2 or c.shape[0] != I:
        raise InputError(f"combine_maps: c has shape {c.shape} but must have shape ({I}, out_channels)")
    check_shape("combine_maps", "bias", bias, c.shape[1:])
    z, _ = conv2d.forward(x, kernels[:, :, None, :], groups=I)  # (1)
    alpha = jax.nn.softmax(c, axis=0)  # (2)
    return z @ alpha + bias, (x, kernels, z, alpha)  # (3)


@combine_maps.rule
def _(residuals, dy):
    """(4)-(8): `(dx, dkernels, dc, dbias)` from `combine_maps.forward`'s residuals and dy (N, P, Q, J)."""
    x, kernels, z, alpha = residuals
    check_shape("combine_maps.backward", "dy", dy, (*z.shape[:3], alpha.shape[1]))
    wide = jnp.promote_types(dy.dtype, jnp.float32)
    dbias = sum_over_positions(dy)  # (4)
    dalpha = jnp.einsum("npqi,npqj->ij", z, dy, preferred_element_type=wide)  # (5)
    dc = alpha * (dalpha - (dalpha * alpha).sum(axis=0))  # (6)
    dz = dy @ alpha.T  # (7)
    dx, dkernels, _ = conv2d.backward((x, kernels[:, :, None, :], None), dz, groups=x.shape[3])  # (8)
    return dx, dkernels[:, :, 0, :], dc.astype(dy.dtype), dbias


@dataclass(frozen=True)
class CombineMaps(OperationLayer):
    """Spec of `combine_maps` with `out_channels` output maps.

    `entropy` times the entropy of alpha is added to the loss in training: above 0 it makes alpha sparse [B11].

    >>> CombineMaps(16, 5).output_shape((14, 14, 6))
    (10, 10, 16)
    """

    out_channels: int
    kernel_size: int | Pair
    initializer: str = "he_normal"
    entropy: float = 0.0

    op = combine_maps

    def __post_init__(self):
        check_count("combine_maps", "out_channels", self.out_channels)
        pair("combine_maps", "kernel_size", self.kernel_size)
        find_initializer(self.initializer)
        if not (is_number(self.entropy) and 0 <= self.entropy < float("inf")):
            raise InputError(
                f"combine_maps: entropy is {shown(self.entropy)} but must be a finite number of at least 0"
            )

    def init(self, key, in_shape):
        check_image("combine_maps", in_shape)
        U, V = pair("combine_maps", "kernel_size", self.kernel_size)
        kernels_key, c_key = jax.random.split(key)
        # a kernel has one map on either side; c is random, else all output maps would be the same
        kernels = initialize(self.initializer, kernels_key, (U, V, in_shape[2]), U * V, U * V)
        c = jax.random.normal(c_key, (in_shape[2], self.out_channels))
        bias = initial_bias(self.initializer, kernels_key, (self.out_channels,), U * V)
        return {"kernels": kernels, "c": c, "bias": bias}

    def penalty(self, params):
        if not self.entropy:
            return 0.0, {}
        H, residuals = entropy_penalty.forward(parameter(self, params, "c"))
        (dc,) = entropy_penalty.backward(residuals, self.entropy)
        return self.entropy * H, {"c": dc}

    def multiply_adds(self, in_shape):
        U, V = pair("combine_maps", "kernel_size", self.kernel_size)
        P, Q, J = self.output_shape(in_shape)
        return P * Q * in_shape[2] * (U * V + J)
