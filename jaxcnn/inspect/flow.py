r"""What goes forward and what comes back: one image's way through a network, layer by layer.

(1)  x^l      the output of layer l; x^0 is the image
(2)  delta^l  = dE/dx^l, its sensitivity, as the hand-written chain computes it: `backward_with_deltas`

Tests: tests/inspect/test_flow.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from ..layers.base import Layer, Params
from ..layers.sequential import Sequential
from ..losses import Loss
from .plots import _figure, _png

SHOWN = 3  # maps of each layer in the picture


@dataclass(frozen=True)
class Passed:
    """What one layer let pass of one sample.

    Attributes:
        name: the layer's name; "input" for the image.
        x: its output (1), (H, W, C) or (K,).
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
        image: one sample, of the parameters' dtype, without the axis of the batch.
        label: its class.

    >>> from jaxcnn import Dense, ReLU, SoftmaxCrossEntropy
    >>> params = {"dense1": {"weight": jnp.array([[1.0, -1.0]]), "bias": jnp.zeros(2)}}
    >>> passed, E = flow(Sequential((Dense(2), ReLU())), SoftmaxCrossEntropy(), params, jnp.array([2.0]), 1)
    >>> for layer in passed:
    ...     print(layer.name, layer.x, layer.delta.round(2))
    input [2.] [0.88]
    dense1 [ 2. -2.] [0.88 0.  ]
    relu1 [2. 0.] [ 0.88 -0.88]
    """
    if not isinstance(network, Sequential):
        network = Sequential((network,))
        params = {network.names[0]: params}
    outputs = [x := jnp.asarray(image)[None]]
    for name, layer in network.children().items():
        outputs.append(x := layer.apply(params.get(name, {}), x))
    y, residuals = network.forward(params, outputs[0])
    E, of_loss = loss.forward(y, jnp.asarray([label]))
    dx, _, deltas = network.backward_with_deltas(residuals, loss.backward(of_loss))
    passed = [Passed("input", np.asarray(outputs[0][0]), np.asarray(dx[0]))]
    for name, x in zip(network.names, outputs[1:], strict=True):
        passed.append(Passed(name, np.asarray(x[0]), np.asarray(deltas[name][0])))
    return passed, float(E)


def picture(passed: Sequence[Passed], classes: Sequence[str], title: str) -> bytes:
    """The flow as a PNG: the outputs above, their sensitivities below, each layer on a scale of its own.

    Of every layer the maps with the largest sensitivities are shown, the same ones as long as their number stays the
    same. Layers that change no number (flatten, dropout in evaluation) are left out.
    """
    shown = [
        layer for last, layer in zip([None, *passed], passed, strict=False) if last is None or _differ(last, layer)
    ]
    figure = _figure(figsize=(1.1 * len(shown) + 1, 6.6))
    grid = figure.subplots(2, len(shown), squeeze=False, width_ratios=[1] * (len(shown) - 1) + [1.3])
    count, maps = 0, np.zeros(0, int)
    for layer, column in zip(reversed(shown), reversed(grid.T), strict=True):
        if layer.x.ndim == 3 and layer.x.shape[2] != count:
            count, maps = layer.x.shape[2], np.sort(np.argsort(-np.abs(layer.delta).sum(axis=(0, 1)))[:SHOWN])
        for axes, values in zip(column, (layer.x, layer.delta), strict=True):
            limit = float(np.abs(values).max())
            axes.set(xticks=[], yticks=[])
            if layer is shown[-1]:
                _bars(axes, values, classes)
            elif layer.name == "input" and axes is column[0] and count in (1, 3):
                low, high = values.min(), values.max()
                axes.imshow((values - low) / ((high - low) or 1), cmap="gray")
            else:
                tiles = values[:, :, maps] if values.ndim == 3 else values
                axes.imshow(_stacked(tiles), cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.set_xlabel(f"±{np.format_float_positional(limit, 2, fractional=False, trim='-')}", fontsize=8)
        column[0].set_title(f"{layer.name}\n{'×'.join(map(str, layer.x.shape))}", fontsize=9)
    for axes, said in zip(
        grid[:, 0], ("forward  →\nwhat each layer puts out", "←  back\nits sensitivity dE/dx"), strict=True
    ):
        axes.set_ylabel(said, fontsize=10)
    figure.suptitle(title)
    return _png(figure)


def _differ(last, layer):
    return last.x.size != layer.x.size or not np.array_equal(last.x.ravel(), layer.x.ravel())


def _stacked(values):
    """Maps (H, W, C) one below the other with a gap between them; a vector (K,) row by row in a narrow rectangle."""
    if values.ndim == 3:
        height, width, count = values.shape
        stacked = np.full((count, height + 1, width), np.nan)
        stacked[:, :height] = values.transpose(2, 0, 1)
        return stacked.reshape(-1, width)[:-1]
    columns = max(1, math.isqrt(len(values) // 3))
    rows = math.ceil(len(values) / columns)
    filled = np.full(rows * columns, np.nan)
    filled[: len(values)] = values
    return filled.reshape(rows, columns)


def _bars(axes, values, classes):
    places = np.arange(len(values))
    axes.barh(places, values, color=np.where(values < 0, "#2166ac", "#b2182b"))
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_ylim(len(values) - 0.5, -0.5)
    if len(classes) == len(values) <= 20:
        axes.set_yticks(places, classes, fontsize=8)
        axes.yaxis.tick_right()
