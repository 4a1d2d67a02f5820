r"""Columns folded into channels: the same correlation with fewer, fatter pixels.

Along a row a correlation with stride s, whose taps w[u] stand at distance d, is

(1)  y[q] = sum_u x~[qs + ud] w[u]          x~ is x zero-padded

Take A = sT columns of x~ together as one pixel with A times the channels, and T columns of y likewise. Then the pattern
of (1) repeats from block to block, and the blocks are correlated with stride 1:

(2)  y'[j, t] = sum_{b,a} x'[j + b, a] w'[b, a, t]      q = jT + t,  x'[j, a] = x~[jA + a]
(3)  w'[b, a, t] = sum_u S[u, b, a, t] w[u]              S = 1 where bA + a = ts + ud, else 0
(4)  dw[u]       = sum_{b,a,t} S[u, b, a, t] dw'[b, a, t]

Three channels fold to twelve and fill the vector unit. The price is the zeros of w'; because of them an infinity in x
makes NaN of its whole block of y, and one in w of all of w'.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..geometry import Window


@dataclass(frozen=True)
class Fold:
    """The correlation of `original` with T = `columns` of its output in one pixel.

    >>> from jaxcnn.geometry import resolve
    >>> Fold(resolve("conv2d", (28, 28), (5, 5), padding=2), 4).window.kernel
    (5, 2)
    """

    original: Window
    columns: int

    @property
    def window(self) -> Window:
        """The window of the folded correlation: stride 1 and no padding along the row."""
        rows, (_, width) = self.original, self._blocks
        return Window(
            (rows.size[0], width),
            (rows.kernel[0], self._blocks[0]),
            (rows.stride[0], 1),
            (rows.padding[0], (0, 0)),
            (rows.dilation[0], 1),
        )

    def image(self, x: jax.Array) -> jax.Array:
        """x' (N, H, W', A C) of x (N, H, W, C), padded along the row."""
        (_, blocks), A = self._blocks, self._inputs
        left = self.original.padding[1][0]
        padded = lax.pad(
            x,
            jnp.zeros((), x.dtype),
            ((0, 0, 0), (0, 0, 0), (left, blocks * A - left - x.shape[2], 0), (0, 0, 0)),
        )
        return padded.reshape(*x.shape[:2], blocks, A * x.shape[3])

    def kernel(self, weight: jax.Array) -> jax.Array:
        """(3): w' (U, blocks, A I, T O) of the weight (U, V, I, O)."""
        U, _, I, O = weight.shape
        folded = jnp.einsum("vbat,uvio->ubaito", self._places(weight.dtype), weight)
        return folded.reshape(U, -1, self._inputs * I, self.columns * O)

    def kernel_gradient(self, dweight: jax.Array) -> jax.Array:
        """(4): dw (U, V, I, O) of dw' (U, blocks, A I, T O)."""
        U, blocks, A, T = *dweight.shape[:2], self._inputs, self.columns
        unfolded = dweight.reshape(U, blocks, A, dweight.shape[2] // A, T, dweight.shape[3] // T)
        return jnp.einsum("vbat,ubaito->uvio", self._places(dweight.dtype), unfolded)

    def _places(self, dtype):
        """S."""
        (blocks, _), s, d = self._blocks, self.original.stride[1], self.original.dilation[1]
        u, b, a, t = np.ogrid[: self.original.kernel[1], :blocks, : self._inputs, : self.columns]
        return jnp.asarray(b * self._inputs + a == t * s + u * d, dtype)

    def delta(self, dy: jax.Array) -> jax.Array:
        """dy' (N, P, Q', T O) of dy (N, P, Q, O), the opposite of `result`."""
        N, P, Q, O = dy.shape
        blocks = -(-Q // self.columns)
        padded = jnp.pad(dy, ((0, 0), (0, 0), (0, blocks * self.columns - Q), (0, 0)))
        return padded.reshape(N, P, blocks, self.columns * O)

    def result(self, y: jax.Array) -> jax.Array:
        """y (N, P, Q, O) of y' (N, P, Q', T O)."""
        N, P, blocks, channels = y.shape
        return y.reshape(N, P, blocks * self.columns, channels // self.columns)[:, :, : self.original.output[1]]

    @property
    def _inputs(self):
        """A."""
        return self.columns * self.original.stride[1]

    @property
    def _blocks(self):
        """Taps of w' and pixels of x' along the row."""
        _, s = self.original.stride
        last = (self.columns - 1) * s + (self.original.kernel[1] - 1) * self.original.dilation[1]
        taps = last // self._inputs + 1
        return taps, -(-self.original.output[1] // self.columns) - 1 + taps


def columns_to_fold(window: Window, in_channels: int, out_channels: int) -> int:
    """T for which a correlation by XLA on CPU is fastest; 1 where folding does not help.

    Folded until a pixel has 8 channels and the result 24: below that the matrix product inside XLA's convolution runs
    on thin vectors. Not beyond 64 channels, where the zeros cost more; and many maps are not folded for one or two.
    docs/speed.md has the times for each T that this was chosen by.

    >>> from jaxcnn.geometry import resolve
    >>> window = resolve("conv2d", (28, 28), (5, 5), padding=2)
    >>> [columns_to_fold(window, *channels) for channels in ((1, 6), (1, 32), (6, 16), (32, 64), (6, 1), (32, 3))]
    [8, 4, 2, 1, 8, 2]
    """
    if window.spread != (1, 1) or (out_channels < 3 and in_channels > 8):
        return 1
    for columns in (1, 2, 4, 8):
        wide = columns * in_channels >= 8 or columns * out_channels >= 128
        if (wide and columns * out_channels >= 24) or 2 * columns * in_channels > 64:
            return columns if columns <= window.output[1] else 1
    return 1


def columns_to_fold_delta(window: Window, out_channels: int) -> int:
    """T for which the gradient of the kernel by XLA on CPU is fastest; 1 where folding does not help.

    Folded until dy has 24 channels: below that the matrix product inside XLA's convolution has too few columns.
    With a stride folding is slower. docs/speed.md has the times for each T.

    >>> from jaxcnn.geometry import resolve
    >>> window = resolve("conv2d", (28, 28), (5, 5), padding=2)
    >>> [columns_to_fold_delta(window, channels) for channels in (6, 16, 32)]
    [4, 2, 1]
    """
    if window.stride[1] > 1 or window.kernel[1] == 1:
        return 1
    columns = next((columns for columns in (1, 2, 4) if columns * out_channels >= 24), 4)
    return columns if columns <= window.output[1] else 1
