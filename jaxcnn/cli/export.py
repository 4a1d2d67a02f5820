"""`jaxcnn export`."""

from pathlib import Path
from typing import Annotated

import typer

from .. import files
from ..saved.classify import class_names
from ..saved.stablehlo import PLATFORMS, stablehlo
from .show import JsonOption, check_file, opened_run, run_folder, to_console, to_json


def export_command(
    run: Annotated[Path, typer.Argument(help="Run folder written by jaxcnn train.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write. [default: model.stablehlo in the run folder]")
    ] = None,
    as_json: JsonOption = False,
):
    """Write a trained network as one file that runs without jaxcnn, wherever jax and flatbuffers are installed.

    It holds StableHLO for CPU, CUDA and TPU: from images of any number, float32 from 0 to 1, to logits, with the
    normalisation and the parameters inside.

    Example:

    * jaxcnn export runs/digits-0001
    """
    check_file("out", out)
    saved = opened_run(run)
    file = out or run_folder(run) / "model.stablehlo"
    content = stablehlo(saved)
    files.write(file, content)
    (outputs,) = saved.checkpoint.network.output_shape(saved.checkpoint.in_shape)
    console = to_console(as_json)
    console.print(f"wrote {file}: {len(content):,} bytes, for {', '.join(PLATFORMS)}")
    console.print(f"from images {_shape(saved.image_shape)}, float32 from 0 to 1, to logits {_shape([outputs])}\n")
    console.print(
        "import pathlib, jax.export\n"
        f"model = jax.export.deserialize(pathlib.Path({str(file)!r}).read_bytes())\n"
        "logits = model.call(images)"
    )
    if as_json:
        facts = {"file": str(file), "bytes": len(content), "platforms": PLATFORMS, "image_shape": saved.image_shape}
        print(to_json(facts | {"classes": class_names(saved.classes, outputs)}))


def _shape(sizes):
    return f"(n, {', '.join(map(str, sizes))})"
