"""`jaxcnn train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..experiment import Observer, Result, WrongGradient, run
from ..measuring import MEASURES, Measuring
from ..plan import PRECISIONS
from ..recipe import DTYPES, LOSSES, OPTIMIZERS, SCHEDULES, Recipe
from ..recorder import Recorder
from ..recovery import NonFiniteLoss
from ..store.runs import load_run
from ..tensorboard import TensorBoard
from ..zoo.models import MODELS, by_shape
from ..zoo.presets import PRESETS, find_preset
from . import say
from .interrupt import interruptible
from .printed import Printed
from .processes import join, together
from .show import JsonOption, measures, starting, stop, to_console, to_json

WHAT, HOW, WHERE, KEPT = "What is trained", "How", "On what", "What is kept and shown"
WITH_RESUME = ("data", "epochs", "patience", "target_error", "devices", "sharded")  # what a run may be continued with


def train_command(
    data: Annotated[
        str | None,
        typer.Option(
            help='"digits"; a folder with a folder of PNG or JPEG files for each class, alone or in train and test; '
            "one with the IDX files of MNIST or the binary files of CIFAR; or an .npz file. [default: digits]",
            rich_help_panel=WHAT,
        ),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(help="Bring every image to this size, 32 or 32x48 (height x width).", rich_help_panel=WHAT),
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(
            help="Share of the training images to hold out, such as 0.1. The epoch that classifies them best is the "
            "result. [default: 0, the last epoch is]",
            rich_help_panel=WHAT,
        ),
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="Change each batch at random: crop:4 (pixels), shift:2, flip, cutout:8, joined by commas.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help=f"One of {by_shape()}. [default: the first for the images' shape]",
            autocompletion=starting(MODELS),
            rich_help_panel=WHAT,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"A published recipe: {', '.join(PRESETS)}. It brings the model and all defaults; each option given "
            "beside it replaces its value.",
            autocompletion=starting(PRESETS),
            rich_help_panel=WHAT,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A recipe in a file, such as a run's own recipe.toml; options replace its values, too.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Largest number of epochs. [default: 60]", rich_help_panel=HOW)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples per update. [default: 32]", rich_help_panel=HOW)
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(OPTIMIZERS)}; sgd and nesterov are written by hand, adam and adamw are optax's. "
            "[default: sgd]",
            autocompletion=starting(OPTIMIZERS),
            rich_help_panel=HOW,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="At the start. [default: 0.02; 0.002 with squared-error; adam, adamw 0.001]", rich_help_panel=HOW
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help=f"Of the learning rate: {', '.join(SCHEDULES)}; step divides it by 10 after each third. "
            "[default: cosine]",
            autocompletion=starting(SCHEDULES),
            rich_help_panel=HOW,
        ),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(help="Epochs over which the learning rate first rises. [default: 0]", rich_help_panel=HOW),
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(help="Of sgd and nesterov. [default: 0.9]", rich_help_panel=HOW)
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(help="Of sgd, nesterov and adamw. [default: 0.0005; adamw 0.0001]", rich_help_panel=HOW),
    ] = None,
    clip: Annotated[
        float | None, typer.Option(help="Largest norm of a gradient; larger ones are scaled.", rich_help_panel=HOW)
    ] = None,
    average: Annotated[
        float | None,
        typer.Option(help="Use a moving average of the weights with this decay, such as 0.999.", rich_help_panel=HOW),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help=f"{' or '.join(LOSSES)}. [default: cross-entropy]",
            autocompletion=starting(LOSSES),
            rich_help_panel=HOW,
        ),
    ] = None,
    smoothing: Annotated[
        float | None,
        typer.Option(help="Of the labels of cross-entropy, such as 0.1. [default: 0]", rich_help_panel=HOW),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of the initial weights, the images held out, and all that is drawn. [default: 0]", rich_help_panel=HOW
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help=f"Of parameters and images: {', '.join(DTYPES)}. [default: float32]",
            autocompletion=starting(DTYPES),
            rich_help_panel=HOW,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help='"mixed" computes forward and backward in bfloat16 and learns in float32. [default: full]',
            autocompletion=starting(PRECISIONS),
            rich_help_panel=WHERE,
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            help="How many devices share each batch, the gradient summed once. [default: 1]", rich_help_panel=WHERE
        ),
    ] = None,
    sharded: Annotated[
        bool | None,
        typer.Option(
            "--sharded",
            help="Each device keeps a part of the parameters and the optimizer's state.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            help="Compute each batch in so many parts, one after another, in less memory. [default: 1]",
            rich_help_panel=WHERE,
        ),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            help="Train with other processes: HOST:PORT of process 0, with --processes and --process; or auto, where "
            "JAX finds them, as under SLURM and on TPU pods.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="How many train together.", rich_help_panel=WHERE, show_default=False)
    ] = None,
    process: Annotated[
        int | None, typer.Option(help="The number of this one, from 0.", rich_help_panel=WHERE, show_default=False)
    ] = None,
    target_error: Annotated[
        float | None,
        typer.Option(help="Stop after an epoch whose mean training loss is at or below this.", rich_help_panel=HOW),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop when so many epochs brought nothing better on the images held out.", rich_help_panel=HOW
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder to create. [default: the next of runs/digits-0001, ...]", rich_help_panel=KEPT),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with a run that was interrupted or killed; with --epochs N also with one that was finished.",
            rich_help_panel=KEPT,
        ),
    ] = None,
    save_every: Annotated[
        float,
        typer.Option(
            help="Minutes after which the model is kept within an epoch, too. [default: 5]",
            rich_help_panel=KEPT,
            show_default=False,
        ),
    ] = 5.0,
    keep: Annotated[
        int,
        typer.Option(
            help="How many of the last epochs keep a model file of their own. [default: 0]",
            rich_help_panel=KEPT,
            show_default=False,
        ),
    ] = 0,
    measure: Annotated[
        str | None,
        typer.Option(
            help=f"Add to the log after each epoch, by commas: {', '.join(MEASURES)}.",
            autocompletion=starting(MEASURES),
            rich_help_panel=KEPT,
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files for TensorBoard.", rich_help_panel=KEPT)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.", rich_help_panel=KEPT)] = False,
    as_json: JsonOption = False,
):
    """Train a network on real images and show what it learned.

    The gradient of the network is first checked against automatic differentiation on one real batch; training then
    uses the hand-written backward passes alone. The run folder receives the model, metrics, pictures, and recipe.toml,
    which repeats the run. Ctrl-C stops and keeps what was reached; --resume goes on.

    Examples:

    * jaxcnn train

    * jaxcnn train --data FOLDER --validation 0.1 --patience 5

    * jaxcnn train --data FOLDER --resize 32 --augment crop:4,flip

    * jaxcnn train --data FOLDER --preset lenet5 --epochs 5

    * jaxcnn train --resume runs/digits-0001 --epochs 100

    * jaxcnn train --data FOLDER --devices 8 --precision mixed

    * jaxcnn train --measure noise_scale
    """
    options = {
        "data": data, "model": model, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate,
        "momentum": momentum, "weight_decay": weight_decay, "seed": seed, "loss": loss, "optimizer": optimizer,
        "dtype": dtype, "target_error": target_error, "resize": resize and _sides(resize), "validation": validation,
        "augment": None if augment is None else tuple(filter(None, augment.split(","))), "schedule": schedule,
        "warmup": warmup, "clip": clip, "average": average, "smoothing": smoothing, "patience": patience,
        "precision": precision, "devices": devices, "sharded": sharded, "accumulate": accumulate,
    }  # fmt: skip
    options = {name: value for name, value in options.items() if value is not None}
    first = join(coordinator, processes, process)  # before anything is computed
    recipe = _recipe(preset, config, resume, options, out)
    if not first:
        together(lambda: run(recipe, resume=resume), lambda: resume)
        return
    kept = Recorder(out, resume=resume, save_every=save_every, keep=keep)
    printed = Printed(to_console(as_json, quiet))
    measuring = Measuring(*filter(None, (measure or "").split(",")))
    observers = [measuring, kept, printed, *([TensorBoard(kept)] if tensorboard else [])]
    result = _result(recipe, kept, printed, observers, as_json)
    printed.show(result, kept.folder)
    if as_json:
        print(to_json(_outcome(result, kept.folder)))


def _recipe(preset, config, resume, options, out) -> Recipe:
    """The recipe that the options ask for."""
    given = {"preset": preset, "config": config, "resume": resume}
    given = [name for name, value in given.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} are both given; they must be given one at a time")
    if resume is not None:
        others = [name for name in [*options, *(["out"] if out else [])] if name not in WITH_RESUME]
        if others:
            raise InputError(
                f"resume is given with {others[0]} but must be given with {', '.join(WITH_RESUME)} alone: the run goes "
                "on as it began"
            )
        if not resume.is_dir():
            raise InputError(f"resume is {str(resume)!r} but must be the folder of a run")
        recipe = load_run(resume / "model.safetensors").recipe
    elif config is not None:
        recipe = Recipe.read(config)
    else:
        recipe = Recipe() if preset is None else find_preset(preset)
    return recipe.changed(**options)


def _sides(text: str) -> tuple[int, ...]:
    """The height and width in "32" or "32x48"."""
    sides = text.split("x")
    if not (len(sides) in (1, 2) and all(side.isdecimal() and side.isascii() for side in sides)):
        raise InputError(f"resize is {text!r} but must be a size such as 32, or 32x48 for height x width")
    return tuple(map(int, sides * (3 - len(sides))))[:2]


def _result(recipe, kept: Recorder, printed: Printed, observers: list[Observer], as_json: bool) -> Result:
    """Of the run; where it ends otherwise the process does, too."""

    def interrupted(name):
        stopped = kept.stop()
        printed.bar.stop()
        if stopped is None:
            say(f"stopped by {name} before training began; nothing was written")
            return
        epochs, steps = len(stopped.history), int(stopped.state.step)
        reached = f"stopped by {name} after {epochs} epoch{'' if epochs == 1 else 's'}, {steps:,} updates"
        say(f"{reached}; go on with: jaxcnn train --resume {kept.folder}")
        if as_json:
            print(to_json({"run": str(kept.folder), "stopped": name, "epochs": epochs, "steps": steps}), flush=True)
        kept.draw()

    try:
        with printed.bar:
            return together(
                lambda: interruptible(lambda: run(recipe, *observers, resume=kept.resumed), interrupted),
                lambda: None if kept.run is None else kept.folder,
            )
    except WrongGradient as wrong:
        stop(wrong)
    except OSError as error:
        if kept.kept is None or error.filename is None:
            raise
        raise InputError(
            f"{error.filename}: {error.strerror}; what was kept before is whole: mend it, then go on with: "
            f"jaxcnn train --resume {kept.folder}"
        ) from None
    except NonFiniteLoss as diverged:
        stop(f"{diverged}; they are in {kept.folder / 'model.safetensors'}")


def _outcome(result, folder) -> dict[str, Any]:
    recipe = result.experiment.recipe
    return {
        "run": str(folder),
        "preset": recipe.name or None,
        "published": recipe.published or None,
        **measures(result.measured),
        "train_loss": result.history[-1]["loss"],
        "epochs": len(result.history),
        "steps": result.history[-1]["step"],
        "parameters": result.parameters,
        "gradient_check": result.gradient_check,
        "seconds": result.seconds,
    }
