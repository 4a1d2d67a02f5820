"""PyTorch: eager in both memory formats; on a GPU with cuDNN's own choice of algorithm, and compiled."""

import os

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn import grad as of_conv2d

from jaxcnn import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dense,
    Flatten,
    GlobalAvgPool2d,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)

VERSIONS = {"torch": torch.__version__}
CHANNELS_FIRST = True
DEVICE = "cuda" if jax.default_backend() == "gpu" else "cpu"
if DEVICE == "cuda" and not torch.cuda.is_available():
    raise ImportError("PyTorch sees no GPU, JAX does")
FORMATS = {"torch": torch.contiguous_format, "torch, channels last": torch.channels_last}

torch.set_num_threads(len(os.sched_getaffinity(0)))
torch.backends.cudnn.benchmark = True


class Block(nn.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body, shortcut):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


def module(layer, shape):
    """The layer, for inputs of `shape`, as a module."""
    if isinstance(layer, Sequential):
        modules = []
        for inner in layer.layers:
            modules.append(module(inner, shape))
            shape = inner.output_shape(shape)
        return nn.Sequential(*modules)
    if isinstance(layer, Residual):
        return Block(
            module(layer.body, shape), nn.Identity() if layer.shortcut is None else module(layer.shortcut, shape)
        )
    if isinstance(layer, Conv2d):
        return nn.Conv2d(
            shape[-1],
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            bias=layer.bias,
        )
    if isinstance(layer, Dense):
        return nn.Linear(shape[0], layer.out_features, bias=layer.bias)
    if isinstance(layer, BatchNorm):
        return nn.BatchNorm2d(shape[-1], layer.epsilon)
    if isinstance(layer, GlobalAvgPool2d):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if isinstance(layer, MaxPool2d):
        return nn.MaxPool2d(layer.window_size, layer.stride, layer.padding)
    if isinstance(layer, AvgPool2d):
        return nn.AvgPool2d(layer.window_size, layer.stride, layer.padding)
    return {ReLU: nn.ReLU, Flatten: nn.Flatten}[type(layer)]()


class Net:
    """A network that learns one batch."""

    def __init__(self, network, weights, statistics, x, labels, rate, dtype, memory_format, wrap=lambda model: model):
        model = module(network, x.shape[1:])
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), (a for pair in weights for a in pair), strict=True):
                parameter.copy_(torch.tensor(value))
            self.norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
            for norm, (mean, variance) in zip(self.norms, statistics, strict=True):
                norm.running_mean.copy_(torch.tensor(mean))
                norm.running_var.copy_(torch.tensor(variance))
        model = model.to(device=DEVICE, dtype=dtype, memory_format=memory_format)
        images = torch.tensor(x).permute(0, 3, 1, 2).to(device=DEVICE, dtype=dtype)
        self.images = images.contiguous(memory_format=memory_format)
        self.labels = torch.tensor(labels).long().to(DEVICE)
        self.groups = [len(pair) for pair in weights]
        self.parameters = list(model.parameters())
        self.plain, self.model, self.loss = model, wrap(model), nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(model.parameters(), lr=rate)

    def step(self):
        """One update."""
        self._backward()
        self.optimizer.step()

    def evaluate(self):
        """The forward pass alone."""
        self._set(training=False)
        with torch.inference_mode():
            return self.model(self.images)

    def gradients(self):
        """The gradients of a layer's parameters together, in the order of `weights`."""
        self._backward()
        flat = iter(_array(parameter.grad) for parameter in self.parameters)
        return [tuple(next(flat) for _ in range(count)) for count in self.groups]

    def statistics(self):
        """The moving mean and variance of each batch norm."""
        return [(_array(norm.running_mean), _array(norm.running_var)) for norm in self.norms]

    def outputs(self):
        """What `evaluate` computes, as an array."""
        return _array(self.evaluate())

    def _backward(self):
        self._set(training=True)
        self.optimizer.zero_grad()
        self.loss(self.model(self.images), self.labels).backward()

    def _set(self, training):
        if self.plain.training != training:
            self.plain.train(training)


def nets(network, weights, statistics, x, labels, rate, dtype, tf32):
    """The network in every format that is measured, by name."""
    _allow(tf32)
    args = (network, weights, statistics, x, labels, rate, getattr(torch, dtype))
    found = {name: Net(*args, memory_format) for name, memory_format in FORMATS.items()}
    if DEVICE == "cuda":
        found["torch.compile, channels last"] = Net(*args, torch.channels_last, torch.compile)
    return found


def operations(op, direction, x, weight, dy, hyper, dtype, tf32):
    """`{name: (run, answer)}` of one direction of one operation on NHWC arrays, in both formats.

    A direction is "forward" (of training: what backward needs is kept), "dx" or "dweight".
    """
    _allow(tf32)
    return {name: _operation(op, direction, x, weight, dy, hyper, dtype, f) for name, f in FORMATS.items()}


def dispatch():
    """`(run, answer)` of about the cheapest call, the negation of one number."""
    one = torch.ones((), device=DEVICE)

    return lambda: torch.neg(one), lambda: _array(torch.neg(one))


def _operation(op, direction, x, weight, dy, hyper, dtype, memory_format):
    def tensor(array, axes):
        moved = torch.tensor(np.ascontiguousarray(array)).permute(axes)
        return moved.to(device=DEVICE, dtype=getattr(torch, dtype)).contiguous(memory_format=memory_format)

    x, dy = tensor(x, (0, 3, 1, 2)), tensor(dy, (0, 3, 1, 2))
    order = (2, 3, 1, 0) if direction == "dweight" else (0, 2, 3, 1)
    if op == "conv2d":
        w = tensor(weight, (3, 2, 0, 1))
        compute = {
            "forward": lambda: F.conv2d(x, w, **hyper),
            "dx": lambda: of_conv2d.conv2d_input(x.shape, w, dy, **hyper),
            "dweight": lambda: of_conv2d.conv2d_weight(x, w.shape, dy, **hyper),
        }[direction]
    else:
        x.requires_grad_()
        pool = {"max_pool2d": F.max_pool2d, "avg_pool2d": F.avg_pool2d}[op]
        y = pool(x, **hyper)
        compute = {
            "forward": lambda: pool(x, **hyper),
            "dx": lambda: torch.autograd.grad(y, x, dy, retain_graph=True)[0],
        }[direction]

    return compute, lambda: _array(compute().detach().permute(order))


def _allow(tf32):
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32


def wait(_):
    """Until all work that was begun is done."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def _array(tensor):
    return tensor.detach().float().cpu().numpy()
