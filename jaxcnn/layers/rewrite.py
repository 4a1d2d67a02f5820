"""Networks rewritten into others that compute the same: with less work, or on several devices."""

import dataclasses
from typing import Any, cast

from .activation import ReLU
from .base import Layer, rebuild
from .pool import MaxPool2d
from .sequential import Sequential

__all__ = ["relu_after_pool", "spread_over"]


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
