r"""The correlation of a spread input as one of the input: without most of the zeros that the spread puts in between.

Along a row, the input X is x spread by r, so that X[rj] = x[j], with l zeros in front:

(1)  y[q]      = sum_u X[q + u - l] w[u]
(2)  y[rJ + t] = sum_k x~[J + k] w[rk + l - t]      w is 0 beyond its taps

The r phases t become channels of a pixel J, in rows and columns. The taps of (2) for all t are w between zeros, cut
into pieces of r, each read backwards. Where taps stand at a distance, w has zeros between them, too. With 3x3 taps and
r = 2 a block of 2x2 of y needs 9 products, not 36; 16 are made.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from ..geometry import Window


@dataclass(frozen=True)
class Phases:
    """The correlation of `original`, whose x is spread and whose stride is 1, as one of x itself.

    Faster than to multiply the zeros too, the more so the larger the kernel: docs/speed.md has the figures.

    >>> from jaxcnn.geometry import resolve
    >>> Phases(resolve("conv2d", (32, 32), (3, 3), stride=2, padding=1).backward).window.kernel
    (2, 2)
    """

    original: Window

    @property
    def window(self) -> Window:
        """The window of the phases: the taps of (2), neither spread nor distant."""
        (taps, top), (others, left) = self._axes
        (H, W), (height, width) = self.original.size, self._pixels
        padding = (-top, height - 1 + top + taps - H), (-left, width - 1 + left + others - W)
        return Window((H, W), (taps, others), (1, 1), padding, (1, 1))

    def kernel(self, weight: jax.Array) -> jax.Array:
        """The taps of (2) for all phases, (K, L, I, r c O), of the weight (U, V, I, O)."""
        (r, c), (rows, columns) = self.original.spread, map(self._zeros, (0, 1))
        pieces = lax.pad(weight, jnp.zeros((), weight.dtype), (rows, columns, (0, 0, 0), (0, 0, 0)))
        K, L, (I, O) = pieces.shape[0] // r, pieces.shape[1] // c, weight.shape[2:]
        phases = pieces.reshape(K, r, L, c, I, O)[:, ::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
        return phases.reshape(K, L, I, r * c * O)

    def result(self, y: jax.Array) -> jax.Array:
        """y (N, P, Q, O) of the phases (N, P', Q', r c O)."""
        (r, c), (P, Q), (N, height, width, channels) = self.original.spread, self.original.output, y.shape
        y = y.reshape(N, height, width, r, c, -1).swapaxes(2, 3)
        return y.reshape(N, height * r, width * c, channels // (r * c))[:, :P, :Q]

    @property
    def _pixels(self):
        (r, c), (P, Q) = self.original.spread, self.original.output
        return -(-P // r), -(-Q // c)

    @property
    def _axes(self):
        """For rows and columns the number of taps of (2) and its first k."""
        window = self.original

        def axis(i):
            before, behind, between = self._zeros(i)
            taps = before + (between + 1) * (window.kernel[i] - 1) + 1 + behind
            return taps // window.spread[i], -(window.padding[i][0] // window.spread[i])

        return axis(0), axis(1)

    def _zeros(self, axis):
        """How many zeros stand before w, behind it and between its taps."""
        r, l, d = self.original.spread[axis], self.original.padding[axis][0], self.original.dilation[axis]
        before = r - 1 - l % r
        extent = d * (self.original.kernel[axis] - 1) + 1
        return before, -(before + extent) % r, d - 1
