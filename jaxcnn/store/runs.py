"""A run folder: what a training run leaves behind, and how it is read again."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .. import files
from ..data import Dataset, Normalization
from ..errors import InputError, reason
from ..files import AnyPath
from ..inspect import plots
from ..layers.base import Layer, Params, Shape
from ..progress import Progress
from ..recipe import Recipe
from ..training import TrainState
from .checkpoint import Checkpoint, load_checkpoint, load_progress, save_checkpoint


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
    """A folder and what is written there: model.safetensors, metrics.jsonl, curves.png, kernels.png."""

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

    @classmethod
    def reopen(cls, folder: AnyPath, network: Layer, in_shape: Shape, config: dict[str, Any]) -> "Run":
        """The folder of a run that goes on; files that a killed process left half-written are deleted."""
        for path in Path(folder).glob("*.tmp"):
            path.unlink()
        return cls(Path(folder), network, in_shape, config)

    def log(self, history: Sequence[dict[str, Any]]) -> None:
        """Write metrics.jsonl, a line for each epoch."""
        lines = "".join(json.dumps(epoch, allow_nan=False) + "\n" for epoch in history)
        files.write(self.folder / "metrics.jsonl", lines.encode())

    def keep(self, progress: Progress, name: str = "model.safetensors") -> None:
        """Replace a model's file."""
        save_checkpoint(self.folder / name, self.network, self.in_shape, progress, self.config)

    def keep_epoch(self, progress: Progress, count: int) -> None:
        """Write epoch-0012.safetensors, and delete those that are no more among the last `count`."""
        self.keep(progress, f"epoch-{len(progress.history):04}.safetensors")
        for path in sorted(self.folder.glob("epoch-*.safetensors"), key=lambda path: (len(path.name), path.name))[
            :-count
        ]:
            path.unlink()

    def draw(self, history: Sequence[dict[str, Any]], params: Params) -> None:
        """Write the pictures; curves.png only if an epoch is over, kernels.png only if there is a convolution."""
        if history:
            files.write(self.folder / "curves.png", plots.curves(list(history), self.folder.name))
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

    def check_images(self, dataset: Dataset) -> None:
        """Refuse a data set that is no more what the run was trained on: its test images may have been trained on.

        Raises:
            InputError: it has other images.
        """
        if self.checkpoint.info.get("images", dataset.fingerprint) != dataset.fingerprint:
            raise InputError(
                f"data is {self.recipe.data!r}, whose images are not those that this run was trained on, so that some "
                "may have moved between training and test; they must be the same"
            )


def load_run(run: AnyPath) -> Saved:
    """Read a run by its folder, where best.safetensors comes before model.safetensors, or one of its model files.

    Images must be normalised as in training before the network sees them:

        saved = load_run("runs/digits-0001")
        network, params = saved.checkpoint.network, saved.checkpoint.params
        classes, probabilities = predict(network, params, saved.normalization(images))

    Raises:
        InputError: it holds no model, or a corrupt one.
    """
    path = Path(run)
    if path.is_dir() or not path.is_file():
        path = next((found for name in ("best", "model") if (found := path / f"{name}.safetensors").is_file()), None)
    if path is None:
        raise InputError(f"run is {str(run)!r}, which holds no model.safetensors; it must be a folder of jaxcnn train")
    return _saved(path)


def load_unfinished(folder: AnyPath, like: TrainState) -> tuple[Saved, Progress]:
    """Read a run to go on with it.

    Args:
        folder: of the run.
        like: a state of its network and optimizer, as from `init_state`.

    Returns:
        What is saved beside the parameters, and where training stopped.

    Raises:
        InputError: it holds no model, a corrupt one, or one of another network or optimizer.
    """
    last, best = (Path(folder) / f"{name}.safetensors" for name in ("model", "best"))
    progress = load_progress(last, like)
    if int(progress.state.epoch) and not progress.history and not len(progress.losses):
        raise InputError(
            f"{last}: was written by an older jaxcnn, which did not keep what going on needs; it must be repeated "
            "by its recipe.toml"
        )
    if best.is_file():
        # written before the last one: a process that was killed between the two had come so far
        of_best = load_progress(best, like)
        progress = max(progress, of_best, key=lambda each: len(each.history))
        progress = replace(progress, best=of_best.state.averaged)
    elif any("validation_loss" in epoch for epoch in progress.history):
        raise InputError(f"{best}: is missing; it must be there, since {last} says that there were images held out")
    return _saved(last), progress


def _saved(path):
    saved = load_checkpoint(path)
    try:
        known = {field.name for field in fields(Recipe)}
        recipe = Recipe.from_dict({name: value for name, value in saved.info.items() if name in known})
        numbers = {name: float(saved.info["normalization"][name]) for name in ("mean", "std")}
        normalization = Normalization(**numbers, padding=int(saved.info["normalization"]["padding"]))
        classes = tuple(map(str, saved.info["classes"]))
        _, _, _ = saved.in_shape
        _, _, _ = (saved.info[name] for name in ("data", "loss", "dtype"))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: is corrupt (configuration: {reason(error)}); it must be written by jaxcnn train"
        ) from None
    return Saved(saved, recipe, normalization, classes)
