r"""Saliency: the gradient of an output with respect to the image, its way through rectifiers changed.

u goes into a rectifier, y = f(u) comes out, dy comes back.

(1)  gradient   du = f'(u) dy           Simonyan, Vedaldi & Zisserman, *Deep inside convolutional networks* (2014)
(2)  deconvnet  du = max(dy, 0)         Zeiler & Fergus, *Visualizing and understanding convolutional networks* (2014)
(3)  guided     du = f'(u) max(dy, 0)   Springenberg et al., *Striving for simplicity* (2015), section 3.4

With ReLU f'(u) is 1[u > 0]: the gradient asks what went forward, the deconvnet what comes back, guided both. Where a
network has no rectifier all three are the gradient. Tests: tests/change/test_saliency.py.
"""

import jax.numpy as jnp

from ..layers.activation import HardSwish, LeakyReLU, ReLU
from ..layers.base import Layer
from ..layers.rules import under_rules
from ..layers.smooth import ELU, GELU, GELUTanh, SiLU, Softplus

__all__ = ["deconvnet", "guided", "is_rectifier"]

RECTIFIERS = ReLU, LeakyReLU, ELU, GELU, GELUTanh, SiLU, Softplus, HardSwish


def is_rectifier(name: str, layer: Layer) -> bool:
    """Whether a layer is ReLU or like it, 0 or nearly so on one side and rising on the other: a selector of rules."""
    return isinstance(under_rules(layer), RECTIFIERS)


def deconvnet(layer, params, residuals, dy, context):
    """Rule of a rectifier: the sensitivity itself where it is positive, (2).

    >>> from jaxcnn import Dense, ReLU, Sequential
    >>> from jaxcnn.change import attribute
    >>> network = Sequential((Dense(2, bias=False), ReLU(), Dense(1, bias=False)))
    >>> params = {"dense1": {"weight": jnp.array([[-3.0, 4.0]])}, "dense2": {"weight": jnp.array([[1.0], [-1.0]])}}
    >>> for rules in {}, {ReLU: deconvnet}, {ReLU: guided}:
    ...     print(attribute(network, params, jnp.array([[1.0]]), rules, jnp.array([0])))
    [[-4.]]
    [[-3.]]
    [[0.]]
    """
    return jnp.maximum(dy, 0), {}  # (2)


def guided(layer, params, residuals, dy, context):
    """Rule of a rectifier: its own backward of the sensitivity where it is positive, (3). Example: `deconvnet`."""
    return layer.backward(residuals, jnp.maximum(dy, 0))  # (3)
