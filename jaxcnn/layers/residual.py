r"""A body with a way around it (He et al. 2016, *Deep Residual Learning for Image Recognition*).

(1)  y           = body(x) + shortcut(x)
(2)  dx          = (dbody/dx)^T dy + (dshortcut/dx)^T dy      the sensitivity goes both ways, and is added at the end

Without a shortcut layer the way around is x itself. Tests: tests/layers/test_residual.py.
"""

from dataclasses import dataclass

import jax

from ..errors import InputError, shown
from .base import Layer, parameters_of, without_empty

__all__ = ["Residual"]


@dataclass(frozen=True)
class Residual(Layer):
    """Spec of a residual block: `body(x) + shortcut(x)`, or `body(x) + x`; the body is a layer, mostly a `Sequential`.

    Parameters are a dict with "body" and "shortcut", without those that have none.

    >>> from jaxcnn import Conv2d, ReLU, Sequential
    >>> body = Sequential((Conv2d(8, 3, stride=2, padding=1), ReLU(), Conv2d(8, 3, padding=1)))
    >>> Residual(body, Conv2d(8, 1, stride=2)).output_shape((32, 32, 4))
    (16, 16, 8)
    """

    body: Layer
    shortcut: Layer | None = None

    def __post_init__(self):
        for name, layer in (("body", self.body), ("shortcut", self.shortcut)):
            if not isinstance(layer, Layer) and not (name == "shortcut" and layer is None):
                raise InputError(f"Residual: {name} is {shown(layer)} but must be a layer")

    def init(self, key, in_shape):
        params = {name: layer.init(own_key, in_shape) for name, layer, own_key in self._branches(key)}
        self.output_shape(in_shape)
        return without_empty(params)

    def apply(self, params, x, *, train=False, key=None):
        outputs = {"shortcut": x}
        for name, layer, own_key in self._branches(key):
            outputs[name] = layer.apply(parameters_of(name, params), x, train=train, key=own_key)
        return outputs["body"] + outputs["shortcut"]  # (1)

    def forward(self, params, x, *, train=False, key=None):
        outputs, residuals = {"shortcut": x}, {"shortcut": None}
        for name, layer, own_key in self._branches(key):
            outputs[name], residuals[name] = layer.forward(parameters_of(name, params), x, train=train, key=own_key)
        return outputs["body"] + outputs["shortcut"], residuals  # (1)

    def backward_with_deltas(self, residuals, dy):
        dx, grads, deltas = {"shortcut": dy}, {}, {}
        for name, layer, _ in self._branches(None):
            dx[name], grads[name], inner = layer.backward_with_deltas(residuals[name], dy)
            deltas |= {name: dy} | {f"{name}/{inner_name}": delta for inner_name, delta in inner.items()}
        return dx["body"] + dx["shortcut"], without_empty(grads), deltas  # (2)

    def output_shape(self, in_shape):
        around = in_shape if self.shortcut is None else self.shortcut.output_shape(in_shape)
        shape = self.body.output_shape(in_shape)
        if shape != around:
            raise InputError(f"Residual: the body's output has shape {shape} but must have the shortcut's, {around}")
        return shape

    def _branches(self, key):
        """(name, layer, key) of the body, and of the shortcut where it is a layer."""
        keys = (None, None) if key is None else jax.random.split(key)
        return [(name, layer, own_key) for (name, layer), own_key in zip(self.children().items(), keys, strict=False)]
