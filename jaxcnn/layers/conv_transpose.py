r"""Transposed 2-D convolution, by the weight of the convolution whose transpose it is. NHWC input and output.

Shapes:  x, dx (N,H,W,I)   weight (U,V,O/g,I)   bias (O,)   y, dy (N,P,Q,O)

The convolution from the maps of y to those of x, z[n,a,b,i] = sum_{u,v,o} y~[n, as+ud, bs+vd, o] weight[u,v,o,i], is
(1) of conv.py with the letters exchanged. Its backward, with x for dz, is this layer; its forward, of dy, is this
layer's backward:

(1)  y~[n,p,q,o]      = bias[o] + sum_{u,v,i} x'[n, p-ud, q-vd, i] weight[u,v,o,i]          its dx,      (4)    [N24]
(2)  dx[n,a,b,i]      = sum_{u,v,o} dy~[n, as+ud, bs+vd, o] weight[u,v,o,i]                 itself,      (1)    [N24]
(3)  dweight[u,v,o,i] = sum_{n,a,b} dy~[n, as+ud, bs+vd, o] x[n,a,b,i]                      its dweight, (3)    [N24]
(4)  dbias[o]         = sum_{n,p,q} dy[n,p,q,o]                                                                 [N24]

x' is x spread over the grid of y~, x'[as, bs] = x[a,b] and zero elsewhere; s, d, g are stride, dilation and groups.
y~ is y with the padding around it, which (1) computes and crops, and which holds zeros in dy~. In (3) the roles are
exchanged: dy is what the window moves over, and x the kernel. The size of y is (6) of geometry.py.
Zeiler et al., *Deconvolutional networks* (2010); Dumoulin & Visin, *A guide to convolution arithmetic for deep
learning* (2016), chapter 4.
Loops: reference/conv_transpose.py. Tests: tests/layers/test_conv_transpose.py.
"""

from dataclasses import KW_ONLY, dataclass

import jax.numpy as jnp

from ..errors import InputError, check_count, check_flag, check_floating, check_shape
from ..geometry import Pads, Pair, check_transposed, pair, resolve_transposed
from ..initializers import find_initializer, initialize
from ..kernels import correlate, input_gradient, kernel_gradient, materialized, sum_over_positions
from ..operation import operation
from .base import OperationLayer, check_image

__all__ = ["ConvTranspose2d", "conv_transpose2d"]


@operation
def conv_transpose2d(
    x,
    weight,
    bias=None,
    *,
    stride: int | Pair = 1,
    padding: int | Pads = 0,
    output_padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
):
    """Transposed convolution, "deconvolution": what `conv2d` of the same weight and geometry does to its dy [N24].

    Args:
        x: (N, H, W, I), float32, bfloat16 or float64.
        weight: (U, V, O / groups, I), the same dtype: the very weight of the `conv2d` from O maps to I. PyTorch's
            `ConvTranspose2d` has it as (I, O / groups, U, V), that is `weight.transpose(3, 2, 0, 1)`, nothing flipped.
        bias: (O,), the same dtype, or None.
        stride: distance at which the kernels are laid down, an int or (height, width).
        padding: rows and columns cut off y, an int or ((top, bottom), (left, right)): the padding of that `conv2d`.
        output_padding: rows and columns more at the end of y, an int or (height, width), below the stride.
        dilation: distance between two taps of the kernel, an int or (height, width); 1 means none.
        groups: the input and output maps fall into this many groups, each convolved apart.

    Returns:
        (N, P, Q, O) of x's dtype with P = (H - 1) stride - top - bottom + dilation (U - 1) + 1 + output_padding, and Q
        likewise. Its derivative is `conv_transpose2d.backward`.

    Raises:
        InputError: a shape, a dtype or the geometry does not fit.

    >>> x = jnp.array([[1.0, 2.0]]).reshape(1, 1, 2, 1)
    >>> y, residuals = conv_transpose2d.forward(x, jnp.array([1.0, 10.0, 100.0]).reshape(1, 3, 1, 1), stride=2)
    >>> print(y[0, :, :, 0])
    [[  1.  10. 102.  20. 200.]]

    dbias is None without a bias. The keyword arguments are those of the forward pass.

    >>> dx, dweight, dbias = conv_transpose2d.backward(residuals, jnp.ones_like(y), stride=2)
    >>> print(dx[0, :, :, 0], dweight[:, :, 0, 0])
    [[111. 111.]] [[3. 3. 3.]]
    """
    _check(x, weight, bias, groups)
    window = _window(x, weight, stride, padding, output_padding, dilation)
    y = input_gradient(x, weight, window, groups)  # (1)
    return y if bias is None else y + bias, (x, weight, bias)


@conv_transpose2d.rule
def _(residuals, dy, *, stride, padding, output_padding, dilation, groups):
    """(2)-(4): `(dx, dweight, dbias)` from `conv_transpose2d.forward`'s residuals and dy (N, P, Q, O)."""
    x, weight, bias = residuals
    window = _window(x, weight, stride, padding, output_padding, dilation)
    check_shape("conv_transpose2d.backward", "dy", dy, (x.shape[0], *window.size, weight.shape[2] * groups))
    dy = materialized(dy)

    dx = correlate(dy, weight, None, window, groups)  # (2)
    dweight, _ = kernel_gradient(dy, x, window, groups, bias=False)  # (3)
    return dx, dweight, None if bias is None else sum_over_positions(dy)  # (4)


def _window(x, weight, stride, padding, output_padding, dilation):
    """The window of the convolution whose transpose this is: it moves over y, and x has its output's size."""
    return resolve_transposed(
        "conv_transpose2d",
        x.shape[1:3],
        weight.shape[:2],
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
    )


def _check(x, weight, bias, groups):
    check_floating("conv_transpose2d", 4, x=x, weight=weight, bias=bias)
    if weight.ndim != 4:
        raise InputError(
            f"conv_transpose2d: weight has shape {weight.shape} but must have 4 dimensions (height, width, out, in)"
        )
    if weight.shape[3] != x.shape[3]:
        raise InputError(
            f"conv_transpose2d: weight has {weight.shape[3]} input channels, its last dimension, but must have "
            f"{x.shape[3]}, as x (x shape {x.shape})"
        )
    check_count("conv_transpose2d", "groups", groups)
    _check_groups(groups, x.shape[3], weight.shape[2] * groups)
    if bias is not None:
        check_shape("conv_transpose2d", "bias", bias, (weight.shape[2] * groups,))


def _check_groups(groups, in_channels, out_channels):
    if in_channels % groups or out_channels % groups:
        raise InputError(
            f"conv_transpose2d: groups is {groups} but must divide the {in_channels} input and the {out_channels} "
            "output channels"
        )


@dataclass(frozen=True)
class ConvTranspose2d(OperationLayer):
    """Spec of a transposed convolution to `out_channels` maps; most other fields are arguments of `conv_transpose2d`.

    The number of input maps is found when it meets its input. For the initial weights an entry of y is a sum of
    U V I / (groups height width) products, of a stride (height, width): the mean over y, taken as 1 at least.

    >>> ConvTranspose2d(16, 4, stride=2, padding=1).output_shape((7, 7, 32))
    (14, 14, 16)
    """

    out_channels: int
    kernel_size: int | Pair
    _: KW_ONLY
    stride: int | Pair = 1
    padding: int | Pads = 0
    output_padding: int | Pair = 0
    dilation: int | Pair = 1
    groups: int = 1
    bias: bool = True
    initializer: str = "he_normal"

    op = conv_transpose2d

    def __post_init__(self):
        check_count("conv_transpose2d", "out_channels", self.out_channels)
        check_count("conv_transpose2d", "groups", self.groups)
        sizes = self.kernel_size, self.stride, self.padding, self.output_padding, self.dilation
        check_transposed("conv_transpose2d", *sizes)
        check_flag("conv_transpose2d", "bias", self.bias)
        find_initializer(self.initializer)

    def init(self, key, in_shape):
        check_image("conv_transpose2d", in_shape)
        _check_groups(self.groups, in_shape[2], self.out_channels)
        (U, V), (s, t) = self._pair("kernel_size"), self._pair("stride")
        shape = (U, V, self.out_channels // self.groups, in_shape[2])
        fan_in, fan_out = max(1, U * V * in_shape[2] / (self.groups * s * t)), U * V * shape[2]
        weight = initialize(self.initializer, key, shape, fan_in, fan_out)
        return {"weight": weight, "bias": jnp.zeros(self.out_channels)} if self.bias else {"weight": weight}

    def multiply_adds(self, in_shape):
        (U, V), (H, W, I) = self._pair("kernel_size"), in_shape
        return H * W * U * V * I * (self.out_channels // self.groups)

    def _pair(self, name):
        return pair("conv_transpose2d", name, getattr(self, name))
