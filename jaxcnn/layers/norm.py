r"""Normalisation: entries brought to mean 0 and variance 1, then to a scale and a bias for each channel.

Shapes:  x, xh, y, d, dx, dy (N,...,C)   scale, bias (C,)   m, v, r: one for all entries that are normalised together

(1)  m      = mean x,   v = mean (x - m)^2,   r = 1 / sqrt(v + epsilon)          v is the biased variance
(2)  xh     = (x - m) r
(3)  y      = scale xh + bias                                                                              [N1]
(4)  dbias  = sum dy                                    over all axes but the channels
(5)  dscale = sum dy xh                                 likewise
(6)  dx     = r (d - mean d - xh mean (d xh)),          d = scale dy, the means as in (1)                   [N2]

The means are taken over
     batch_norm     all axes but the channels: one m for each channel of the batch
     layer_norm     the channels: one for each position of each sample
     instance_norm  the positions: one for each channel of each sample
     group_norm     the positions and the channels of a group: `groups` for each sample                     [N3]

With m and v given, as batch norm is evaluated (`fixed_batch_norm`), they are arrays like others                  [N4]

(7)  dx     = r d
(8)  dmean  = - sum r d,   dvariance = - 1/2 sum r^2 d xh      over all axes but the channels

m and v are computed in float32 at least. Loops: reference/norm.py. Tests: tests/layers/test_norm.py.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from ..errors import InputError, check_floating, check_shape, is_int, is_number, shown
from ..kernels import materialized
from ..operation import operation
from ..spread import parts, total
from .base import Layer, OperationLayer, parameter

__all__ = [
    "BatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "batch_norm",
    "fixed_batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
]

EPSILON = 1e-5  # PyTorch's, for all four


@operation
def batch_norm(x, scale, bias, *, epsilon: float = EPSILON, batch_axis: str | None = None):
    """Batch normalisation as in training: each channel by the batch's own mean and variance [N1].

    Ioffe & Szegedy, *Batch normalization* (2015). Where there is one entry for each channel its variance is 0, y the
    bias and dx 0; likewise for a channel that is constant.

    Args:
        x: (N, ..., C), floating point, such as maps (N, H, W, C) or features (N, C).
        scale, bias: (C,), the same dtype.
        epsilon: added to the variance, above 0.
        batch_axis: the mesh axis of `jax.shard_map` over which the batch is spread, whose means are those of the whole
            batch; None: all of it is here.

    Returns:
        y of x's shape and dtype.

    Raises:
        InputError: a shape, a dtype or epsilon does not fit.

    >>> print(batch_norm(jnp.array([[1.0], [3.0]]), jnp.array([2.0]), jnp.array([0.0])).round(3))
    [[-2.]
     [ 2.]]
    """
    _check("batch_norm", x, epsilon, scale=scale, bias=bias)
    axes = tuple(range(x.ndim - 1))
    (wide,) = _wide(x)
    mean = wide.mean(axes)
    rest = materialized(wide - mean)
    wrong = rest.mean(axes)  # see _moments
    own = mean + wrong, jnp.maximum((rest * rest).mean(axes) - wrong * wrong, 0)  # (1)
    m, v = _of_all(*own, batch_axis)
    wrong += m - own[0]
    y = _normalised(rest, wrong, v, scale, bias, epsilon).astype(x.dtype)
    # kept as if it were x: of an array that is there XLA on CPU sums the product with dy in one pass
    kept = (rest, wrong) if rest.dtype == x.dtype else (x, m)
    return y, (*kept, v, scale, m)


@batch_norm.rule
def _(residuals, dy, *, epsilon, batch_axis):
    """(4)-(6): `(dx, dscale, dbias)` from the residuals and dy of x's shape."""
    x, m, v, scale, _ = residuals
    check_shape("batch_norm.backward", "dy", dy, x.shape)
    (wide, rest), n = _wide(dy, x), dy.size // dy.shape[-1] * parts(batch_axis)
    r = jax.lax.rsqrt(v + epsilon)
    axes = tuple(range(dy.ndim - 1))
    dbias = wide.sum(axes)  # (4)
    dscale = r * ((wide * rest).sum(axes) - m * dbias)  # (2), (5)
    xh = (rest - m) * r
    # the means in (6) are sums over the same entries: mean d = scale dbias / n, mean (d xh) = scale dscale / n
    of_all_dbias, of_all_dscale = total((dbias, dscale), batch_axis)
    dx = r * scale * (wide - of_all_dbias / n - xh * (of_all_dscale / n))  # (6)
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(scale.dtype)


@operation
def layer_norm(x, scale, bias, *, epsilon: float = EPSILON):
    """Layer normalisation: the channels of each position by their own mean and variance [N1].

    Ba, Kiros & Hinton, *Layer normalization* (2016), as PyTorch's `LayerNorm(C)` and Flax's. Over the positions, too,
    it is `group_norm` with one group.

    Args:
        x: (N, ..., C), floating point.
        scale, bias: (C,), the same dtype.
        epsilon: added to the variance, above 0.

    Returns:
        y of x's shape and dtype.

    Raises:
        InputError: a shape, a dtype or epsilon does not fit.

    >>> print(layer_norm(jnp.array([[1.0, 3.0]]), jnp.ones(2), jnp.zeros(2)).round(3))
    [[-1.  1.]]
    """
    _check("layer_norm", x, epsilon, scale=scale, bias=bias)
    m, v = _moments(x, (x.ndim - 1,))  # (1)
    return _normalised(x, m, v, scale, bias, epsilon), (x, m, v, scale)


@layer_norm.rule
def _(residuals, dy, *, epsilon):
    """(4)-(6): `(dx, dscale, dbias)` from the residuals and dy of x's shape."""
    check_shape("layer_norm.backward", "dy", dy, residuals[0].shape)
    return _backward(residuals, dy, (dy.ndim - 1,), epsilon)


@operation
def instance_norm(x, scale, bias, *, epsilon: float = EPSILON):
    """Instance normalisation: each map of each sample by its own mean and variance [N1].

    Ulyanov, Vedaldi & Lempitsky, *Instance normalization* (2016).

    Args:
        x: (N, ..., C), floating point, with at least one axis of positions.
        scale, bias: (C,), the same dtype.
        epsilon: added to the variance, above 0.

    Returns:
        y of x's shape and dtype.

    Raises:
        InputError: a shape, a dtype or epsilon does not fit.

    >>> print(instance_norm(jnp.array([1.0, 3.0]).reshape(1, 2, 1), jnp.ones(1), jnp.zeros(1)).round(3).ravel())
    [-1.  1.]
    """
    _check("instance_norm", x, epsilon, least=3, scale=scale, bias=bias)
    m, v = _moments(x, tuple(range(1, x.ndim - 1)))  # (1)
    return _normalised(x, m, v, scale, bias, epsilon), (x, m, v, scale)


@instance_norm.rule
def _(residuals, dy, *, epsilon):
    """(4)-(6): `(dx, dscale, dbias)` from the residuals and dy of x's shape."""
    check_shape("instance_norm.backward", "dy", dy, residuals[0].shape)
    return _backward(residuals, dy, tuple(range(1, dy.ndim - 1)), epsilon)


@operation
def group_norm(x, scale, bias, *, groups: int, epsilon: float = EPSILON):
    """Group normalisation: the maps of each group in each sample by their common mean and variance [N3].

    Wu & He, *Group normalization* (2018). Groups are of neighbouring channels; one group is layer normalisation over
    the whole sample.

    Args:
        x: (N, ..., C), floating point.
        scale, bias: (C,), the same dtype.
        groups: how many; C is a multiple of it.
        epsilon: added to the variance, above 0.

    Returns:
        y of x's shape and dtype.

    Raises:
        InputError: a shape, a dtype, the groups or epsilon does not fit.

    >>> print(group_norm(jnp.array([[1.0, 3.0, 5.0, 5.0]]), jnp.ones(4), jnp.zeros(4), groups=2).round(3))
    [[-1.  1.  0.  0.]]
    """
    _check("group_norm", x, epsilon, scale=scale, bias=bias)
    _check_groups(groups, x.shape[-1])
    grouped, axes = _grouped(x, groups)
    m, v = _moments(grouped, axes)  # (1)
    y = _normalised(grouped, m, v, scale.reshape(groups, -1), bias.reshape(groups, -1), epsilon)
    return y.reshape(x.shape), (x, m, v, scale)


@group_norm.rule
def _(residuals, dy, *, groups, epsilon):
    """(4)-(6): `(dx, dscale, dbias)` from the residuals and dy of x's shape."""
    x, m, v, scale = residuals
    check_shape("group_norm.backward", "dy", dy, x.shape)
    (grouped, axes), (of_groups, _) = _grouped(x, groups), _grouped(dy, groups)
    dx, dscale, dbias = _backward((grouped, m, v, scale.reshape(groups, -1)), of_groups, axes, epsilon)
    return dx.reshape(x.shape), dscale.ravel(), dbias.ravel()


@operation
def fixed_batch_norm(x, scale, bias, mean, variance, *, epsilon: float = EPSILON):
    """Batch normalisation as in evaluation: each channel by a mean and a variance that are given [N4].

    Args:
        x: (N, ..., C), floating point.
        scale, bias: (C,), the same dtype.
        mean, variance: (C,), floating point; their own dtype may be wider.
        epsilon: added to the variance, above 0.

    Returns:
        y of x's shape and dtype.

    Raises:
        InputError: a shape, a dtype or epsilon does not fit.

    >>> print(fixed_batch_norm(jnp.array([[5.0]]), *jnp.array([[1.0], [2.0], [1.0], [4.0]])).round(3))
    [[4.]]
    """
    _check("fixed_batch_norm", x, epsilon, scale=scale, bias=bias)
    check_floating("fixed_batch_norm", mean=mean, variance=variance)
    check_shape("fixed_batch_norm", "mean", mean, x.shape[-1:])
    check_shape("fixed_batch_norm", "variance", variance, x.shape[-1:])
    m, v = _wide(mean, variance)
    return _normalised(x, m, v, scale, bias, epsilon), (x, mean, variance, scale)


@fixed_batch_norm.rule
def _(residuals, dy, *, epsilon):
    """(4), (5), (7), (8): `(dx, dscale, dbias, dmean, dvariance)` from the residuals and dy of x's shape."""
    x, mean, variance, scale = residuals
    check_shape("fixed_batch_norm.backward", "dy", dy, x.shape)
    wide, (m, v) = _wide(dy)[0], _wide(mean, variance)
    r = jax.lax.rsqrt(v + epsilon)
    xh = (x - m) * r  # (2)
    axes = tuple(range(x.ndim - 1))
    dbias, dscale = wide.sum(axes), (wide * xh).sum(axes)  # (4), (5)
    dx = r * scale * wide  # (7)
    dmean, dvariance = -r * scale * dbias, -r * r * scale * dscale / 2  # (8)
    of_weights = dscale.astype(scale.dtype), dbias.astype(scale.dtype)
    return dx.astype(x.dtype), *of_weights, dmean.astype(mean.dtype), dvariance.astype(mean.dtype)


def _moments(x, axes):
    """(1): m and v, of length 1 along the axes, float32 at least.

    The sum that gives m rounds as large numbers do; the mean of x - m tells by how much, and mends both.
    """
    (x,) = _wide(x)
    m = x.mean(axes, keepdims=True)
    rest = x - m
    wrong = rest.mean(axes, keepdims=True)
    return m + wrong, jnp.maximum((rest * rest).mean(axes, keepdims=True) - wrong * wrong, 0)


def _of_all(m, v, batch_axis):
    """(1) of the whole batch from that of each device's part, all of one size: one exchange of 2 C numbers."""
    if parts(batch_axis) == 1:
        return m, v
    ms, vs = lax.all_gather(jnp.stack([m, v]), batch_axis, axis=1)
    m = ms.mean(0)
    return m, vs.mean(0) + ((ms - m) ** 2).mean(0)


def _normalised(x, m, v, scale, bias, epsilon):
    xh = (x - m) * jax.lax.rsqrt(v + epsilon)  # (2)
    return (scale * xh + bias).astype(x.dtype)  # (3)


def _backward(residuals, dy, axes, epsilon):
    x, m, v, scale = residuals
    (wide,) = _wide(dy)
    others = tuple(range(dy.ndim - scale.ndim))
    r = jax.lax.rsqrt(v + epsilon)
    xh = (x - m) * r  # (2)
    dbias, dscale = wide.sum(others), (wide * xh).sum(others)  # (4), (5)
    d = scale * wide
    mean_d, mean_dxh = d.mean(axes, keepdims=True), (d * xh).mean(axes, keepdims=True)
    dx = r * (d - mean_d - xh * mean_dxh)  # (6)
    return dx.astype(dy.dtype), dscale.astype(scale.dtype), dbias.astype(scale.dtype)


def _wide(*arrays):
    return [jnp.asarray(a, jnp.promote_types(a.dtype, jnp.float32)) for a in arrays]


def _grouped(x, groups):
    """x with its channels as (groups, channels of a group), and the axes that are normalised together."""
    shape = (*x.shape[:-1], groups, x.shape[-1] // groups)
    return x.reshape(shape), (*range(1, x.ndim - 1), x.ndim)


def _check(op, x, epsilon, *, least=2, **of_channels):
    check_floating(op, x=x, **of_channels)
    if x.ndim < least:
        raise InputError(f"{op}: x has shape {shown(x.shape)} but must have at least {least} dimensions")
    for name, array in of_channels.items():
        check_shape(op, name, array, x.shape[-1:])
    check_epsilon(op, epsilon)


def check_epsilon(op: str, epsilon: float) -> None:
    """Refuse what is no number above 0: a constant channel would be divided by 0."""
    if not (is_number(epsilon) and 0 < epsilon < float("inf")):
        raise InputError(f"{op}: epsilon is {shown(epsilon)} but must be a finite number above 0")


def _check_groups(groups, channels):
    if not is_int(groups) or groups < 1 or channels % groups:
        raise InputError(f"group_norm: groups is {shown(groups)} but must divide the {channels} channels")


class _Norm(OperationLayer, abstract=True):
    """A scale of ones and a bias of zeros for each channel."""

    epsilon: float

    def __post_init__(self):
        check_epsilon(type(self).__name__, self.epsilon)

    def init(self, key, in_shape):
        return {"scale": jnp.ones(in_shape[-1:]), "bias": jnp.zeros(in_shape[-1:])}


@dataclass(frozen=True)
class LayerNorm(_Norm):
    """Spec of `layer_norm`; parameters: scale (C,) of ones, bias (C,) of zeros."""

    epsilon: float = EPSILON
    op = layer_norm


@dataclass(frozen=True)
class InstanceNorm(_Norm):
    """Spec of `instance_norm`; parameters: scale (C,) of ones, bias (C,) of zeros."""

    epsilon: float = EPSILON
    op = instance_norm


@dataclass(frozen=True)
class GroupNorm(_Norm):
    """Spec of `group_norm`; parameters: scale (C,) of ones, bias (C,) of zeros."""

    groups: int
    epsilon: float = EPSILON
    op = group_norm

    def init(self, key, in_shape):
        _check_groups(self.groups, in_shape[-1])
        return super().init(key, in_shape)


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Spec of `batch_norm` where `train=True`, of `fixed_batch_norm` otherwise; parameters: scale, bias (C,).

    The mean and the variance of evaluation are no parameters but a second tree, of `jaxcnn.layers.statistics`; it is
    joined to the parameters where the network is evaluated.

    >>> from jaxcnn import init_statistics, merged
    >>> norm, x = BatchNorm(), jnp.array([[1.0], [3.0]])
    >>> params = norm.init(jax.random.key(0), (1,))
    >>> print(norm.apply(params, x, train=True).round(3).ravel())
    [-1.  1.]
    >>> print(norm.apply(merged(params, init_statistics(norm, params, (1,))), x).round(2).ravel())
    [1. 3.]
    """

    epsilon: float = EPSILON
    batch_axis: str | None = None

    def __post_init__(self):
        check_epsilon("BatchNorm", self.epsilon)

    def init(self, key, in_shape):
        return {"scale": jnp.ones(in_shape[-1:]), "bias": jnp.zeros(in_shape[-1:])}

    def apply(self, params, x, *, train=False, key=None):
        op, arrays = self._call(params, train)
        return op(x, *arrays, **self._static(op))

    def forward(self, params, x, *, train=False, key=None):
        op, arrays = self._call(params, train)
        y, residuals = op.forward(x, *arrays, **self._static(op))
        return y, {op.name: residuals}

    def backward(self, residuals, dy):
        ((name, kept),) = residuals.items()
        op = batch_norm if name == batch_norm.name else fixed_batch_norm
        dx, *grads = op.backward(kept, dy, **self._static(op))
        return dx, dict(zip(op.arguments[1:], grads, strict=True))

    def output_shape(self, in_shape):
        return in_shape

    def statistics(self, residuals):
        """The batch's mean, biased variance and count of entries for each channel; {} of an evaluation."""
        if batch_norm.name not in residuals:
            return {}
        x, _, v, _, m = residuals[batch_norm.name]
        return {"mean": m, "variance": v, "count": jnp.asarray(x.size // x.shape[-1] * parts(self.batch_axis), m.dtype)}

    def _static(self, op):
        return {name: getattr(self, name) for name in op.static}

    def _call(self, params, train):
        op = batch_norm if train else fixed_batch_norm
        if not train and "mean" not in params:
            raise InputError(
                "BatchNorm: params has no mean and variance but must have them when train is False: "
                "merged(params, statistics)"
            )
        if train and "mean" in params:
            raise InputError(
                "BatchNorm: params has a mean and a variance but must be without statistics when train is True"
            )
        return op, [parameter(self, params, name) for name in op.arguments[1:]]
