r"""What goes forward and what comes back: one image's way through a network, layer by layer.

(1)  x^l      the output of layer l; x^0 is the image
(2)  delta^l  = dE/dx^l, its sensitivity, as the hand-written chain computes it: `backward_with_deltas`

Tests: tests/inspect/test_flow.py.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from ..layers.base import Layer, Params, parameters_of
from ..layers.sequential import as_chain
from ..losses import Loss
from ..training import cast

__all__ = ["Passed", "flow"]


@dataclass(frozen=True)
class Passed:
    """What one layer let pass of one sample.

    Attributes:
        name: the layer's name; "input" for the image.
        x: its output (1), float64, (H, W, C) or (K,).
        delta: the sensitivity of this output (2), of the same shape.
    """

    name: str
    x: np.ndarray
    delta: np.ndarray


def flow(network: Layer, loss: Loss, params: Params, image, label: int) -> tuple[list[Passed], float]:
    """The image, then each layer of the network, in order; and the error E.

    Args:
        network: the layers; a layer that is no `Sequential` is a chain of one.
        loss: of the network's outputs.
        params: the parameters.
        image: one sample without the axis of the batch; it is cast to the parameters' dtype.
        label: its class.

    >>> from jaxcnn import Dense, ReLU, Sequential, SoftmaxCrossEntropy
    >>> params = {"dense1": {"weight": jnp.array([[1.0, -1.0]]), "bias": jnp.zeros(2)}}
    >>> passed, E = flow(Sequential((Dense(2), ReLU())), SoftmaxCrossEntropy(), params, jnp.array([2.0]), 1)
    >>> for layer in passed:
    ...     print(layer.name, layer.x, layer.delta.round(2))
    input [2.] [0.88]
    dense1 [ 2. -2.] [0.88 0.  ]
    relu1 [2. 0.] [ 0.88 -0.88]
    """
    network, params = as_chain(network, params)
    outputs, residuals = [x := cast(params, image)[None]], {}
    for name, layer in network.children().items():
        x, residuals[name] = layer.forward(parameters_of(name, params), x)
        outputs.append(x)
    E, of_loss = loss.forward(x, jnp.asarray([label]))
    dx, _, deltas = network.backward_with_deltas(residuals, loss.backward(of_loss))
    names, deltas = ("input", *network.names), {"input": dx} | deltas
    return [Passed(name, _one(x), _one(deltas[name])) for name, x in zip(names, outputs, strict=True)], float(E)


def _one(batch):
    return np.asarray(batch[0], np.float64)
