"""What the commands share: options, the console, tables and JSON."""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import jax
import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..data import Dataset, load_dataset
from ..errors import InputError
from ..inspect import plots
from ..inspect.confusion import frequent_confusions
from ..inspect.diagnosis import Diagnosis
from ..layers.base import Layer
from ..store.runs import Saved, load_run
from ..training import Evaluation
from . import say

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")]


def starting(names: Iterable[str]) -> Callable[[str], list[str]]:
    """What a shell completes a value to."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def to_console(as_json: bool, quiet: bool = False) -> Console:
    """Where people read: stdout, or stderr where stdout is for JSON; a terminal's lines are broken between words."""
    console = Console(stderr=as_json, quiet=quiet, markup=False, highlight=False)
    console.soft_wrap = not console.is_terminal
    return console


def progress(console: Console) -> Progress:
    """A progress bar, on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def to_json(value: Any) -> str:
    """JSON for stdout; null for what is not finite."""
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda name: None), indent=2)


def stop(sentence: Any) -> NoReturn:
    """End with status 1: a check failed, or training diverged."""
    say(str(sentence))
    raise typer.Exit(1)


def opened(run: Path, source: str | None) -> tuple[Saved, Dataset]:
    """A run, by its folder or its model file, and its own data set or another of the same shape.

    Says so if its parameters are not finite.

    Raises:
        InputError: the run or the data cannot be read, or has images of another shape.
    """
    saved = opened_run(run)
    dataset = load_dataset(saved.recipe.data if source is None else source, saved.recipe.resize)
    if source is None:
        saved.check_images(dataset)
    if dataset.in_shape != saved.image_shape:
        raise InputError(
            f"{dataset.name} has images of shape {dataset.in_shape} but the network of {run} was trained on "
            f"{saved.image_shape}; they must be the same"
        )
    return saved, dataset


def severe(network: Layer, found: tuple[Diagnosis, ...]) -> list[Diagnosis]:
    """Those worth a sentence: not the last layer, which targets of 0 and 1 want saturated."""
    last = list(network.children())[-1:]
    return [layer for layer in found if layer.severe and layer.name not in last]


def measures(measured: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON values."""
    return {"accuracy": measured.accuracy, "loss": measured.loss, "confusion": measured.confusion.tolist()}


def show_evaluation(console: Console, measured: Evaluation, dataset: Dataset) -> None:
    """The confusion matrix, or where it is too wide its largest entries, and a row of misclassified images."""
    names = [*dataset.classes, *map(str, range(len(dataset.classes), len(measured.confusion)))]
    table = _confusion(measured.confusion, names, console.width)
    if table is not None:
        console.print("Confusion: rows are the true class, columns the predicted")
        console.print(table)
    else:
        console.print("the most frequent confusions:")
        for i, j, count in frequent_confusions(measured.confusion, 10):
            console.print(f"{count:6,}  {names[i]} taken for {names[j]}")
    wrong = np.flatnonzero(measured.predictions != dataset.test_labels)
    if not wrong.size:
        console.print("no image was misclassified")
        return
    if dataset.in_shape[2] == 3:  # shades of grey show too little of a photograph
        console.print(f"{len(wrong):,} of {len(dataset.test_labels):,} misclassified; jaxcnn plot shows them")
        return
    labels = [f"{names[dataset.test_labels[i]]} taken for {names[measured.predictions[i]]}" for i in wrong]
    width = max(len(plots.as_text(dataset.test_images[:1].mean(axis=-1))[0]), *map(len, labels))
    shown = min(len(wrong), max(1, (console.width + 2) // (width + 2)))
    images = dataset.test_images[wrong[:shown]].mean(axis=-1)
    console.print(f"{len(wrong):,} misclassified" + (f", the first {shown}:" if shown < len(wrong) else ":"))
    blocks = ([label, *plots.as_text(image[None])] for label, image in zip(labels[:shown], images, strict=True))
    for lines in zip(*blocks, strict=True):
        console.print("  ".join(line.ljust(width) for line in lines))


def _confusion(confusion, names, width) -> Table | None:
    """The table, the names above its columns cut to letters that fit; None if not even three do."""
    digits = len(str(confusion.max()))
    for letters in range(max(map(len, names)), 2, -1):
        heads = [name[:letters] for name in names]
        if max(map(len, names)) + sum(max(len(head), digits) + 3 for head in heads) + 4 <= width:
            break
    else:
        if max(map(len, names)) > 2:
            return None
        heads = names
    table = Table()
    for name in ("", *heads):
        table.add_column(name, justify="right")
    for i, row in enumerate(confusion):
        cells = (
            Text(str(count) if count else "·", style="bold green" if i == j else "red" if count else "dim")
            for j, count in enumerate(row)
        )
        table.add_row(names[i], *cells)
    return table


def run_folder(run: Path) -> Path:
    """The folder of a run that is named by it or by one of its model files."""
    return run.parent if run.is_file() else run


def opened_run(run: Path) -> Saved:
    """A run, by its folder or a model file; says so if its parameters are not finite.

    Raises:
        InputError: the run cannot be read.
    """
    saved = load_run(run)
    leaves = jax.tree_util.tree_leaves_with_path(saved.checkpoint.params)
    bad = [jax.tree_util.keystr(path, simple=True, separator="/") for path, w in leaves if not np.isfinite(w).all()]
    if bad:
        print(f"jaxcnn: {run} holds NaN or infinite parameters, in {', '.join(bad)}", file=sys.stderr)
    return saved


def check_file(name: str, path: Path | None) -> None:
    """Refuse what cannot become a file, before any work is done; None is a default."""
    if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
        raise InputError(f"{name} is {str(path)!r} but must be a file; its folder must exist")
