"""A run folder: what a training run leaves behind, and how it is read again."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..data import Normalization
from ..errors import InputError
from ..files import AnyPath
from ..inspect import plots
from ..layers.base import Layer, Params, Shape
from ..recipe import Recipe
from ..training import TrainState
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint


def check_out(out: AnyPath | None) -> None:
    """Refuse a folder that exists or cannot be created, before any work is done; None is the next default folder."""
    out = None if out is None else Path(out)
    if out is not None and (out.exists() or out.is_symlink()):
        raise InputError(f"out is {str(out)!r}, which exists; it must be a new folder")
    parent = (out or Path("runs") / "new").absolute().parent
    while not (parent.exists() or parent.is_symlink()):
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"out is {str(out or 'runs')!r}, which cannot be created: {parent} is no writable folder")


@dataclass(frozen=True)
class Run:
    """A folder and what is written there: metrics.jsonl, model.safetensors, curves.png, kernels.png."""

    folder: Path
    network: Layer
    in_shape: Shape
    config: dict[str, Any]

    @classmethod
    def create(cls, out: AnyPath | None, name: str, network: Layer, in_shape: Shape, config: dict[str, Any]) -> "Run":
        """Create the folder `out`, or the next free runs/NAME-0001.

        Raises:
            InputError: the folder exists or cannot be created.
        """
        number = 0
        while True:
            number += 1
            folder = Path("runs") / f"{name}-{number:04}" if out is None else Path(out)
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"out is {str(folder)!r}, which cannot be created: {error.strerror}") from None
            try:
                folder.mkdir()
                break
            except FileExistsError:
                if out is not None:
                    raise InputError(f"out is {str(out)!r}, which exists; it must be a new folder") from None
            except OSError as error:
                raise InputError(f"out is {str(folder)!r}, which cannot be created: {error.strerror}") from None
        return cls(folder, network, in_shape, config)

    def log(self, metrics: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        with files.naming(path), path.open("a") as file:
            file.write(json.dumps(metrics, allow_nan=False) + "\n")

    def keep(self, state: TrainState) -> None:
        """Replace model.safetensors."""
        save_checkpoint(self.folder / "model.safetensors", self.network, self.in_shape, state, self.config)

    def draw(self, history: list[dict[str, Any]], params: Params) -> None:
        """Write the pictures; kernels.png only if there is a convolution."""
        files.write(self.folder / "curves.png", plots.curves(history, self.folder.name))
        kernels = plots.kernels(params, self.folder.name)
        if kernels is not None:
            files.write(self.folder / "kernels.png", kernels)


@dataclass(frozen=True)
class Saved:
    """What `load_run` reads back: the checkpoint, the recipe, the normalisation of its images, the classes' names."""

    checkpoint: Checkpoint
    recipe: Recipe
    normalization: Normalization
    classes: tuple[str, ...]

    @property
    def image_shape(self) -> Shape:
        """Of the data set, before padding."""
        height, width, channels = self.checkpoint.in_shape
        return height - 2 * self.normalization.padding, width - 2 * self.normalization.padding, channels


def load_run(folder: AnyPath) -> Saved:
    """Read a run folder. Images must be normalised as in training before the network sees them:

        saved = load_run("runs/digits-0001")
        network, params = saved.checkpoint.network, saved.checkpoint.params
        classes, probabilities = predict(network, params, saved.normalization(images))

    Raises:
        InputError: it holds no model, or a corrupt one.
    """
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise InputError(
            f"run is {str(folder)!r}, which holds no model.safetensors; it must be a folder of jaxcnn train"
        )
    saved = load_checkpoint(path)
    try:
        recipe = Recipe.from_dict({name: saved.info[name] for name in ("data", "loss", "dtype")})
        numbers = {name: float(saved.info["normalization"][name]) for name in ("mean", "std")}
        normalization = Normalization(**numbers, padding=int(saved.info["normalization"]["padding"]))
        classes = tuple(map(str, saved.info["classes"]))
        _, _, _ = saved.in_shape
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is corrupt (configuration: {error}); it must be written by jaxcnn train") from None
    return Saved(saved, recipe, normalization, classes)
