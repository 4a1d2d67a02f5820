"""What `correlations` are on CPU, each in the formulation that runs fastest.

oneDNN computes what it takes; what is left to XLA is written for its routines, and every convolution with canonical
labels, since XLA runs others as a naive loop inside a scan.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from ..geometry import Window
from . import onednn
from .fold import Fold, columns_to_fold, columns_to_fold_delta
from .phases import Phases
from .program import LABELS, materialized


def correlate_on_cpu(x, weight, *, window: Window, groups: int):
    """(1) of `correlations`."""
    return _correlated(window, groups, x, weight)


def input_gradient_on_cpu(dy, weight, *, window: Window, groups: int):
    """(2) of `correlations`: dy with the kernel turned by 180 degrees, its channels swapped within each group."""
    U, V, I, O = weight.shape
    turned = weight[::-1, ::-1].reshape(U, V, I, groups, O // groups).transpose(0, 1, 4, 3, 2)
    return _correlated(window.backward, groups, dy, turned.reshape(U, V, O // groups, groups * I))


def _correlated(window, groups, x, weight):
    """x, spread and zero-padded, correlated with weight."""
    fast = _correlation(window, groups, x.shape[3], weight.shape[3])
    if window.spread == (1, 1) and onednn.takes(x, weight, padding=window.padding):
        fast = partial(onednn.instead_of, fast, _correlation_by_onednn(window, groups, weight.shape[3]))
    return fast(x, weight)


def _correlation_by_onednn(window, groups, O):
    """For less than 8 maps two columns in one pixel, which is faster: docs/speed.md."""
    if groups == 1 and O < 8 and window.kernel[1] > 1 and window.output[1] > 1:
        return partial(_folded, _by_onednn, window, 2)
    return partial(_by_onednn, window, groups)


def _correlation(window, groups, I, O):
    """The formulation of `_correlated` for XLA."""
    if groups > 1 and groups in (I, O):
        return partial(_shifted_products, window, groups)
    if groups > 1:
        return partial(_group_by_group, window, groups)
    if window.kernel == (1, 1) and (window.stride == (1, 1) or not _pads(window)):
        return partial(_product, window)
    if window.spread != (1, 1) and window.stride == (1, 1):
        return partial(_by_phases, window)
    columns = columns_to_fold(window, I, O)
    return partial(_convolution, window, 1) if columns == 1 else partial(_folded, _convolution, window, columns)


def kernel_gradient_on_cpu(x, dy, *, window: Window, groups: int):
    """(3) of `correlations`; stride and dilation swap their roles."""
    if x.dtype.itemsize < 4 and groups == 1:  # sums of bfloat16 are left to one convolution, which adds in float32
        return _gradient_by_convolution(window, groups, x, dy)
    fast = _gradient(window, groups, x.shape[3], dy.shape[3])
    if groups == 1 and onednn.takes(x, dy):
        if window.kernel == (1, 1) and not _pads(window):
            fast = partial(onednn.instead_of, fast, partial(_gradient_by_product, onednn.product_of_transposed, window))
        elif x.shape[3] >= 6 and _some_of_x_is_seen(window):
            volume = partial(_sum_over_chunks, partial(_gradient_in_volume, window))
            fast = partial(onednn.instead_of, fast, volume)
    return fast(x, dy)


def _gradient(window, groups, I, O):
    """The formulation of `kernel_gradient_on_cpu` for XLA."""
    if groups > 1 and groups in (I, O):
        return partial(_gradient_by_shifted_products, window, groups)
    if groups > 1:
        return partial(_gradient_group_by_group, window, groups)
    if window.kernel == (1, 1) and not _pads(window):
        return partial(_gradient_by_product, lambda x, dy: x.T @ dy, window)
    if I < 6 and window.kernel[1] * I <= O:
        return partial(_gradient_of_few_maps, window)
    columns = columns_to_fold_delta(window, O)
    if columns > 1:
        return partial(_gradient_folded, window, columns)
    return partial(_sum_over_chunks, partial(_gradient_by_convolution, window, 1))


def sum_over_positions_on_cpu(dy):
    """`correlations.sum_over_positions`: a product with ones, which is faster than XLA's sum, in one step or two.

    By oneDNN it is as fast and sooner compiled. Figures: docs/speed.md.
    """
    if dy.dtype.itemsize < 4:
        return plain_sum_over_positions(dy)
    fast = _product_with_ones
    if onednn.takes(dy):
        fast = partial(onednn.instead_of, fast, _product_with_ones_by_onednn)
    return fast(dy)


def plain_sum_over_positions(dy):
    return dy.sum(axis=(0, 1, 2), dtype=jnp.promote_types(dy.dtype, jnp.float32)).astype(dy.dtype)


def _product_with_ones(dy):
    over_batch = jnp.ones(dy.shape[0], dy.dtype) @ dy.reshape(dy.shape[0], -1)
    return over_batch.reshape(-1, dy.shape[3]).sum(axis=0)


def _product_with_ones_by_onednn(dy):
    positions = dy.reshape(-1, dy.shape[3])
    return onednn.product_of_transposed(jnp.ones((positions.shape[0], 1), dy.dtype), positions)[0]


def _convolution(window, groups, x, weight):
    return lax.conv_general_dilated(
        x,
        weight,
        window.stride,
        window.padding,
        lhs_dilation=window.spread,
        rhs_dilation=window.dilation,
        feature_group_count=groups,
        dimension_numbers=LABELS,
    )


def _folded(convolve, window, columns, x, weight):
    fold = Fold(window, columns)
    return fold.result(convolve(fold.window, 1, fold.image(x), fold.kernel(weight)))


def _by_onednn(window, groups, x, weight):
    return onednn.convolution(
        x,
        weight,
        strides=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        groups=groups,
        labels=LABELS,
    )


def _by_phases(window, x, weight):
    phases = Phases(window)
    return phases.result(_correlated(phases.window, 1, x, phases.kernel(weight)))


def _product(window, x, weight):
    """A kernel of one tap is a matrix product; unless strided, the padding and spread of x are zeros of y."""
    (s, t), (a, b) = window.stride, window.spread
    y = x[:, ::s, ::t] @ weight[0, 0]
    (top, bottom), (left, right) = window.padding
    return lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), (top, bottom, a - 1), (left, right, b - 1), (0, 0, 0)))


def _shifted_products(window, groups, x, weight):
    """Groups of one map on one side: sums over the taps, vectorised over the groups; XLA is far slower."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    U, V, I, O = weight.shape
    weight = weight.astype(dtype).reshape(U, V, I, groups, O // groups).swapaxes(2, 3)
    y = jnp.zeros((), dtype)
    for (u, v), entry in _entries(window, x):
        y += (_grouped(entry.astype(dtype), groups)[..., None] * weight[u, v]).sum(axis=-2)
    return y.reshape(*y.shape[:3], O).astype(x.dtype)


def _group_by_group(window, groups, x, weight):
    """Faster than the groups at once, which XLA computes slowly, above all for the gradient of the kernel."""
    pairs = zip(jnp.split(x, groups, axis=3), jnp.split(weight, groups, axis=3), strict=True)
    return jnp.concatenate([_correlated(window, 1, *pair) for pair in pairs], axis=3)


def _gradient_group_by_group(window, groups, x, dy):
    pairs = zip(jnp.split(x, groups, axis=3), jnp.split(dy, groups, axis=3), strict=True)
    return jnp.concatenate([kernel_gradient_on_cpu(*pair, window=window, groups=1) for pair in pairs], axis=3)


def _gradient_by_convolution(window, groups, x, dy):
    return lax.conv_general_dilated(
        materialized(x.transpose(3, 1, 2, 0)),
        materialized(dy.transpose(1, 2, 0, 3)),
        window.dilation,
        window.dweight_padding,
        rhs_dilation=window.stride,
        batch_group_count=groups,
        dimension_numbers=LABELS,
    ).transpose(1, 2, 0, 3)


def _gradient_of_few_maps(window, x, dy):
    """One convolution with dy as it lies for its kernel: N is its height, P its width, and the columns are channels.

    Only x is transposed, once for each column of the kernel, and there is no loop to compile. With many maps in x that
    costs more than it saves: docs/speed.md.
    """
    (U, V), (N, H, _, I), (_, _, Q, O) = window.kernel, x.shape, dy.shape
    (s, t), (d, e) = window.stride, window.dilation
    padded = jnp.pad(x, ((0, 0), (0, 0), window.padding[1], (0, 0)))
    seen = [padded[:, :, v * e : v * e + (Q - 1) * t + 1 : t].transpose(3, 0, 1, 2) for v in range(V)]
    dweight = lax.conv_general_dilated(
        materialized(jnp.stack(seen).reshape(V * I, N, H, Q)),
        dy,
        (1, d),
        ((0, 0), window.dweight_padding[0]),
        rhs_dilation=(1, s),
        dimension_numbers=LABELS,
    )
    return dweight.reshape(V, I, U, O).transpose(2, 0, 1, 3)


def _gradient_folded(window, columns, x, dy):
    fold = Fold(window, columns)

    def of_chunk(x, dy):
        return _gradient_by_convolution(fold.window, 1, fold.image(x), fold.delta(dy))

    return fold.kernel_gradient(_sum_over_chunks(of_chunk, x, dy))


def _gradient_in_volume(window, x, dy):
    """By oneDNN: x as one volume (H, W, I) with N channels, correlated with dy as a kernel (P, Q, 1).

    So its innermost product has I rows, as many as there are input maps, in place of V, the few columns of the kernel.
    Figures: docs/speed.md.
    """
    (_, bottom), (_, right) = pads = window.dweight_padding
    seen = x[:, : x.shape[1] + min(bottom, 0), : x.shape[2] + min(right, 0)]
    return onednn.convolution(
        seen.transpose(1, 2, 3, 0)[None],
        dy[:, :, :, None],
        strides=(*window.dilation, 1),
        padding=(*((before, max(behind, 0)) for before, behind in pads), (0, 0)),
        dilation=(*window.stride, 1),
        groups=1,
        labels=("NDHWC", "IDHWO", "NDHWC"),
    )[0]


def _some_of_x_is_seen(window):
    """Else every window lies in the padding before x."""
    return all(n + behind > 0 for n, (_, behind) in zip(window.size, window.dweight_padding, strict=True))


def _gradient_by_product(product, window, x, dy):
    """`product(a, b)` is a.T @ b."""
    (s, t), (p, q) = window.stride, window.output
    seen = x[:, ::s, ::t][:, :p, :q]
    return product(seen.reshape(-1, x.shape[3]), dy.reshape(-1, dy.shape[3]))[None, None]


def _sum_over_chunks(of_chunk, x, dy):
    """Chunks of the batch so small that what is transposed stays in the cache, which is faster than at once."""
    chunks = _chunks(x, dy)
    if chunks == 1:
        return of_chunk(x, dy)
    chunked = tuple(a.reshape(chunks, -1, *a.shape[1:]) for a in (x, dy))
    shape = jax.eval_shape(of_chunk, x, dy)
    total, _ = lax.scan(lambda total, chunk: (total + of_chunk(*chunk), None), jnp.zeros(shape.shape, x.dtype), chunked)
    return total


def _gradient_by_shifted_products(window, groups, x, dy):
    """sum_{n,p,q} x~[n, ps+ud, qs+vd, i] dy[n,p,q,o] for i and o of one group, image by image to stay in the cache."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)

    def add(total, sample):
        image, delta = (a.astype(dtype) for a in sample)
        delta = _grouped(delta, groups)[..., None, :]
        products = [_grouped(entry[0], groups)[..., None] * delta for _, entry in _entries(window, image[None])]
        return total + jnp.stack([product.sum(axis=0) for product in products]), None

    taps = window.kernel[0] * window.kernel[1]
    I, O = x.shape[3] // groups, dy.shape[3] // groups
    total, _ = lax.scan(add, jnp.zeros((taps, window.output[1], groups, I, O), dtype), (x, dy))
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


def _pads(window):
    return any(map(any, window.padding))


def _chunks(x, dy):
    """Into how many chunks of 8 to 16 samples a batch is cut; 1 if there is no such divisor, or nothing to gain.

    x and dy of 6 MiB or less are as fast at once, and a loop less is sooner compiled.
    """
    N = x.shape[0]
    if x.nbytes + dy.nbytes <= 6 * 2**20:
        return 1
    return next((N // size for size in range(16, 7, -1) if N % size == 0), 1)
