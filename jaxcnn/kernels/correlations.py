r"""The three correlations of a convolution layer, as primitives of JAX, each other's derivatives, and a fourth.

(1)  correlate        y        = x~ * w + b
(2)  input_gradient   dx       = dy~ * rot180(w)
(3)  kernel_gradient  (dw, db) = (x~ * dy, sum dy)      db where it is asked for
(4)  kernel_gradient_and_squares   (3) and |dw_n|^2 + |db_n|^2 of each sample n, which has no derivative

Of the first three each is linear in either argument, w and b taken as one, and <dy, y(x, w, b)> = <dw(x, dy), w> +
<db(dy), b>, without b also <dx(dy, w), x>. So the derivative of (2) in dy is (1) and in w is (3), that of (3) in x is
(2) and in dy is (1). That of (1) would be (2) and (3); it is left to JAX's own convolution, so that automatic
differentiation of a forward pass is an oracle that meets neither.

On CPU each is a call of `onednn`, or what `convolution` makes of it. Elsewhere it is the convolution that automatic
differentiation asks for, labels and all: the one that XLA's compilers for GPU and TPU recognise. (4) without oneDNN is
in `squares`.

All arrays of a primitive may have a dimension in front, as many correlations of one shape: what `jax.vmap` makes.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ..geometry import Window
from . import convolution, onednn
from .program import LABELS, is_divided
from .squares import gradient_and_squares


def correlate(x: jax.Array, weight: jax.Array, bias: jax.Array | None, window: Window, groups: int) -> jax.Array:
    """(1): x, zero-padded, correlated with weight, plus the bias if there is one.

    Args:
        x: (N, H, W, I).
        weight: (U, V, I / groups, O).
        bias: (O,) or None.
        window: that of the forward pass, resolved against x.
        groups: see `conv2d`.

    Returns:
        (N, P, Q, O).
    """
    arrays = (x, weight) if bias is None else (x, weight, bias)
    return _correlate.bind(*arrays, window=window, groups=groups)[0]


def input_gradient(dy: jax.Array, weight: jax.Array, window: Window, groups: int) -> jax.Array:
    """(2): dy (N, P, Q, O), spread by the stride and zero-padded, correlated with rot180(weight): (N, H, W, I)."""
    return _input_gradient.bind(dy, weight, window=window, groups=groups)[0]


def kernel_gradient(
    x: jax.Array, dy: jax.Array, window: Window, groups: int, *, bias: bool
) -> tuple[jax.Array, jax.Array | None]:
    """(3): x, zero-padded, correlated with dy as the kernel, the batch contracted, (U, V, I / groups, O).

    With it db (O,) where there is a bias, or None.
    """
    dweight, *dbias = _kernel_gradient.bind(x, dy, window=window, groups=groups, bias=bias)
    return dweight, dbias[0] if bias else None


def kernel_gradient_and_squares(
    x: jax.Array, dy: jax.Array, window: Window, groups: int, *, bias: bool
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """(4): `kernel_gradient`, and the squared norm of each sample's own, in about its time, never holding them all.

    Args:
        x: (N, H, W, I).
        dy: (N, P, Q, O), of x's dtype.
        window: that of the forward pass, resolved against x.
        groups: see `conv2d`.
        bias: whether there is one, whose gradient counts, too.

    Returns:
        dweight (U, V, I / groups, O); dbias (O,) or None; and the squares (N,), in float32 unless x is in float64.

    >>> from jaxcnn.geometry import resolve
    >>> x, dy = jnp.array([1.0, 2.0]).reshape(2, 1, 1, 1), jnp.full((2, 1, 1, 1), 3.0)
    >>> dweight, _, squares = kernel_gradient_and_squares(x, dy, resolve("x", (1, 1), (1, 1)), 1, bias=False)
    >>> print(dweight.sum(), squares)  # of 3 and 6
    9.0 [ 9. 36.]
    """
    dweight, squares, *dbias = _kernel_gradient_and_squares.bind(x, dy, window=window, groups=groups, bias=bias)
    return dweight, dbias[0] if bias else None, squares


def _correlate_elsewhere(x, weight, *bias, window, groups):
    y = lax.conv_general_dilated(
        x,
        weight,
        window.stride,
        window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=groups,
        dimension_numbers=LABELS,
    )
    return (y + bias[0] if bias else y,)


def _input_gradient_elsewhere(dy, weight, *, window, groups):
    U, V, I, O = weight.shape
    if groups > 1:
        weight = weight.reshape(U, V, I, groups, O // groups).transpose(0, 1, 3, 2, 4)
        weight = weight.reshape(U, V, groups * I, O // groups)
    dx = lax.conv_general_dilated(
        dy,
        lax.rev(weight, (0, 1)),
        (1, 1),
        window.dx_padding,
        lhs_dilation=window.stride,
        rhs_dilation=window.dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWOI", "NHWC"),
    )
    return (dx,)


def _kernel_gradient_elsewhere(x, dy, *, window, groups, bias):
    dweight = lax.conv_general_dilated(
        x,
        dy,
        window.dilation,
        window.dweight_padding,
        rhs_dilation=window.stride,
        batch_group_count=groups,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),  # what is summed over, the batch, is called C and I here
    )
    return (dweight, convolution.sum_over_positions(dy)) if bias else (dweight,)


def _primitive(name: str, on_cpu: Callable, elsewhere: Callable, divided: Callable | None = None) -> Primitive:
    """A call of oneDNN or another formulation on CPU, and one for elsewhere, chosen when a program is lowered.

    On CPU, where XLA divides the program among devices, it is `divided` if that is given.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True

    def evaluated(*arrays, **facts):
        with jax.disable_jit(False):  # a call exists in a compiled program alone
            return jax.jit(partial(primitive.bind, **facts))(*arrays)

    def abstract(*arrays, **facts):
        return jax.make_jaxpr(partial(_each, elsewhere, **facts))(*arrays).out_avals

    def lowered_on_cpu(ctx, *arrays, **facts):
        results = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in ctx.avals_out]
        formulation = partial(_each, divided if divided and is_divided(ctx) else on_cpu)
        if onednn.takes(ctx, name, ctx.avals_in):
            formulation = partial(onednn.call, name, results)
        return mlir.lower_fun(formulation, multiple_results=True)(ctx, *arrays, **facts)

    def batched(arrays, axes, **facts):
        """More samples, where the first array alone is mapped, unless samples are summed; else B correlations."""
        (first, *others), (axis, *other_axes) = arrays, axes
        if not name.startswith("kernel_gradient") and not any(i is not None for i in other_axes):
            place = _in_front(others[0])  # of N, which B is put before
            first = jnp.moveaxis(first, axis, place)
            (result,) = primitive.bind(_merged(first, place), *others, **facts)
            return [result.reshape(*first.shape[: place + 2], *result.shape[place + 1 :])], [place]
        (B,) = {a.shape[i] for a, i in zip(arrays, axes, strict=True) if i is not None}
        stacked = [
            jnp.broadcast_to(a, (B, *a.shape)) if i is None else jnp.moveaxis(a, i, 0)
            for a, i in zip(arrays, axes, strict=True)
        ]
        if _in_front(stacked[0]) == 1:
            results = primitive.bind(*stacked, **facts)
        else:
            results = primitive.bind(*(_merged(a, 0) for a in stacked), **facts)
            results = [r.reshape(B, -1, *r.shape[1:]) for r in results]
        return results, [0] * len(results)

    primitive.def_impl(evaluated)
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(partial(_each, elsewhere), multiple_results=True))
    mlir.register_lowering(primitive, lowered_on_cpu, platform="cpu")
    batching.primitive_batchers[primitive] = batched
    return primitive


def _each(formulation: Callable, *arrays, **facts):
    """The formulation, for each correlation if there is a dimension in front."""
    f = partial(formulation, **facts)
    return f(*arrays) if _in_front(arrays[0]) == 0 else jax.vmap(f)(*arrays)


def _in_front(x) -> int:
    return x.ndim - 4


def _merged(x, axis):
    """`axis` and the next one as one."""
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


_correlate = _primitive("correlate", convolution.correlate_on_cpu, _correlate_elsewhere)
_input_gradient = _primitive("input_gradient", convolution.input_gradient_on_cpu, _input_gradient_elsewhere)
_kernel_gradient = _primitive(
    "kernel_gradient",
    convolution.kernel_gradient_on_cpu,
    _kernel_gradient_elsewhere,
    partial(convolution.kernel_gradient_on_cpu, divided=True),
)
_squares_elsewhere = partial(gradient_and_squares, kernel_gradient)
_kernel_gradient_and_squares = _primitive(
    "kernel_gradient_and_squares",
    partial(_squares_elsewhere, on_cpu=True),
    _squares_elsewhere,
    _squares_elsewhere,
)


def _jvp_of_correlate(arrays, tangents, **facts):
    (x, weight), (dx, dweight, *dbias) = arrays[:2], tangents
    f = partial(_each, _correlate_elsewhere, **facts)
    terms = [] if type(dx) is ad.Zero else [*f(dx, weight)]
    terms += [] if type(dweight) is ad.Zero else [*f(x, dweight)]
    (y,) = _correlate.bind(*arrays, **facts)
    terms += [_over_positions(db, y) for db in dbias if type(db) is not ad.Zero]
    return [y], [sum(terms[1:], terms[0])]


def _over_positions(bias, y):
    """The bias, of one correlation or of each, at every place of y."""
    return jnp.broadcast_to(jnp.expand_dims(bias, (-4, -3, -2)), y.shape)


def _bilinear(primitive: Primitive, in_first: Callable, in_second: Callable) -> None:
    """The derivatives of (2) or (3), whose result is linear in each array; db is linear in the second alone.

    `in_first(cotangent, second)` and `in_second(cotangents, first)` are the transposes.
    """

    def jvp(arrays, tangents, **facts):
        (first, second), (d_first, d_second) = arrays, tangents
        results = primitive.bind(*arrays, **facts)
        slopes = [jnp.zeros_like(r) for r in results]
        if type(d_second) is not ad.Zero:
            slopes = primitive.bind(first, d_second, **facts)
        if type(d_first) is not ad.Zero:
            slopes = [slopes[0] + primitive.bind(d_first, second, **facts)[0], *slopes[1:]]
        return results, slopes

    def transpose(cotangents, first, second, **facts):
        of_first = ad.is_undefined_primal(first)
        if all(type(c) is ad.Zero for c in (cotangents[:1] if of_first else cotangents)):
            return [None, None]
        if of_first:
            return [in_first(cotangents[0], second, **facts), None]
        return [None, in_second(cotangents, first, second.aval, **facts)]

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose


def _dy_of_kernel_gradient(cotangents, x, dy, *, bias, **facts):
    weight, *dbias = cotangents
    if type(weight) is ad.Zero:
        return _over_positions(dbias[0], dy)
    return _correlate.bind(x, weight, *(db for db in dbias if type(db) is not ad.Zero), **facts)[0]


ad.primitive_jvps[_correlate] = _jvp_of_correlate
_bilinear(
    _input_gradient,
    lambda x, weight, **facts: _correlate.bind(x, weight, **facts)[0],
    lambda cotangents, dy, weight, **facts: _kernel_gradient.bind(cotangents[0], dy, bias=False, **facts)[0],
)
_bilinear(
    _kernel_gradient,
    lambda weight, dy, *, bias, **facts: _input_gradient.bind(dy, weight, **facts)[0],
    _dy_of_kernel_gradient,
)
