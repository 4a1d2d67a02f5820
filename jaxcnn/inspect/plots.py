"""Pictures of a training run, as PNG bytes; and small images as text for a terminal."""

import io
import itertools
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..layers.base import Params
from .flow import Passed

FEW = 20  # epochs: with more, their marks run together
NAME = 20  # characters of a class's name
MAPS = 3  # maps of each layer in the picture of a flow
LETTERS = 24  # of a title, above each map
LEGEND = (
    "gradients: red where brighter would help, blue where darker\nrelevance: red speaks for the class, blue against it"
)


def curves(history: list[dict[str, Any]], title: str = "") -> bytes:
    """Loss and error rate over the epochs, on the training images and on those that it was measured on beside them.

    And the noise scale, where it was measured.
    """
    marker = "o" if len(history) <= FEW else None
    noise = [(epoch["epoch"], epoch["noise_scale"]) for epoch in history if "noise_scale" in epoch]
    figure = _figure(title, figsize=(15 if noise else 10, 4))
    left, right, *more = figure.subplots(1, 3 if noise else 2)
    for prefix, label in (("", "training"), ("validation_", "validation"), ("test_", "test")):
        there = [epoch for epoch in history if f"{prefix}loss" in epoch]
        epochs = [epoch["epoch"] for epoch in there]
        errors = [100 * (1 - epoch[f"{prefix}accuracy"]) for epoch in there]
        if there:
            left.semilogy(epochs, [epoch[f"{prefix}loss"] for epoch in there], label=label, marker=marker)
            right.plot(epochs, errors, label=label, marker=marker)
    left.set(title="Loss", xlabel="epoch", ylabel="mean loss")
    right.set(title="Error", xlabel="epoch", ylabel="misclassified (%)", ylim=(0, None))
    for axes in more:
        axes.semilogy(*zip(*noise, strict=True), label="tr S / |G|^2", marker=marker)
        axes.set(title="Noise scale", xlabel="epoch", ylabel="samples")
    for axes in (left, right, *more):
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.legend()
    return _png(figure)


def kernels(params: Params, title: str = "") -> bytes | None:
    """The kernels of the first convolution, one small image each on one scale; None without a convolution.

    A kernel of three input channels is shown in colour, any other as one image for each input channel.
    """
    name = next((name for name, value in params.items() if np.ndim(value.get("weight")) == 4), None)
    if name is None:
        return None
    weight, limit = _finite(np.asarray(params[name]["weight"], np.float64))
    limit = limit or 1
    if weight.shape[2] == 3:
        tiles = (weight.transpose(3, 0, 1, 2) / limit + 1) / 2
    else:
        tiles = weight.reshape(*weight.shape[:2], -1).transpose(2, 0, 1)[:256, :, :, None]
    count, height, width, channels = tiles.shape
    columns = math.ceil(math.sqrt(2 * count))
    rows = math.ceil(count / columns)
    mosaic = np.full((rows * columns, height, width, channels), np.nan)
    mosaic[:count] = tiles
    mosaic = mosaic.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    mosaic = mosaic.reshape(rows * height, columns * width, channels)
    figure = _figure(title, figsize=(0.8 * columns + 1, 0.8 * rows + 0.8))
    axis = figure.subplots()
    image = axis.imshow(mosaic if channels == 3 else mosaic[..., 0], cmap="RdBu_r", vmin=-limit, vmax=limit)
    for i in range(rows + 1):
        axis.axhline(i * height - 0.5, color="white", linewidth=8)
    for j in range(columns + 1):
        axis.axvline(j * width - 0.5, color="white", linewidth=8)
    axis.axis("off")
    if channels == 1:
        figure.colorbar(image, ax=axis, shrink=0.9)
    axis.set_title(f"Kernels of {name}, {height}x{width}")
    return _png(figure)


def flow_picture(passed: Sequence[Passed], classes: Sequence[str], title: str) -> bytes:
    """The flow as a PNG: the outputs above, their sensitivities below, each layer on a scale of its own.

    Of every layer the three maps with the largest sensitivities are shown, the same ones as long as the number of maps
    stays the same. Layers that change no number (flatten, dropout in evaluation) are left out.
    """
    shown = [passed[0], *(layer for before, layer in itertools.pairwise(passed) if _differ(before, layer))]
    figure = _figure(title, figsize=(1.1 * len(shown) + 1, 6.6))
    grid = figure.subplots(2, len(shown), squeeze=False, width_ratios=[1] * (len(shown) - 1) + [1.3])
    count, maps = 0, np.zeros(0, int)
    for layer, column in zip(reversed(shown), reversed(grid.T), strict=True):
        if layer.x.ndim == 3 and layer.x.shape[2] != count:
            count, maps = layer.x.shape[2], np.sort(np.argsort(-np.abs(layer.delta).sum(axis=(0, 1)))[:MAPS])
        for axes, values in zip(column, (layer.x, layer.delta), strict=True):
            values, limit = _finite(values)
            axes.set(xticks=[], yticks=[])
            if layer is shown[-1]:
                _bars(axes, values, classes)
            elif layer is passed[0] and axes is column[0] and count in (1, 3):
                low, high = values.min(), values.max()
                axes.imshow((values - low) / ((high - low) or 1), cmap="gray")
            else:
                tiles = values[:, :, maps] if values.ndim == 3 else values
                axes.imshow(_stacked(tiles), cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.set_xlabel(f"±{_rounded(limit)}", fontsize=8)
        column[0].set_title(f"{layer.name}\n{'×'.join(map(str, layer.x.shape))}", fontsize=9)
    grid[0, 0].set_ylabel("forward  →\nwhat each layer puts out", fontsize=10)
    grid[1, 0].set_ylabel("←  back\nits sensitivity dE/dx", fontsize=10)
    return _png(figure)


def attribution_picture(image: np.ndarray, maps: Mapping[str, np.ndarray], title: str) -> bytes:
    """An image (H, W, C) from 0 to 1 and beside it maps (H, W) by their titles, each on a scale of its own."""
    title = textwrap.fill(title, LETTERS * (len(maps) + 1))
    figure = _figure(title, figsize=(2 * len(maps) + 2, 3.3))
    first, *others = figure.subplots(1, len(maps) + 1, squeeze=False)[0]
    first.imshow(_in_colour(image))
    first.set_title("the image\n", fontsize=10)
    for axes, (name, values) in zip(others, maps.items(), strict=True):
        values, limit = _finite(values)
        axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(f"±{_rounded(limit)}", fontsize=8)
    for axes in (first, *others):
        axes.set(xticks=[], yticks=[])
    figure.supxlabel(LEGEND, fontsize=8)
    return _png(figure)


def as_png(image: np.ndarray) -> bytes:
    """An image (H, W, C) from 0 to 1 as it is, a pixel for each entry: in colour if C is 3, else the mean as grey."""
    _, imsave = _drawing()
    buffer = io.BytesIO()
    imsave(buffer, _in_colour(image), format="png")
    return buffer.getvalue()


def as_text(images: np.ndarray) -> list[str]:
    """Grey images (N, H, W), values from 0 to 1, side by side as lines of text.

    An entry is two characters wide; above 16 columns it is one, and every second row is left out.

    >>> print("|".join(as_text(np.array([[[0.0, 1.0]], [[0.5, 1.0]]]))))
      ██  ▒▒██
    """
    shades = np.array(list(" ░▒▓█"))
    width = 2 if images.shape[2] <= 16 else 1
    levels = np.clip(np.rint(images[:, :: 3 - width] * (len(shades) - 1)), 0, len(shades) - 1).astype(int)
    rows = shades[levels].transpose(1, 0, 2)
    return ["  ".join("".join(width * shade for shade in image) for image in row) for row in rows]


def _drawing():
    try:
        from matplotlib.figure import Figure
        from matplotlib.image import imsave
    except ImportError:
        raise InputError("pictures need matplotlib: pip install '.[cli]' in a checkout") from None
    return Figure, imsave


def _figure(title, **arguments):
    Figure, _ = _drawing()
    figure = Figure(layout="constrained", **arguments)
    figure.suptitle(_drawable(title), parse_math=False)
    return figure


def _finite(values):
    """The values with NaN in place of what is infinite, and the largest that is finite."""
    finite = np.isfinite(values)
    return np.where(finite, values, np.nan), float(np.abs(values).max(initial=0, where=finite))


def _in_colour(image):
    pixels = image if image.shape[2] == 3 else image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    return np.clip(pixels, 0, 1)


def _rounded(limit):
    return np.format_float_positional(limit, 2, fractional=False, trim="-")


def _drawable(name):
    """Without the bytes in a file's name that are no characters."""
    return name.encode("utf-8", "replace").decode()


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of names: no font has all characters
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _differ(before, layer):
    return not np.array_equal(before.x.ravel(), layer.x.ravel(), equal_nan=True)


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
        axes.set_yticks(places, [_drawable(name)[:NAME] for name in classes], fontsize=8, parse_math=False)
        axes.yaxis.tick_right()
