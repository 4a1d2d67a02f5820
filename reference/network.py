"""A whole network: layer after layer forwards, delta after delta backwards. Specs are lists of JSON objects."""

from .activation import (
    relu_backward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
    softmax_backward,
    softmax_forward,
    tanh_backward,
    tanh_forward,
)
from .conv import conv2d_backward, conv2d_forward
from .dense import dense_backward, dense_forward
from .pool import avg_pool2d_backward, avg_pool2d_forward, max_pool2d_backward, max_pool2d_forward
from .reshape import flatten_backward, flatten_forward

FIXED = {
    "ReLU": (relu_forward, relu_backward),
    "Sigmoid": (sigmoid_forward, sigmoid_backward),
    "Tanh": (tanh_forward, tanh_backward),
    "Softmax": (softmax_forward, softmax_backward),
    "MaxPool2d": (max_pool2d_forward, max_pool2d_backward),
    "AvgPool2d": (avg_pool2d_forward, avg_pool2d_backward),
    "Flatten": (flatten_forward, flatten_backward),
}
LEARNED = {"Conv2d": (conv2d_forward, conv2d_backward), "Dense": (dense_forward, dense_backward)}
FACTS = ("stride", "padding", "dilation", "groups", "window_size")


def sequential_forward(spec, params, x, shifts=None):
    """The output and what each layer keeps for the way back; `shifts` are added to the outputs of layers by name."""
    residuals = {}
    for name, layer in named(spec):
        kind, facts = layer["layer"], _facts(layer)
        if kind in LEARNED:
            x, residuals[name] = LEARNED[kind][0](x, params[name]["weight"], params[name].get("bias"), **facts)
        else:
            x, residuals[name] = FIXED[kind][0](x, **facts)
        x = x + (shifts or {}).get(name, 0)
    return x, residuals


def sequential_backward(spec, residuals, dy):
    """dE/dx, the gradients by layer, and each layer's sensitivity."""
    grads, deltas = {}, {}
    for name, layer in reversed(named(spec)):
        kind, facts = layer["layer"], _facts(layer)
        deltas[name] = dy
        if kind in LEARNED:
            dy, dweight, dbias = LEARNED[kind][1](residuals[name], dy, **facts)
            grads[name] = {"weight": dweight} if dbias is None else {"weight": dweight, "bias": dbias}
        else:
            (dy,) = FIXED[kind][1](residuals[name], dy, **facts)
    return dy, grads, deltas


def named(spec):
    """(name, layer) for each layer: its class in lower case, without 2d, and its count."""
    counts, result = {}, []
    for layer in spec:
        kind = layer["layer"].lower().removesuffix("2d")
        counts[kind] = counts.get(kind, 0) + 1
        result.append((f"{kind}{counts[kind]}", layer))
    return result


def _facts(layer):
    return {name: layer[name] for name in FACTS if name in layer}
