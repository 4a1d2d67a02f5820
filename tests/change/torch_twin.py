"""The same network in PyTorch, for Captum and zennit."""

import numpy as np
import pytest

from jaxcnn import AvgPool2d, BatchNorm, Conv2d, Dense, Flatten, GlobalAvgPool2d, MaxPool2d, ReLU, Residual, Sequential

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn


class Chain(nn.Module):
    """Modules and functions, one after the other."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.inside = nn.ModuleList(step for step in steps if isinstance(step, nn.Module))

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


class Around(nn.Module):
    """A residual block; its addition is the module `add`."""

    def __init__(self, body, shortcut, add):
        super().__init__()
        self.body, self.shortcut, self.add = body, shortcut, add

    def forward(self, x):
        return self.add(torch.stack([self.body(x), self.shortcut(x)], dim=-1))


def added(stacked):
    return stacked.sum(-1)


def flattened(x):
    """The entries in our order, (H, W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1)


def averaged(x):
    return x.flatten(1)


def twin(layer, params, add=added):
    """Of a layer of the library with its parameters and statistics; additions are `add`, of what is stacked."""
    if isinstance(layer, Sequential):
        steps = [step for name, part in layer.children().items() for step in _steps(part, params.get(name, {}), add)]
        return Chain(steps).double().eval()
    (step,) = _steps(layer, params, add)
    return step


def _steps(layer, params, add):
    if isinstance(layer, Sequential):
        return [twin(layer, params, add)]
    if isinstance(layer, Residual):
        shortcut = Chain([]) if layer.shortcut is None else twin(layer.shortcut, params["shortcut"], add)
        return [Around(twin(layer.body, params["body"], add), shortcut, add() if isinstance(add, type) else add)]
    return {Conv2d: _conv, Dense: _dense, BatchNorm: _norm, ReLU: _relu, MaxPool2d: _max, AvgPool2d: _mean,
            GlobalAvgPool2d: _global, Flatten: _flatten}[type(layer)](layer, params)  # fmt: skip


def _conv(layer, params):
    U, V, I, O = params["weight"].shape
    conv = nn.Conv2d(I, O, (U, V), stride=layer.stride, padding=layer.padding, bias=layer.bias)
    conv.weight.data = _tensor(params["weight"].transpose(3, 2, 0, 1))
    return [_biased(conv, params)]


def _dense(layer, params):
    dense = nn.Linear(*params["weight"].shape, bias=layer.bias)
    dense.weight.data = _tensor(params["weight"].T)
    return [_biased(dense, params)]


def _biased(module, params):
    if "bias" in params:
        module.bias.data = _tensor(params["bias"])
    return module


def _norm(layer, params):
    norm = nn.BatchNorm2d(len(params["bias"]), eps=layer.epsilon)
    norm.weight.data, norm.bias.data = _tensor(params["scale"]), _tensor(params["bias"])
    norm.running_mean, norm.running_var = _tensor(params["mean"]), _tensor(params["variance"])
    return [norm]


def _relu(layer, params):
    return [nn.ReLU()]


def _max(layer, params):
    return [nn.MaxPool2d(layer.window_size, layer.stride, layer.padding)]


def _mean(layer, params):
    return [nn.AvgPool2d(layer.window_size, layer.stride, layer.padding)]


def _global(layer, params):
    return [nn.AdaptiveAvgPool2d(1), averaged]


def _flatten(layer, params):
    return [flattened]


def _tensor(array):
    return torch.tensor(np.asarray(array, np.float64))
