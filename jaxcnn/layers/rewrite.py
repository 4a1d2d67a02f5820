r"""Networks rewritten into others that compute the same: with less work, on several devices, without batch norms.

A batch norm in evaluation, behind a layer that is linear, makes another such layer of it. With f_o the factor of
output o, and the mean m, the variance v, the scale and the bias of the norm:

(1)  f = scale / sqrt(v + epsilon),   weight'[..., o] = f_o weight[..., o],   bias' = f (bias - m) + bias of the norm

Tests of it: tests/layers/test_merged_norms.py.
"""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp

from .activation import ReLU
from .base import Layer, Params, parameter, parameters_of, rebuild, without_empty
from .conv import Conv2d
from .dense import Dense
from .norm import BatchNorm
from .pool import MaxPool2d
from .sequential import Sequential

__all__ = ["merged_batch_norms", "relu_after_pool", "spread_over"]


def relu_after_pool(network: Layer) -> Layer:
    """The network with every ReLU before a max pooling moved behind it: the same function, on fewer entries.

    max(relu(u)) = relu(max(u)), and the gradients agree entry by entry: where the maximum is positive its position is
    the same, elsewhere both are zero. Parameters keep their names. `training` computes its gradients this way;
    `backward_with_deltas` of the network itself runs the chain as it was written.

    >>> from jaxcnn import Conv2d
    >>> relu_after_pool(Sequential((Conv2d(4, 3), ReLU(), MaxPool2d(2)))).names
    ('conv1', 'maxpool1', 'relu1')
    """

    def swapped(layer):
        if not isinstance(layer, Sequential):
            return layer
        layers = list(layer.layers)
        for i in range(len(layers) - 1):
            if isinstance(layers[i], ReLU) and isinstance(layers[i + 1], MaxPool2d):
                layers[i], layers[i + 1] = layers[i + 1], layers[i]
        return Sequential(layers)

    return rebuild(network, swapped)


def spread_over(network: Layer, batch_axis: str) -> Layer:
    """The network as each device of a mesh axis computes it inside of `jax.shard_map`, with its part of a batch.

    The layers that have a field `batch_axis` get it: batch norms then take their means over the whole batch, and
    dropout and stochastic pooling draw for it, each device using its own rows. No other layer mixes samples.

    >>> from jaxcnn import BatchNorm, Dense, Dropout
    >>> spread_over(Sequential((Dense(2), BatchNorm(), Dropout(0.5))), "batch").layers[1:]
    (BatchNorm(epsilon=1e-05, batch_axis='batch'), Dropout(rate=0.5, batch_axis='batch'))
    """

    def spread(layer: Layer) -> Layer:
        names = [field.name for field in dataclasses.fields(layer)] if dataclasses.is_dataclass(layer) else []
        return dataclasses.replace(cast(Any, layer), batch_axis=batch_axis) if "batch_axis" in names else layer

    return rebuild(network, spread)


def merged_batch_norms(network: Layer, params: Params) -> tuple[Layer, Params]:
    """The network as it is evaluated, each batch norm right behind a `Conv2d` or `Dense` made part of it, (1).

    Such a layer has a bias then. Batch norms elsewhere stay. Layers that are counted in their names, such as
    "batchnorm2", get new ones, and the parameters with them.

    Args:
        network: a layer.
        params: its parameters with the statistics, `merged(params, statistics)`.

    Returns:
        `(network, params)`: other ones with the same outputs but for rounding.

    Raises:
        InputError: a batch norm has no mean and variance.

    >>> network = Sequential((Dense(1, bias=False), BatchNorm(), ReLU()))
    >>> norm = {name: jnp.array([1.0 + i]) for i, name in enumerate(("bias", "scale", "mean", "variance"))}
    >>> fewer, params = merged_batch_norms(network, {"dense1": {"weight": jnp.array([[5.0]])}, "batchnorm1": norm})
    >>> print(fewer.names, jax.tree.map(lambda w: w.round(3).tolist(), params))
    ('dense1', 'relu1') {'dense1': {'bias': [-2.0], 'weight': [[5.0]]}}
    """
    children = [merged_batch_norms(child, parameters_of(name, params)) for name, child in network.children().items()]
    if not children:
        return network, params
    if isinstance(network, Sequential):
        kept: list[tuple[Layer, Params]] = []
        for layer, own in children:
            if isinstance(layer, BatchNorm) and kept and isinstance(kept[-1][0], Conv2d | Dense):
                kept[-1] = _with_norm(*kept[-1], layer, own)
            else:
                kept.append((layer, own))
        network, children = Sequential([layer for layer, _ in kept]), kept
    else:
        network = network.with_children(dict(zip(network.children(), [layer for layer, _ in children], strict=True)))
    return network, without_empty(dict(zip(network.children(), [own for _, own in children], strict=True)))


def _with_norm(layer, params, norm, own):
    scale, shift, m, v = (parameter(norm, own, name) for name in ("scale", "bias", "mean", "variance"))
    weight = params["weight"]
    f = scale * jax.lax.rsqrt(v + norm.epsilon)
    bias = f * (params.get("bias", jnp.zeros(())) - m) + shift  # (1)
    merged = {"weight": (weight * f).astype(weight.dtype), "bias": bias.astype(weight.dtype)}
    return dataclasses.replace(layer, bias=True), merged
