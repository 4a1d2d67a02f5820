r"""A body with a way around it (He et al. 2016, *Deep Residual Learning for Image Recognition*).

(1)  y           = body(x) + shortcut(x)
(2)  dx          = (dbody/dx)^T dy + (dshortcut/dx)^T dy      the sensitivity goes both ways, and is added at the end

Without a shortcut layer the way around is x itself. Tests: tests/layers/test_residual.py.
"""

from dataclasses import dataclass

import jax

from ..errors import InputError
from .base import Layer

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
                raise InputError(f"Residual: {name} is {layer!r} but must be a layer")

    def init(self, key, in_shape):
        body_key, shortcut_key = jax.random.split(key)
        params = {"body": self.body.init(body_key, in_shape)}
        if self.shortcut is not None:
            params["shortcut"] = self.shortcut.init(shortcut_key, in_shape)
        self.output_shape(in_shape)
        return {name: value for name, value in params.items() if value}

    def apply(self, params, x, *, train=False, key=None):
        body_key, shortcut_key = _split(key)
        around = x
        if self.shortcut is not None:
            around = self.shortcut.apply(params.get("shortcut", {}), x, train=train, key=shortcut_key)
        return self.body.apply(params.get("body", {}), x, train=train, key=body_key) + around  # (1)

    def forward(self, params, x, *, train=False, key=None):
        body_key, shortcut_key = _split(key)
        y, residuals = self.body.forward(params.get("body", {}), x, train=train, key=body_key)
        around, kept = x, None
        if self.shortcut is not None:
            around, kept = self.shortcut.forward(params.get("shortcut", {}), x, train=train, key=shortcut_key)
        return y + around, {"body": residuals, "shortcut": kept}  # (1)

    def backward_with_deltas(self, residuals, dy):
        dx, grads, inner = self.body.backward_with_deltas(residuals["body"], dy)
        grads, deltas = {"body": grads}, {"body": dy} | _under("body", inner)
        around = dy
        if self.shortcut is not None:
            around, grads["shortcut"], inner = self.shortcut.backward_with_deltas(residuals["shortcut"], dy)
            deltas |= {"shortcut": dy} | _under("shortcut", inner)
        return dx + around, {name: value for name, value in grads.items() if value}, deltas  # (2)

    def output_shape(self, in_shape):
        around = in_shape if self.shortcut is None else self.shortcut.output_shape(in_shape)
        shape = self.body.output_shape(in_shape)
        if shape != around:
            raise InputError(f"Residual: the body's output has shape {shape} but must have the shortcut's, {around}")
        return shape


def _under(branch, deltas):
    return {f"{branch}/{name}": delta for name, delta in deltas.items()}


def _split(key):
    return (None, None) if key is None else jax.random.split(key)
