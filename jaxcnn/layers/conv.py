r"""2-D convolution (cross-correlation): NHWC input, HWIO weight, NHWC output.

Shapes:  x (N,H,W,I)   weight (U,V,I/g,O)   bias (O,)   y, dy (N,P,Q,O)

(1)  y[n,p,q,o]       = bias[o] + sum_{u,v,i} x~[n, ps+ud, qs+vd, i] weight[u,v,i,o]              [F1, G2]
(2)  dbias[o]         = sum_{n,p,q} dy[n,p,q,o]                                                       [B8]
(3)  dweight[u,v,i,o] = sum_{n,p,q} x~[n, ps+ud, qs+vd, i] dy[n,p,q,o]                                [B7]
(4)  dx~[n,a,b,i]     = sum_{u,v,o} dy'[n, a-ud, b-vd, o] weight[u,v,i,o]                         [B3, B5]

x~ is x zero-padded, s the stride, d the dilation, g the groups: output map o sees the I/g input maps of its group. dy'
is dy spread over the grid of x~, dy'[ps, qs] = dy[p,q] and zero elsewhere. In (4) the taps run backwards: it is dy',
zero-padded, correlated with rot180(weight).
With connections [F2], which the layer spec has, weight[:,:,i,o] and its gradient are zero unless i is in M_o.
Loops: reference/conv.py. Tests: tests/layers/test_conv.py.
"""

from dataclasses import KW_ONLY, dataclass

import jax.numpy as jnp
import numpy as np

from ..errors import InputError, check_count, check_flag, check_floating, check_shape, is_int
from ..geometry import Padding, Pair, check_window, pair, resolve
from ..initializers import find_initializer, initial_bias, initialize
from ..kernels import correlate, input_gradient, kernel_gradient, materialized
from ..operation import operation
from .base import OperationLayer, check_image, parameter

__all__ = ["LENET5_C3", "Conv2d", "conv2d"]


@operation
def conv2d(
    x,
    weight,
    bias=None,
    *,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
):
    """2-D convolution as the documents and deep learning mean it: cross-correlation, the kernel not flipped [F1].

    Args:
        x: (N, H, W, I), float32, bfloat16 or float64.
        weight: (U, V, I / groups, O), the same dtype.
        bias: (O,), the same dtype, or None.
        stride: step of the window, an int or (height, width).
        padding: zeros around x: an int, ((top, bottom), (left, right)), "SAME" (as XLA defines it) or "VALID".
        dilation: distance between two taps of the kernel, an int or (height, width); 1 means none.
        groups: the input and output maps fall into this many groups, each convolved apart; I means depthwise.

    Returns:
        (N, P, Q, O) of x's dtype, P and Q by `geometry.output_size`. Its derivative is `conv2d.backward`.

    Raises:
        InputError: a shape, a dtype or the geometry does not fit.

    >>> conv2d(jnp.ones((1, 5, 7, 2)), jnp.ones((3, 2, 2, 4)), stride=(2, 1), padding="SAME").shape
    (1, 3, 7, 4)

    dbias is None without a bias. The keyword arguments are those of the forward pass.

    >>> y, residuals = conv2d.forward(jnp.ones((1, 3, 3, 1)), jnp.ones((2, 2, 1, 1)))
    >>> dx, dweight, dbias = conv2d.backward(residuals, y)
    >>> print(dx[0, :, :, 0])
    [[ 4.  8.  4.]
     [ 8. 16.  8.]
     [ 4.  8.  4.]]
    """
    window = _resolve(x, weight, bias, stride, padding, dilation, groups)
    y = correlate(x, weight, bias, window, groups)  # (1)
    return y, (x, weight, bias)


@conv2d.rule
def _(residuals, dy, *, stride, padding, dilation, groups):
    """(2)-(4): `(dx, dweight, dbias)` from `conv2d.forward`'s residuals and dy (N, P, Q, O)."""
    x, weight, bias = residuals
    window = resolve("conv2d", x.shape[1:3], weight.shape[:2], stride=stride, padding=padding, dilation=dilation)
    check_shape("conv2d.backward", "dy", dy, (x.shape[0], *window.output, weight.shape[3]))
    dy = materialized(dy)

    dweight, dbias = kernel_gradient(x, dy, window, groups, bias=bias is not None)  # (2), (3)
    dy, dweight = materialized(dy, dweight)  # before dx: what lies in x is given back, 3 of 33 MiB in vgg32
    dx = input_gradient(dy, weight, window, groups)  # (4)
    return dx, dweight, dbias


def _resolve(x, weight, bias, stride, padding, dilation, groups):
    check_floating("conv2d", 4, x=x, weight=weight, bias=bias)
    if weight.ndim != 4:
        raise InputError(f"conv2d: weight has shape {weight.shape} but must have 4 dimensions (height, width, in, out)")
    _check_groups(groups, x.shape[3], weight.shape[3])
    if weight.shape[2] * groups != x.shape[3]:
        each = f" in each of {groups} groups" if groups > 1 else ""
        raise InputError(
            f"conv2d: weight has {weight.shape[2]} input channels{each} but x has {x.shape[3]} (x shape {x.shape})"
        )
    if bias is not None:
        check_shape("conv2d", "bias", bias, weight.shape[3:])
    return resolve("conv2d", x.shape[1:3], weight.shape[:2], stride=stride, padding=padding, dilation=dilation)


def _check_groups(groups, in_channels, out_channels):
    check_count("conv2d", "groups", groups)
    if in_channels % groups or out_channels % groups:
        raise InputError(
            f"conv2d: groups is {groups} but must divide the {in_channels} input and the {out_channels} output channels"
        )


Connections = tuple[tuple[int, ...], ...]

LENET5_C3: Connections = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5),
)  # fmt: skip
"""The maps that each of the 16 maps of LeNet-5's layer C3 sees, of 6; LeCun et al. (1998), table I [F2]."""


@dataclass(frozen=True)
class Conv2d(OperationLayer):
    """Spec of a convolution with `out_channels` kernels; most other fields are the arguments of `conv2d`.

    The number of input maps is found when it meets its input.

    `connections` restricts the inputs [F2]: for each output map the input maps M_o that it sees, all unless given. The
    weight keeps its shape (U, V, I, O); what belongs to a cut connection starts at zero, is read as zero, has a
    gradient of exactly zero and does not count as a parameter.

    >>> Conv2d(6, 5, padding=2).output_shape((28, 28, 1))
    (28, 28, 6)
    >>> layer = Conv2d(16, 5, connections=LENET5_C3)
    >>> layer.parameter_count(layer.init(jax.random.key(0), (14, 14, 6)))
    1516
    """

    out_channels: int
    kernel_size: int | Pair
    _: KW_ONLY
    stride: int | Pair = 1
    padding: Padding = 0
    dilation: int | Pair = 1
    groups: int = 1
    bias: bool = True
    initializer: str = "he_normal"
    connections: Connections | None = None

    op = conv2d

    def __post_init__(self):
        check_count("conv2d", "out_channels", self.out_channels)
        check_count("conv2d", "groups", self.groups)
        sizes = {"kernel_size": self.kernel_size, "stride": self.stride, "dilation": self.dilation}
        check_window("conv2d", **sizes, padding=self.padding)
        check_flag("conv2d", "bias", self.bias)
        find_initializer(self.initializer)
        if self.connections is not None:
            _check_connections(self.connections, self.out_channels, self.groups)

    def init(self, key, in_shape):
        check_image("conv2d", in_shape)
        _check_groups(self.groups, in_shape[2], self.out_channels)
        U, V = pair("conv2d", "kernel_size", self.kernel_size)
        shape = (U, V, in_shape[2] // self.groups, self.out_channels)
        if self.connections is None:
            fan_in, fan_out = U * V * shape[2], U * V * self.out_channels // self.groups
        else:  # of each output map, and of each input map; at least 1, for a map that nothing sees
            seen = self._seen(in_shape[2])
            fan_in, fan_out = U * V * seen.sum(axis=0), U * V * np.maximum(seen.sum(axis=1), 1)[:, None]
        weight = self._cut(initialize(self.initializer, key, shape, fan_in, fan_out))
        if not self.bias:
            return {"weight": weight}
        return {"weight": weight, "bias": initial_bias(self.initializer, key, (self.out_channels,), fan_in)}

    def backward(self, residuals, dy):
        dx, grads = super().backward(residuals, dy)
        return dx, grads | {"weight": self._cut(grads["weight"])}

    def parameter_count(self, params):
        cut = 0
        if self.connections is not None:
            U, V, I, _ = params["weight"].shape
            cut = U * V * int((~self._seen(I)).sum())
        return super().parameter_count(params) - cut

    def multiply_adds(self, in_shape):
        U, V = pair("conv2d", "kernel_size", self.kernel_size)
        P, Q, O = self.output_shape(in_shape)
        seen = O * (in_shape[2] // self.groups) if self.connections is None else sum(map(len, self.connections))
        return P * Q * U * V * seen

    def _arrays(self, params):
        weight = self._cut(parameter(self, params, "weight"))
        return weight, super()._arrays(params)[1]

    def _cut(self, weight):
        """`weight`, or its gradient, with zeros for the cut connections."""
        if self.connections is None:
            return weight
        if weight.ndim != 4 or weight.shape[3] != self.out_channels:
            raise InputError(
                f"Conv2d: weight has shape {weight.shape} but must have shape (height, width, in, {self.out_channels})"
            )
        return jnp.where(self._seen(weight.shape[2]), weight, jnp.zeros((), weight.dtype))

    def _seen(self, in_channels):
        """(I, O): whether output map o sees input map i."""
        seen = np.zeros((in_channels, self.out_channels), bool)
        for o, maps in enumerate(self.connections or ()):
            if max(maps) >= in_channels:
                raise InputError(
                    f"conv2d: connections lets map {o} see input map {max(maps)} but there are {in_channels}; it must "
                    f"be at most {in_channels - 1}"
                )
            seen[list(maps), o] = True
        return seen


def _check_connections(connections, out_channels, groups):
    def distinct(maps):
        numbers = isinstance(maps, tuple) and all(is_int(i) and i >= 0 for i in maps)
        return numbers and 0 < len(set(maps)) == len(maps)

    well_formed = isinstance(connections, tuple) and all(map(distinct, connections))
    if not well_formed or len(connections) != out_channels:
        raise InputError(
            f"conv2d: connections is {connections!r} but must be a tuple with one tuple of distinct input maps, at "
            f"least one, for each of the {out_channels} output maps"
        )
    if groups != 1:
        raise InputError(f"conv2d: groups is {groups} but must be 1 where connections is given")
