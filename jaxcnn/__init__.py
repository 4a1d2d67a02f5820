"""Convolutional networks in JAX whose every backward pass is written by hand from the textbook formula.

Operations are functions, `conv2d`; with `conv2d_forward` and `conv2d_backward` the chain can be walked explicitly.
Layer specs are frozen dataclasses, `Conv2d`, combined by `Sequential`. Nothing here changes JAX's configuration.
"""

from . import geometry, initializers, models
from .diagnosis import Diagnosis, diagnose
from .errors import InputError
from .layers.activation import (
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
    relu,
    relu_backward,
    relu_forward,
    sigmoid,
    sigmoid_backward,
    sigmoid_forward,
    softmax,
    softmax_backward,
    softmax_forward,
    tanh,
    tanh_backward,
    tanh_forward,
)
from .layers.base import FixedLayer, Layer
from .layers.conv import Conv2d, conv2d, conv2d_backward, conv2d_forward
from .layers.dense import Dense, dense, dense_backward, dense_forward
from .layers.dropout import Dropout, dropout, dropout_backward, dropout_forward
from .layers.pool import (
    AvgPool2d,
    MaxPool2d,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool2d_forward,
    max_pool2d,
    max_pool2d_backward,
    max_pool2d_forward,
)
from .layers.reshape import Flatten, flatten, flatten_backward, flatten_forward
from .losses import (
    Loss,
    SoftmaxCrossEntropy,
    SquaredError,
    one_hot,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
    squared_error,
    squared_error_backward,
    squared_error_forward,
)
from .lowering import compiler_options
from .network import Sequential, Summary, predict, relu_after_pool, spec_from_json, spec_to_json, summary
from .rule import Static, with_rule
from .sgd import SGD, Constant, Cosine, Optax, SGDState, Step, WarmUp
from .training import (
    Evaluation,
    NonFiniteLoss,
    TrainState,
    evaluate,
    fit,
    gradients,
    init_state,
    train_epoch,
    train_step,
)

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "AvgPool2d",
    "Constant",
    "Conv2d",
    "Cosine",
    "Dense",
    "Diagnosis",
    "Dropout",
    "Evaluation",
    "FixedLayer",
    "Flatten",
    "InputError",
    "Layer",
    "Loss",
    "MaxPool2d",
    "NonFiniteLoss",
    "Optax",
    "ReLU",
    "SGDState",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "Static",
    "Step",
    "Summary",
    "Tanh",
    "TrainState",
    "WarmUp",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool2d_forward",
    "compiler_options",
    "conv2d",
    "conv2d_backward",
    "conv2d_forward",
    "dense",
    "dense_backward",
    "dense_forward",
    "diagnose",
    "dropout",
    "dropout_backward",
    "dropout_forward",
    "evaluate",
    "fit",
    "flatten",
    "flatten_backward",
    "flatten_forward",
    "geometry",
    "gradients",
    "init_state",
    "initializers",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "models",
    "one_hot",
    "predict",
    "relu",
    "relu_after_pool",
    "relu_backward",
    "relu_forward",
    "sigmoid",
    "sigmoid_backward",
    "sigmoid_forward",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "softmax_forward",
    "spec_from_json",
    "spec_to_json",
    "squared_error",
    "squared_error_backward",
    "squared_error_forward",
    "summary",
    "tanh",
    "tanh_backward",
    "tanh_forward",
    "train_epoch",
    "train_step",
    "with_rule",
]
