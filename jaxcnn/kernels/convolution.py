"""What the correlations are on CPU where oneDNN is not called: a few forms that XLA computes well.

Every convolution has canonical labels, since XLA on CPU runs others as a naive loop inside a scan. What it computes
slowly as a convolution, depthwise, of one map, spread by a stride, is a sum over the taps of the kernel.
"""

import jax
import jax.numpy as jnp
from jax import lax

from ..geometry import Window
from ..meshes import alike
from .program import LABELS, materialized

UNROLLED = 32  # taps that a sum is written out over, each a part of the program


def correlate_on_cpu(x, weight, *bias, window: Window, groups: int):
    """(1) of `correlations`, with the bias added if there is one."""
    y = _correlated(window, groups, x, weight)
    return (y + bias[0] if bias else y,)


def input_gradient_on_cpu(dy, weight, *, window: Window, groups: int):
    """(2) of `correlations`: dy with the kernel turned by 180 degrees, its channels swapped within each group."""
    U, V, I, O = weight.shape
    if groups == 1 and U * V <= UNROLLED and (window.stride != (1, 1) or I < 8):
        return (_sum_of_products(window, dy, weight),)
    turned = weight[::-1, ::-1].reshape(U, V, I, groups, O // groups).transpose(0, 1, 4, 3, 2)
    return (_correlated(window.backward, groups, dy, turned.reshape(U, V, O // groups, groups * I)),)


def kernel_gradient_on_cpu(x, dy, *, window: Window, groups: int, bias: bool, divided: bool = False):
    """(3) of `correlations`, in one way where XLA divides the program and another where it does not."""
    dweight = _gradient(window, groups, x, dy, divided)
    return (dweight, sum_over_positions(dy)) if bias else (dweight,)


def sum_over_positions(dy: jax.Array) -> jax.Array:
    """(O,): dy (N, P, Q, O) summed over the batch and the image, in two steps, which XLA on CPU makes sooner than one.

    >>> print(sum_over_positions(jax.numpy.array([[[[1.0, 10.0]], [[2.0, 20.0]]]])))
    [ 3. 30.]
    """
    N, P, Q, O = dy.shape
    wide = dy.astype(jnp.promote_types(dy.dtype, jnp.float32))
    return wide.reshape(N, P * Q * O).sum(axis=0).reshape(P * Q, O).sum(axis=0).astype(dy.dtype)


def patches(window: Window, x: jax.Array) -> jax.Array:
    """(N, P, Q, U V, C): what each window sees of x (N, H, W, C), spread and zero-padded."""
    return jnp.stack([entry for _, entry in _entries(window, x)], axis=3)


def _correlated(window, groups, x, weight):
    """x, spread and zero-padded, correlated with weight."""
    I, O = x.shape[3], weight.shape[3]
    if groups in (I, O) and (groups > 1 or window.kernel[0] * window.kernel[1] <= UNROLLED):
        return _shifted_products(window, groups, x, weight)
    if groups > 1:
        pairs = zip(jnp.split(x, groups, axis=3), jnp.split(weight, groups, axis=3), strict=True)
        return jnp.concatenate([_correlated(window, 1, *pair) for pair in pairs], axis=3)
    return lax.conv_general_dilated(
        x,
        weight,
        window.stride,
        window.padding,
        lhs_dilation=window.spread,
        rhs_dilation=window.dilation,
        dimension_numbers=LABELS,
    )


def _gradient(window, groups, x, dy, divided):
    """x, zero-padded, correlated with dy: stride and dilation swap their roles."""
    I, O = x.shape[3], dy.shape[3]
    if groups > 1 and groups in (I, O):
        return _gradient_by_shifted_products(window, groups, x, dy, divided)
    if groups > 1:
        pairs = zip(jnp.split(x, groups, axis=3), jnp.split(dy, groups, axis=3), strict=True)
        return jnp.concatenate([_gradient(window, 1, *pair, divided) for pair in pairs], axis=3)
    return lax.conv_general_dilated(
        materialized(x.transpose(3, 1, 2, 0)),
        materialized(dy.transpose(1, 2, 0, 3)),
        window.dilation,
        window.dweight_padding,
        rhs_dilation=window.stride,
        dimension_numbers=LABELS,
    ).transpose(1, 2, 0, 3)


def _shifted_products(window, groups, x, weight):
    """Groups of one map on one side: sums over the taps, vectorised over the maps."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    U, V, I, O = weight.shape
    weight = weight.astype(dtype).reshape(U, V, I, groups, O // groups).swapaxes(2, 3)
    y = jnp.zeros((), dtype)
    for (u, v), entry in _entries(window, x):
        y += (_grouped(entry.astype(dtype), groups)[..., None] * weight[u, v]).sum(axis=-2)
    return materialized(y.reshape(*y.shape[:3], O).astype(x.dtype))  # or it rounds as what it is fused into


def _sum_of_products(window, dy, weight):
    """dx as the book's formula has it: for each tap dy w[u,v]^T, one product for all, added where that tap saw x.

    No product has a zero of the spread dy in it; with many maps and no stride the sums cost more than that saves.
    """
    dtype = jnp.promote_types(dy.dtype, jnp.float32)
    (h, w), (p, q), (s, t), (d, e) = window.size, window.output, window.stride, window.dilation
    ((top, _), (left, _)) = window.padding
    products = materialized(jnp.einsum("npqo,uvio->npquvi", dy, weight, preferred_element_type=dtype))
    dx = jnp.zeros((), dtype)
    for u, v in window.taps:
        a, b = u * d - top, v * e - left  # where the tap's first product belongs
        pads = ((a, h - a - (p - 1) * s - 1, s - 1), (b, w - b - (q - 1) * t - 1, t - 1))
        dx += lax.pad(products[:, :, :, u, v], jnp.zeros((), dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    return dx.astype(dy.dtype)


def _gradient_by_shifted_products(window, groups, x, dy, divided):
    """sum_{n,p,q} x~[n, ps+ud, qs+vd, i] dy[n,p,q,o] for i and o of one group, image by image to stay in the cache.

    All images at once where they may lie on several devices: a loop over them would have each gather all.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)

    def summed(x, dy):
        x, dy = x.astype(dtype), _grouped(dy.astype(dtype), groups)[..., None, :]
        products = [_grouped(entry, groups)[..., None] * dy for _, entry in _entries(window, x)]
        return jnp.stack([product.sum(axis=(0, 1)) for product in products])

    def add(total, sample):
        return total + summed(*(array[None] for array in sample)), None

    taps = window.kernel[0] * window.kernel[1]
    I, O = x.shape[3] // groups, dy.shape[3] // groups
    if divided:
        total = summed(x, dy)
    else:
        start, x, dy = alike((jnp.zeros((taps, window.output[1], groups, I, O), dtype), x, dy))
        total, _ = lax.scan(add, start, (x, dy))
    return total.sum(axis=1).swapaxes(1, 2).reshape(*window.kernel, I, groups * O).astype(x.dtype)


def _grouped(x, groups):
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _entries(window, x):
    """For each tap (u, v) what it sees of x, spread and zero-padded: (N, P, Q, C)."""
    (p, q), (s, t), (d, e) = window.output, window.stride, window.dilation
    pads = [(lo, hi, spread - 1) for (lo, hi), spread in zip(window.padding, window.spread, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    for u, v in window.taps:
        yield (u, v), x[:, u * d : u * d + (p - 1) * s + 1 : s, v * e : v * e + (q - 1) * t + 1 : t]
