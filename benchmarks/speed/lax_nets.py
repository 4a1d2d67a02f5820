"""What a user of plain JAX writes, the networks in lax: no hand-written rule anywhere. What ours is compared with."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.errors import InputError
from jaxcnn.geometry import Padding, Pair, resolve, resolve_pool
from jaxcnn.layers.activation import ReLU
from jaxcnn.layers.base import Layer, Params, without_empty
from jaxcnn.layers.conv import Conv2d
from jaxcnn.layers.dense import Dense
from jaxcnn.layers.global_pool import GlobalAvgPool2d
from jaxcnn.layers.norm import BatchNorm
from jaxcnn.layers.pool import AvgPool2d, MaxPool2d
from jaxcnn.layers.reshape import Flatten
from jaxcnn.layers.residual import Residual
from jaxcnn.layers.sequential import Sequential
from jaxcnn.layers.statistics import Statistics

MOMENTUM = 0.1  # the weight of the new batch in the moving statistics, PyTorch's


def loss(network: Layer, params: Params, x, labels, decided: Any = None) -> tuple[jax.Array, Statistics]:
    """Mean cross-entropy of the network's logits in training, and the statistics of the batch, as of `apply`.

    >>> print(loss(Flatten(), {}, jnp.zeros((2, 1, 1, 4)), jnp.array([0, 3]))[0].round(4))
    1.3863
    """
    logits, batch = apply(network, params, x, decided)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean(), batch


def moved(statistics: Statistics, batch: Statistics, copies: int = 1) -> Statistics:
    """The moving mean and variance of each batch norm after one more batch, whose variance is made unbiased.

    Args:
        statistics: the moving ones before.
        batch: from `apply`.
        copies: of how many such batches the one that is meant consists.

    >>> print(moved({"mean": 0.0, "variance": 1.0}, {"mean": 1.0, "variance": 1.0, "count": 2}))
    {'mean': 0.1, 'variance': 1.1}
    """
    if "count" not in batch:
        return {name: moved(statistics[name], part, copies) for name, part in batch.items()}
    count = copies * batch["count"]
    new = {"mean": batch["mean"], "variance": batch["variance"] * (count / (count - 1))}
    return {name: (1 - MOMENTUM) * statistics[name] + MOMENTUM * new[name] for name in new}


def apply(layer: Layer, params: Params, x, decided: Any = None) -> tuple[jax.Array, Statistics]:
    """The layer's output, and "mean", "variance" (biased) and "count" of the batch in each batch norm by its name.

    Args:
        layer: of those in the networks that are measured.
        params: its parameters. With a mean and a variance among them batch norm uses these, as in evaluation, and has
            no others to tell; without them it uses the batch's, as in training.
        x: (N, ...), a batch.
        decided: what ReLU and max pooling must choose, from `numerics.decisions`, or None: they choose themselves.

    Raises:
        InputError: another layer.
    """
    batch = {}
    if isinstance(layer, Sequential):
        for name, inner in zip(layer.names, layer.layers, strict=True):
            x, batch[name] = apply(inner, params.get(name, {}), x, decided and decided[name])
        return x, without_empty(batch)
    if isinstance(layer, Residual):
        y, batch["body"] = apply(layer.body, params.get("body", {}), x, decided and decided["body"])
        if layer.shortcut is not None:
            x, batch["shortcut"] = apply(layer.shortcut, params.get("shortcut", {}), x, decided and decided["shortcut"])
        return y + x, without_empty(batch)
    if isinstance(layer, BatchNorm):
        return batch_norm(x, params, layer.epsilon)
    return _plain(layer, params, x, decided), {}


def _plain(layer, params, x, decided):
    if isinstance(layer, Conv2d):
        y = conv(x, params["weight"], layer.stride, layer.padding, layer.dilation, layer.groups)
        return y + params["bias"] if layer.bias else y
    if isinstance(layer, Dense):
        y = x @ params["weight"]
        return y + params["bias"] if layer.bias else y
    if isinstance(layer, ReLU):
        return jax.nn.relu(x) if decided is None else jnp.where(decided, x, 0)
    if isinstance(layer, MaxPool2d):
        if decided is None:
            return max_pool(x, layer.window_size, layer.stride, layer.padding)
        return _chosen(x, layer, decided)
    if isinstance(layer, AvgPool2d):
        return avg_pool(x, layer.window_size, layer.stride, layer.padding)
    if isinstance(layer, GlobalAvgPool2d):
        return x.mean((1, 2))
    if isinstance(layer, Flatten):
        return x.reshape(x.shape[0], -1)
    raise InputError(f"layer is {type(layer).__name__} but must be one of those that the benchmark knows")


def conv(x, weight, stride: int | Pair = 1, padding: Padding = 0, dilation: int | Pair = 1, groups=1) -> jax.Array:
    """Convolution as XLA has it."""
    window = resolve("conv2d", x.shape[1:3], weight.shape[:2], stride=stride, padding=padding, dilation=dilation)
    return lax.conv_general_dilated(
        x,
        weight,
        window.stride,
        window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def batch_norm(x, params: Params, epsilon: float) -> tuple[jax.Array, Statistics]:
    """Batch norm by the mean and variance of params, or by the batch's where params has none; see `apply`.

    In float32 at least, as all frameworks compute it.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if "mean" in params:
        mean, variance, batch = params["mean"], params["variance"], {}
    else:
        axes = tuple(range(x.ndim - 1))
        mean, variance = wide.mean(axes), wide.var(axes)
        batch = {"mean": mean, "variance": variance, "count": x.size // x.shape[-1]}
    y = (wide - mean) * lax.rsqrt(variance + epsilon) * params["scale"] + params["bias"]
    return y.astype(x.dtype), batch


def max_pool(x, window_size, stride=None, padding: Padding = 0) -> jax.Array:
    """The maximum of each window as XLA has it."""
    return _reduced(x, -jnp.inf, lax.max, window_size, stride, padding)


def avg_pool(x, window_size, stride=None, padding: Padding = 0) -> jax.Array:
    """The mean of each window as XLA has it."""
    window = resolve_pool("avg_pool2d", x.shape[1:3], window_size, stride=stride, padding=padding)
    return _reduced(x, 0.0, lax.add, window_size, stride, padding) / (window.kernel[0] * window.kernel[1])


def _reduced(x, start, combine, window_size, stride, padding):
    window = resolve_pool("pooling", x.shape[1:3], window_size, stride=stride, padding=padding)
    pads = ((0, 0), *window.padding, (0, 0))
    return lax.reduce_window(x, start, combine, (1, *window.kernel, 1), (1, *window.stride, 1), pads)


def _chosen(x, layer, k):
    """The entries that k names, the position in each window counted row by row."""
    window = resolve_pool("max_pool2d", x.shape[1:3], layer.window_size, stride=layer.stride, padding=layer.padding)
    x = jnp.pad(x, ((0, 0), *window.padding, (0, 0)))
    (p, q), (s, t) = window.output, window.stride
    y = jnp.zeros(k.shape, x.dtype)
    for tap, (u, v) in enumerate(window.taps):
        y += jnp.where(k == tap, x[:, u : u + (p - 1) * s + 1 : s, v : v + (q - 1) * t + 1 : t], 0)
    return y
