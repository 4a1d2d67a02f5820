"""`jaxcnn diagnose`."""

from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import typer
from rich.table import Table
from rich.text import Text

from ..experiment import DIAGNOSED, precision
from ..inspect.diagnosis import diagnose
from .show import JsonOption, opened, severe, to_console, to_json


def diagnose_command(
    run: Annotated[Path, typer.Argument(help="Run folder written by jaxcnn train.")],
    data: Annotated[str | None, typer.Option(help="Training images of this data set instead of the run's own.")] = None,
    as_json: JsonOption = False,
):
    """Look for saturated sigmoid and tanh units and dead ReLU units in a trained network.

    A unit is saturated where its derivative is below 5 % of its maximum, and dead if it is zero for every sample. The
    batch is the first 512 training images.

    Examples:

    * jaxcnn diagnose runs/digits-0001

    * jaxcnn diagnose runs/digits-0001 --json
    """
    console = to_console(as_json)
    saved, dataset = opened(run, data)
    network, dtype = saved.checkpoint.network, saved.recipe.dtype
    with precision(dtype):
        images = jnp.asarray(saved.normalization(dataset.train_images[:DIAGNOSED]), jnp.dtype(dtype))
        found = diagnose(network, jax.tree.map(jnp.asarray, saved.checkpoint.params), images)
    bad = severe(network, found)
    table = Table(title=f"{len(images)} training images of {dataset.name}", title_justify="left")
    for name in ("layer", "units", "saturated", "dead"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for layer in found:
        share = Text(f"{layer.share:.1%}", style="bold red" if layer in bad else "")
        table.add_row(
            layer.name, f"{layer.units:,}", *(share if layer.symptom == s else "" for s in ("saturated", "dead"))
        )
    console.print(table)
    for layer in bad:
        console.print(str(layer))
    if not bad:
        console.print("no hidden layer has half of its units saturated or a quarter dead")
    if as_json:
        print(to_json({"samples": len(images), "layers": [vars(layer) | {"severe": layer in bad} for layer in found]}))
