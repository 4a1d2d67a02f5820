r"""The second moment of what a convolution's taps see, without writing it down where that is large.

x~ (N,H,W,I) is x with zeros around it without end, s the stride, d the dilation. At place (p,q) tap (u,v) sees the maps
of x~ at (ps + ud, qs + vd), less the padding; a is what all taps see there, UVI entries. Over the places of the output:

(1)  M  = sum_{n,p,q} a a^T                    (UVI, UVI)
(2)  m  = sum_{n,p,q} a                        (UVI,)
(3)  M  = R - sum_{n, (p,q) outside} a a^T,    s = 1
(4)  R[u,v,i,u',v',j] = r[u-u', v-v', i, j],   r = x~ correlated with x over (2U-1)(2V-1) places

Summed over all places, those outside of the output too, (1) depends on the distance of two taps alone: it is (4), the
gradient of a kernel of 2U-1 by 2V-1 taps, 25 I^2 products at each place for 3 x 3 taps in place of 81 I^2. Outside a
tap or two of each row or column of places see x.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from ..geometry import Window, resolve
from ..meshes import alike
from .convolution import _entries
from .correlations import kernel_gradient

__all__ = ["patch_moments"]


def patch_moments(x: jax.Array, window: Window, groups: int) -> tuple[jax.Array, jax.Array]:
    """(1) and (2) of each group of maps, in float32 at least.

    Args:
        x: (N, H, W, I).
        window: that of the convolution, resolved against x.
        groups: of the maps of x.

    Returns:
        (groups, K, K) and (groups, K), K = U V I / groups in the order of a kernel's entries.

    >>> window = resolve("conv2d", (1, 3), (1, 2))
    >>> moment, total = patch_moments(jnp.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1), window, 1)
    >>> print(moment[0], total[0])
    [[ 5.  8.]
     [ 8. 13.]] [3. 5.]
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    x = jnp.moveaxis(x.reshape(*x.shape[:3], groups, -1), 3, 0)
    (H, W), (P, Q) = window.size, window.output
    by_distance = window.stride == (1, 1) and 2 * P * Q >= H * W  # else most places are outside

    def of_group(x):
        return (_by_distance if by_distance else _by_patches)(x, window), _total(x, window)

    if groups == 1:  # `vmap` of one is slower
        moment, total = of_group(x[0])
        return moment[None], total[None]
    return jax.vmap(of_group)(x)


def _by_patches(x, window):
    """(1) as it stands, some images at a time: as many as give each product more terms than it has rows."""
    (P, Q), (U, V), (N, *_, I) = window.output, window.kernel, x.shape
    at_a_time = min(n for n in range(1, N + 1) if N % n == 0 and (n * P * Q >= U * V * I or n == N))

    def add(moment, x):
        return moment + _square(jnp.stack([entry for _, entry in _entries(window, x)], axis=3)), None

    start, x = alike((jnp.zeros((U * V * I, U * V * I), x.dtype), x))
    return lax.scan(add, start, x.reshape(-1, at_a_time, *x.shape[1:]))[0]


def _total(x, window):
    """(2)."""
    x = (jnp.ones(len(x), x.dtype) @ x.reshape(len(x), -1)).reshape(1, *x.shape[1:])
    return jnp.concatenate([entry.sum(axis=(0, 1, 2)) for _, entry in _entries(window, x)])


def _by_distance(x, window):
    """(3), (4)."""
    (U, V), (d, e), I = window.kernel, window.dilation, x.shape[3]
    padding = (((U - 1) * d,) * 2, ((V - 1) * e,) * 2)
    wide = resolve("conv2d", window.size, (2 * U - 1, 2 * V - 1), padding=padding, dilation=window.dilation)
    r, _ = kernel_gradient(x, x, wide, 1, bias=False)
    r = r[::-1, ::-1].transpose(2, 0, 1, 3)  # so that what a tap needs of it lies side by side: no large transpose
    rows = [r[:, U - 1 - u : 2 * U - 1 - u, V - 1 - v : 2 * V - 1 - v] for u, v in window.taps]  # (4)
    moment = jnp.stack(rows).reshape(U, V, I, U, V, I)
    for us, vs, a in _outside(x, window):
        square = _square(a.reshape(*a.shape[:2], -1, I)).reshape(a.shape[2:] * 2)
        around = [(us.start, U - us.stop), (vs.start, V - vs.stop), (0, 0)] * 2
        moment -= jnp.pad(square, around)  # (3)
    return moment.reshape(U * V * I, U * V * I)


def _outside(x, window) -> Iterator[tuple[slice, slice, jax.Array]]:
    """Each row, and then each column, of places outside: the taps (u, v) that see x there, and what they see.

    That is (N, places, taps, taps, I). The rows have no end, the columns that of the output.
    """
    (U, V), (P, Q), (d, e), (H, W) = window.kernel, window.output, window.dilation, window.size
    ((top, bottom), (left, _)) = window.padding
    endless = jnp.pad(x, ((0, 0), (0, 0), ((V - 1) * e,) * 2, (0, 0)))
    for p in (*range(top - (U - 1) * d, 0), *range(P, H + top)):
        us = [u for u in range(U) if 0 <= p + u * d - top < H]
        if us:
            rows = jnp.stack([endless[:, p + u * d - top] for u in us], axis=2)
            seen = jnp.stack([rows[:, v * e : v * e + W + (V - 1) * e] for v in range(V)], axis=3)
            yield slice(us[0], us[-1] + 1), slice(0, V), seen
    high = jnp.pad(x, ((0, 0), (top, bottom), (0, 0), (0, 0)))
    for q in (*range(left - (V - 1) * e, 0), *range(Q, W + left)):
        vs = [v for v in range(V) if 0 <= q + v * e - left < W]
        if vs:
            columns = jnp.stack([high[:, :, q + v * e - left] for v in vs], axis=2)
            seen = jnp.stack([columns[:, u * d : u * d + P] for u in range(U)], axis=2)
            yield slice(0, U), slice(vs[0], vs[-1] + 1), seen


def _square(a):
    """sum a a^T over all but the last two axes, the taps and the maps, of a (..., taps, I)."""
    a = a.reshape(-1, a.shape[-2] * a.shape[-1])
    return jnp.matmul(a.T, a, precision=lax.Precision.HIGHEST)
