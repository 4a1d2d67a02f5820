"""`jaxcnn plot`."""

from pathlib import Path
from typing import Annotated

import typer

from .. import files
from ..errors import InputError, find
from ..saved.classify import class_names, image_for
from ..saved.report import Example, evaluated, read_history, run_page
from .predict import content_of
from .show import JsonOption, check_file, measures, opened, run_folder, to_console, to_json


def plot_command(
    run: Annotated[Path, typer.Argument(help="Run folder written by jaxcnn train.")],
    image: Annotated[
        str | None,
        typer.Argument(
            help="A PNG or JPEG file, or - for standard input, that is followed through the network. [default: the "
            "first test image that is taken for another class]"
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="The class of IMAGE; unless given, the one that it is taken for stands in.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Page to write. [default: report.html in the run folder, report-NAME.html for IMAGE]"),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Test split of this data set instead of the run's own.")] = None,
    as_json: JsonOption = False,
):
    """Write a report on a trained network as one HTML page that needs nothing else.

    It has the curves, the confusion matrix, the mistakes of which the network was surest, the kernels, the recipe, and
    one image on its way through the network: what each layer puts out, and its sensitivity on the way back.

    Examples:

    * jaxcnn plot runs/digits-0001

    * jaxcnn plot runs/digits-0001 four.png --label 4 --out four.html
    """
    check_file("out", out)
    if label is not None and image is None:
        raise InputError(f"label is {label!r} but no image is given; it must come with IMAGE")
    saved, dataset = opened(run, data)
    folder = run_folder(run)
    example = None if image is None else _example(saved, dataset, image, label)
    measured, history = evaluated(saved, dataset), read_history(folder)
    of_image = "" if image is None else f"-{'standard-input' if image == '-' else Path(image).stem}"
    file = out or folder / f"report{of_image}.html"
    page = run_page(saved, dataset, measured, history, folder.resolve().name, example)
    files.write(file, page.encode("utf-8", "replace"))
    to_console(as_json).print(f"wrote {file}: test accuracy {measured.accuracy:.2%}, loss {measured.loss:.4f}")
    if as_json:
        print(to_json({"file": str(file), **measures(measured)}))


def _example(saved, dataset, image, label):
    (outputs,) = saved.checkpoint.network.output_shape(saved.checkpoint.in_shape)
    known = {name: i for i, name in enumerate(class_names(dataset.classes, outputs))}
    label = None if label is None else find("label", label, known)
    name = "standard input" if image == "-" else image
    return Example(name, image_for(saved, name, content_of(image)), label)
