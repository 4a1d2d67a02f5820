r"""The three correlations of a convolution layer, as primitives of JAX, each other's derivatives; and a sum.

(1)  correlate        y  = x~ * w                    (2)  input_gradient   dx = dy~ * rot180(w)
(3)  kernel_gradient  dw = x~ * dy

Each is linear in either argument, and <dy, y(x, w)> = <dx(dy, w), x> = <dw(x, dy), w>. So the derivative of (2) in dy
is (1) and in w is (3), that of (3) in x is (2) and in dy is (1). That of (1) would be (2) and (3); it is left to JAX's
own convolution, so that automatic differentiation of a forward pass is an oracle that meets neither.

On CPU each is what `convolution` makes of it. Elsewhere it is the convolution that automatic differentiation asks for,
labels and all: the one that XLA's compilers for GPU and TPU recognise.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ..geometry import Window
from . import convolution
from .program import LABELS


def correlate(x: jax.Array, weight: jax.Array, window: Window, groups: int) -> jax.Array:
    """(1): x, zero-padded, correlated with weight.

    Args:
        x: (N, H, W, I).
        weight: (U, V, I / groups, O).
        window: that of the forward pass, resolved against x.
        groups: see `conv2d`.

    Returns:
        (N, P, Q, O).
    """
    return _correlate.bind(x, weight, window=window, groups=groups)


def input_gradient(dy: jax.Array, weight: jax.Array, window: Window, groups: int) -> jax.Array:
    """(2): dy (N, P, Q, O), spread by the stride and zero-padded, correlated with rot180(weight): (N, H, W, I)."""
    return _input_gradient.bind(dy, weight, window=window, groups=groups)


def kernel_gradient(x: jax.Array, dy: jax.Array, window: Window, groups: int) -> jax.Array:
    """(3): x, zero-padded, correlated with dy as the kernel, the batch contracted: (U, V, I / groups, O)."""
    return _kernel_gradient.bind(x, dy, window=window, groups=groups)


def sum_over_positions(dy: jax.Array) -> jax.Array:
    """(O,): dy (N, P, Q, O) summed over the batch and the image.

    >>> print(sum_over_positions(jax.numpy.array([[[[1.0, 10.0]], [[2.0, 20.0]]]])))
    [ 3. 30.]
    """
    return _sum_over_positions.bind(dy)


def _correlate_elsewhere(x, weight, *, window, groups):
    return lax.conv_general_dilated(
        x,
        weight,
        window.stride,
        window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=groups,
        dimension_numbers=LABELS,
    )


def _input_gradient_elsewhere(dy, weight, *, window, groups):
    U, V, I, O = weight.shape
    if groups > 1:
        weight = weight.reshape(U, V, I, groups, O // groups).transpose(0, 1, 3, 2, 4)
        weight = weight.reshape(U, V, groups * I, O // groups)
    return lax.conv_general_dilated(
        dy,
        lax.rev(weight, (0, 1)),
        (1, 1),
        window.dx_padding,
        lhs_dilation=window.stride,
        rhs_dilation=window.dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWOI", "NHWC"),
    )


def _kernel_gradient_elsewhere(x, dy, *, window, groups):
    return lax.conv_general_dilated(
        x,
        dy,
        window.dilation,
        window.dweight_padding,
        rhs_dilation=window.stride,
        batch_group_count=groups,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),  # what is summed over, the batch, is called C and I here
    )


def _primitive(name: str, on_cpu: Callable, elsewhere: Callable) -> Primitive:
    """One formulation on CPU and another elsewhere, chosen when a program is lowered."""
    primitive = Primitive(name)

    def evaluated(*arrays, **facts):
        with jax.disable_jit(False):  # oneDNN's calls exist in a compiled program alone
            return jax.jit(partial(primitive.bind, **facts))(*arrays)

    def abstract(*arrays, **facts):
        (y,) = jax.make_jaxpr(partial(elsewhere, **facts))(*arrays).out_avals
        return y

    def batched(arrays, axes, **facts):
        chosen = partial(lax.platform_dependent, cpu=partial(on_cpu, **facts), default=partial(elsewhere, **facts))
        return jax.vmap(chosen, axes)(*arrays), 0

    primitive.def_impl(evaluated)
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")
    batching.primitive_batchers[primitive] = batched
    return primitive


_correlate = _primitive("correlate", convolution.correlate_on_cpu, _correlate_elsewhere)
_input_gradient = _primitive("input_gradient", convolution.input_gradient_on_cpu, _input_gradient_elsewhere)
_kernel_gradient = _primitive("kernel_gradient", convolution.kernel_gradient_on_cpu, _kernel_gradient_elsewhere)
_sum_over_positions = _primitive(
    "sum_over_positions", convolution.sum_over_positions_on_cpu, convolution.plain_sum_over_positions
)

ad.deflinear2(_sum_over_positions, lambda total, dy: [jnp.broadcast_to(total, dy.aval.shape)])
ad.defjvp(
    _correlate,
    lambda tangent, x, weight, **facts: _correlate_elsewhere(tangent, weight, **facts),
    lambda tangent, x, weight, **facts: _correlate_elsewhere(x, tangent, **facts),
)
ad.defbilinear(
    _input_gradient,
    lambda x, dy, weight, **facts: _correlate.bind(x, weight, **facts),
    lambda x, dy, weight, **facts: _kernel_gradient.bind(x, dy, **facts),
)
ad.defbilinear(
    _kernel_gradient,
    lambda weight, x, dy, **facts: _input_gradient.bind(dy, weight, **facts),
    lambda weight, x, dy, **facts: _correlate.bind(x, weight, **facts),
)
