"""`jaxcnn attribute`."""

from pathlib import Path
from typing import Annotated

import typer

from .. import files
from ..errors import find
from ..inspect import plots
from ..saved.attribution import ATTRIBUTIONS, attribution_maps
from ..saved.classify import class_names, image_for, probabilities
from .predict import content_of
from .show import JsonOption, check_file, opened_run, run_folder, starting, to_console, to_json

FIVE = ["gradient", "guided", "deconvnet", "epsilon-plus", "epsilon-gamma-box"]


def attribute_command(
    run: Annotated[Path, typer.Argument(help="Run folder written by jaxcnn train.")],
    image: Annotated[str, typer.Argument(help="A PNG or JPEG file of any size, or - for standard input.")],
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One of {', '.join(ATTRIBUTIONS)}; give it several times for several maps. [default: "
            f"{', '.join(FIVE)}]",
            autocompletion=starting(ATTRIBUTIONS),
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="The class that is asked for. [default: the one that IMAGE is taken for]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Picture to write, a PNG. [default: attribution-NAME.png in the run folder]")
    ] = None,
    as_json: JsonOption = False,
):
    """Show which pixels of an image speak for its class: a map for each of several rules, as one picture.

    The gradient says where a change would change the output most: red where brighter would be more of the class, blue
    where darker would. Guided backpropagation and the deconvnet let only what is positive come back through the
    rectifiers: they show what the network looks for. Relevance divides the output itself among the pixels: red speaks
    for the class, blue against it. epsilon divides by all that each pixel contributes, z+ by what speaks for the
    output, gamma mostly by that; box, in the first convolution, by how far a pixel is from the least it could be.
    Batch norms are made part of the convolutions first. Each map has a scale of its own, written below it.

    Examples:

    * jaxcnn attribute runs/digits-0001 four.png

    * jaxcnn attribute runs/digits-0001 four.png --label 9 --out not-nine.png

    * jaxcnn attribute runs/digits-0001 four.png --rule epsilon --rule epsilon-plus
    """
    check_file("out", out)
    rules = {name: find("rule", name, ATTRIBUTIONS) for name in rule or FIVE}
    saved = opened_run(run)
    (outputs,) = saved.checkpoint.network.output_shape(saved.checkpoint.in_shape)
    classes = class_names(saved.classes, outputs)
    asked = None if label is None else find("label", label, {name: i for i, name in enumerate(classes)})
    name = "standard input" if image == "-" else image
    pixels = image_for(saved, name, content_of(image))
    (found,) = probabilities(saved, pixels[None])
    taken = int(found.argmax())
    k = taken if asked is None else asked
    maps = attribution_maps(saved, pixels, k, rules)
    said = f"{classes[k]}, probability {found[k]:.2%}"
    if k != taken:
        said += f"; taken for {classes[taken]}, {found[taken]:.2%}"
    titled = {rules[each].title: values for each, values in maps.items()}
    picture = plots.attribution_picture(pixels, titled, f"{Path(name).name}: {said}")
    of_image = "standard-input" if image == "-" else Path(image).stem
    file = out or run_folder(run) / f"attribution-{of_image}.png"
    files.write(file, picture)
    to_console(as_json).print(f"wrote {file}: {said}")
    if as_json:
        facts = {"file": str(file), "class": classes[k], "probability": float(found[k]), "taken_for": classes[taken]}
        print(to_json(facts | {"rules": list(maps)}))
