"""Networks rewritten into others that compute the same with less work."""

from .activation import ReLU
from .base import Layer, rebuild
from .pool import MaxPool2d
from .sequential import Sequential

__all__ = ["relu_after_pool"]


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
