"""`jaxcnn evaluate`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ..saved.report import evaluated
from .show import JsonOption, measures, opened, show_evaluation, to_console, to_json


def evaluate_command(
    run: Annotated[Path, typer.Argument(help="Run folder written by jaxcnn train.")],
    data: Annotated[str | None, typer.Option(help="Test split of this data set instead of the run's own.")] = None,
    as_json: JsonOption = False,
):
    """Measure a trained network on a test split.

    Examples:

    * jaxcnn evaluate runs/digits-0001

    * jaxcnn evaluate runs/digits-0001 --json
    """
    console = to_console(as_json)
    saved, dataset = opened(run, data)
    measured = evaluated(saved, dataset)
    show_evaluation(console, measured, dataset)
    console.print(
        Text(f"test accuracy {measured.accuracy:.2%}", style="bold"),
        f"loss {measured.loss:.4f} on {len(measured.predictions):,} images of {dataset.name}",
    )
    if as_json:
        print(to_json(measures(measured)))
