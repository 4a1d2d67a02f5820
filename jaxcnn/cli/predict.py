"""`jaxcnn predict`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.cells import cell_len, set_cell_size

from ..data.folders import SUFFIXES
from ..errors import InputError
from ..saved.classify import Guess, classify
from .show import JsonOption, opened_run, to_console, to_json


def predict_command(
    run: Annotated[Path, typer.Argument(help="Run folder written by jaxcnn train.")],
    images: Annotated[
        list[str], typer.Argument(help="PNG or JPEG files of any size, folders of them, or - for standard input.")
    ],
    as_json: JsonOption = False,
):
    """Say what images show: the class, its probability, and the class that comes second.

    Images are fitted to the size and the channels that the network was trained on. A probability is the softmax of the
    outputs; of a network trained with squared error it is an output's share of their sum. A folder stands for the .png,
    .jpg and .jpeg files in it and below it. A file that cannot be read is named on stderr; the others are classified
    all the same, and the exit status is 2.

    Examples:

    * jaxcnn predict runs/digits-0001 four.png

    * jaxcnn predict runs/digits-0001 scans/ --json

    * cat four.png | jaxcnn predict runs/digits-0001 -
    """
    sources = list(_named(images))
    saved, console = opened_run(run), to_console(as_json)
    width, found = max(map(cell_len, ("second", *saved.classes))), []
    head = _line(width, [("class", "probability"), ("second", "probability")], "image")
    named = (("standard input" if source == "-" else source, content_of(source)) for source in sources)
    for guess in classify(saved, named):
        found.append(guess)
        if guess.error:
            print(f"jaxcnn: {guess.error}", file=sys.stderr)
            continue
        ranked = [(label, f"{probability:.2%}") for label, probability in guess.ranked]
        console.print(head + _line(width, ranked, guess.image), end="")
        head = ""
    if as_json:
        print(to_json({"images": [_facts(guess) for guess in found]}))
    if any(guess.error for guess in found):
        raise typer.Exit(2)


def _named(images) -> Iterator[str]:
    """The files that the arguments stand for, and "-"."""
    for image in images:
        if not Path(image).is_dir():
            yield image
            continue
        inside = sorted(path for path in Path(image).rglob("*") if _is_image(path))
        if not inside:
            raise InputError(f"image is {image!r}, a folder without PNG or JPEG files; it must hold one")
        yield from map(str, inside)


def content_of(name: str) -> Path | bytes:
    """The file of this name, to be read; what standard input holds if it is "-"."""
    if name != "-":
        return Path(name)
    return sys.stdin.buffer.read() if sys.stdin else b""


def _is_image(path):
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _line(width, ranked, image):
    pairs = [*ranked, ("-", "-"), ("-", "-")][:2]
    return "".join(f"{set_cell_size(label, width)}  {number:>11}  " for label, number in pairs) + f"{image}\n"


def _facts(guess: Guess):
    pairs = [*guess.ranked, (None, None), (None, None)][:2]
    values = (guess.image, *pairs[0], *pairs[1], guess.error)
    return dict(zip(("image", "class", "probability", "second", "second_probability", "error"), values, strict=True))
