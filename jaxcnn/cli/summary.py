"""`jaxcnn summary`."""

from typing import Annotated

import typer

from ..errors import InputError
from ..inspect.summary import summary
from ..zoo.models import by_shape, find_model
from .show import JsonOption, to_json


def summary_command(
    model: Annotated[str, typer.Option(help=f"One of {by_shape()}.")] = "digits",
    batch_size: Annotated[int, typer.Option(help="Samples in the batch whose residuals are counted.")] = 1,
    as_json: JsonOption = False,
):
    """Show a model layer by layer: shape, parameters, multiply-adds, residual bytes.

    Residual bytes are what a training step keeps from forward to backward besides parameters and batch.

    Example:

    * jaxcnn summary --model lenet28 --batch-size 128
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size} but must be at least 1")
    found = find_model(model)
    table = summary(found.build(10), found.in_shape, batch_size=batch_size)
    if as_json:
        rows = [vars(row) for row in table.rows]
        print(to_json({"model": model, "in_shape": table.in_shape, "batch_size": batch_size, "layers": rows}))
    else:
        print(table)
