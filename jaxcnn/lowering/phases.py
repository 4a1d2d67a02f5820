r"""The correlation of a spread input as one of the input: without most of the zeros that the spread puts in between.

Along a row, the input X is x spread by r, so that X[rj] = x[j], with l zeros in front:

(1)  y[q]      = sum_u X[q + u - l] w[u]
(2)  y[rJ + t] = sum_k x~[J + k] w[rk + l - t]      w is 0 beyond its taps

The r phases t become channels of a pixel J, in rows and columns. The taps of (2) for all t are w between zeros, cut
into pieces of r, each read backwards. Where taps stand at a distance, w has zeros between them, too. With 3x3 taps and
r = 2 a block of 2x2 of y needs 9 products, not 36; 16 are made.
"""

import jax
import jax.numpy as jnp
from jax import lax

from ..geometry import Window
from .program import LABELS


def correlate_by_phases(window: Window, x: jax.Array, weight: jax.Array) -> jax.Array:
    """x (N, H, W, I), spread and zero-padded, correlated with weight (U, V, I, O): (N, P, Q, O). The stride must be 1.

    2 cores, batch 128, dx with stride 2, milliseconds (the zeros multiplied too): from 16x16x32 to 32x32x16 3x3 5.9
    (17), 5x5 10 (68), from 8x8x64 to 16x16x32 3x3 5.1 (6.3).
    """
    N, H, W, I = x.shape
    (r, c), (P, Q), O = window.spread, window.output, weight.shape[3]
    height, width = -(-P // r), -(-Q // c)
    (rows, top), (columns, left) = _pieces(window, 0), _pieces(window, 1)
    pieces = lax.pad(weight, jnp.zeros((), weight.dtype), (rows, columns, (0, 0, 0), (0, 0, 0)))
    K, L = pieces.shape[0] // r, pieces.shape[1] // c
    phases = pieces.reshape(K, r, L, c, I, O)[:, ::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
    y = lax.conv_general_dilated(
        x,
        phases.reshape(K, L, I, r * c * O),
        (1, 1),
        ((-top, height - 1 + top + K - H), (-left, width - 1 + left + L - W)),
        dimension_numbers=LABELS,
    )
    y = y.reshape(N, height, width, r, c, O).swapaxes(2, 3).reshape(N, height * r, width * c, O)
    return y[:, :P, :Q]


def _pieces(window, axis):
    """How an axis of w is padded, before, behind and between the taps, and the first k of (2)."""
    r, l, d = window.spread[axis], window.padding[axis][0], window.dilation[axis]
    before = r - 1 - l % r
    extent = d * (window.kernel[axis] - 1) + 1
    return (before, -(before + extent) % r, d - 1), -(l // r)
