"""What a user of plain JAX writes, the networks in lax: no hand-written rule anywhere. What ours is compared with."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.errors import InputError
from jaxcnn.geometry import Padding, Pair, resolve, resolve_pool
from jaxcnn.layers.activation import ReLU
from jaxcnn.layers.base import Layer, Params
from jaxcnn.layers.conv import Conv2d
from jaxcnn.layers.dense import Dense
from jaxcnn.layers.pool import AvgPool2d, MaxPool2d
from jaxcnn.layers.reshape import Flatten
from jaxcnn.layers.residual import Residual
from jaxcnn.layers.sequential import Sequential


def loss(network: Layer, params: Params, x, labels, decided: Any = None) -> jax.Array:
    """Mean cross-entropy of the network's logits.

    >>> print(loss(Flatten(), {}, jnp.zeros((2, 1, 1, 4)), jnp.array([0, 3])).round(4))
    1.3863
    """
    logits = apply(network, params, x, decided)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()


def apply(layer: Layer, params: Params, x, decided: Any = None) -> jax.Array:
    """The layer's output.

    Args:
        layer: of those in the networks that are measured.
        params: its parameters.
        x: (N, ...), a batch.
        decided: what ReLU and max pooling must choose, from `numerics.decisions`, or None: they choose themselves.

    Raises:
        InputError: another layer.
    """
    if isinstance(layer, Sequential):
        for name, inner in zip(layer.names, layer.layers, strict=True):
            x = apply(inner, params.get(name, {}), x, decided and decided[name])
        return x
    if isinstance(layer, Residual):
        y = apply(layer.body, params.get("body", {}), x, decided and decided["body"])
        if layer.shortcut is not None:
            x = apply(layer.shortcut, params.get("shortcut", {}), x, decided and decided["shortcut"])
        return y + x
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
