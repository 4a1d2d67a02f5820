"""Named networks: compositions of layers, no mathematics. Each ends in logits for `classes` classes."""

from collections.abc import Callable
from dataclasses import dataclass

from .errors import InputError
from .layers.activation import ReLU
from .layers.base import Shape
from .layers.conv import Conv2d
from .layers.dense import Dense
from .layers.dropout import Dropout
from .layers.pool import AvgPool2d, MaxPool2d
from .layers.reshape import Flatten
from .layers.residual import Residual
from .network import Sequential


def digits(classes: int = 10) -> Sequential:
    """A small LeNet for 8x8 images: two 3x3 convolutions, each with ReLU and 2x2 max pooling, and two dense layers."""
    return Sequential(
        (
            Conv2d(32, 3, padding=1),
            ReLU(),
            MaxPool2d(2),
            Conv2d(64, 3, padding=1),
            ReLU(),
            MaxPool2d(2),
            Flatten(),
            Dropout(0.25),
            Dense(128),
            ReLU(),
            Dropout(0.25),
            Dense(classes),
        )
    )


def lenet28(classes: int = 10) -> Sequential:
    """LeNet for 28x28 images: 5x5 convolutions with 6 and 16 maps, ReLU, 2x2 max pooling, dense 120-84."""
    return Sequential(
        (
            Conv2d(6, 5, padding=2),
            ReLU(),
            MaxPool2d(2),
            Conv2d(16, 5),
            ReLU(),
            MaxPool2d(2),
            Flatten(),
            Dense(120),
            ReLU(),
            Dense(84),
            ReLU(),
            Dense(classes),
        )
    )


def cnn28(classes: int = 10) -> Sequential:
    """For 28x28 images: 3x3 convolutions with 32 and 64 maps, ReLU, 2x2 max pooling, dense 128."""
    return Sequential((*_stage(32), *_stage(64), Flatten(), Dense(128), ReLU(), Dense(classes)))


def vgg32(classes: int = 10) -> Sequential:
    """For 32x32 images: 3x3 convolutions with 32, 64 and 128 maps, ReLU, 2x2 max pooling, dense 256."""
    return Sequential((*_stage(32), *_stage(64), *_stage(128), Flatten(), Dense(256), ReLU(), Dense(classes)))


def resnet32(classes: int = 10) -> Sequential:
    """For 32x32 images: a stem of 16 maps, a plain residual block, two of stride 2 with 32 and 64 maps, global mean."""
    return Sequential(
        (
            Conv2d(16, 3, padding=1),
            ReLU(),
            Residual(_two_convolutions(16)),
            ReLU(),
            Residual(_two_convolutions(32, 2), Conv2d(32, 1, stride=2)),
            ReLU(),
            Residual(_two_convolutions(64, 2), Conv2d(64, 1, stride=2)),
            ReLU(),
            AvgPool2d(8),
            Flatten(),
            Dense(classes),
        )
    )


def _two_convolutions(channels, stride=1):
    return Sequential((Conv2d(channels, 3, stride=stride, padding=1), ReLU(), Conv2d(channels, 3, padding=1)))


def _stage(channels):
    return Conv2d(channels, 3, padding=1), ReLU(), MaxPool2d(2)


@dataclass(frozen=True)
class Model:
    """A named network and the input shape it was made for; other shapes work where the geometry fits."""

    build: Callable[[int], Sequential]
    in_shape: Shape


MODELS = {
    "digits": Model(digits, (8, 8, 1)),
    "lenet28": Model(lenet28, (28, 28, 1)),
    "cnn28": Model(cnn28, (28, 28, 1)),
    "vgg32": Model(vgg32, (32, 32, 3)),
    "resnet32": Model(resnet32, (32, 32, 3)),
}


def find(name: str) -> Model:
    """The model called `name`.

    Raises:
        InputError: no model has this name.

    >>> find("lenet28").build(10).output_shape((28, 28, 1))
    (10,)
    """
    if name not in MODELS:
        raise InputError(f"model is {name!r} but must be one of {', '.join(MODELS)}")
    return MODELS[name]
