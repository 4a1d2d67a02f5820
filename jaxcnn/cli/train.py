"""`jaxcnn train`."""

from pathlib import Path
from typing import Annotated

import jax
import typer
from rich.text import Text

from ..errors import InputError
from ..experiment import Observer, Recorder, Result, WrongGradient, run
from ..inspect.summary import summary
from ..recipe import DTYPES, LOSSES, OPTIMIZERS, Recipe
from ..recovery import NonFiniteLoss
from ..zoo.models import by_shape
from ..zoo.presets import PRESETS, find_preset
from .show import JsonOption, measures, progress, severe, show_evaluation, stop, to_console, to_json


def train_command(
    data: Annotated[
        str | None,
        typer.Option(help='"digits", or a folder with the four IDX files of MNIST or a data set like it.'),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"A published recipe: {', '.join(PRESETS)}. It brings the model and all defaults below; each "
            "option given beside it replaces its value."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A recipe in a file, such as a run's own recipe.toml; options replace its values, too."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"One of {by_shape()}. [default: the first for the images' shape]"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Largest number of epochs. [default: 60]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per update. [default: 32]")] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="At the start; a cosine takes it to 0. [default: 0.02; 0.002 with squared-error; adam, adamw 0.001]"
        ),
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd and nesterov. [default: 0.9]")] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Of sgd, nesterov and adamw. [default: 0.0005; adamw 0.0001]")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the initial weights, the shuffling and dropout. [default: 0]")
    ] = None,
    loss: Annotated[str | None, typer.Option(help=f"{' or '.join(LOSSES)}. [default: cross-entropy]")] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(OPTIMIZERS)}; sgd and nesterov are written by hand, adam and adamw are optax's. "
            "[default: sgd]"
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"Of parameters and images: {', '.join(DTYPES)}. [default: float32]")
    ] = None,
    target_error: Annotated[
        float | None, typer.Option(help="Stop after an epoch whose mean training loss is at or below this.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to create. [default: the next of runs/digits-0001, ...]")
    ] = None,
    as_json: JsonOption = False,
):
    """Train a network on real images and show what it learned.

    The gradient of the network is first checked against automatic differentiation on one real batch; training then
    uses the hand-written backward passes alone. The run folder receives model.safetensors, metrics.jsonl, recipe.toml,
    curves.png, kernels.png and flow.png; the recipe repeats the run.

    Examples:

    * jaxcnn train

    * jaxcnn train --epochs 20 --learning-rate 0.1 --seed 3

    * jaxcnn train --data FOLDER --model lenet28 --epochs 10 --batch-size 128

    * jaxcnn train --data FOLDER --preset lenet5 --epochs 5

    * jaxcnn train --config runs/digits-0001/recipe.toml
    """
    if preset is not None and config is not None:
        raise InputError("preset and config are both given; they must be given one at a time")
    recipe = Recipe() if preset is None else find_preset(preset)
    if config is not None:
        recipe = Recipe.read(config)
    options = {
        "data": data, "model": model, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate,
        "momentum": momentum, "weight_decay": weight_decay, "seed": seed, "loss": loss, "optimizer": optimizer,
        "dtype": dtype, "target_error": target_error,
    }  # fmt: skip
    recipe = recipe.changed(**{name: value for name, value in options.items() if value is not None})
    kept, printed = Recorder(out), Printed(to_console(as_json))
    try:
        with printed.bar:
            result = run(recipe, kept, printed)
    except WrongGradient as wrong:
        stop(wrong)
    except NonFiniteLoss as diverged:
        stop(f"{diverged}; they are in {kept.folder / 'model.safetensors'}")
    printed.show(result, kept.folder)
    if as_json:
        print(to_json(_outcome(result, kept.folder)))


class Printed(Observer):
    """What a person sees of a run."""

    def __init__(self, console):
        self.console, self.bar, self.said = console, progress(console), set()

    def on_prepared(self, experiment):
        recipe, dataset = experiment.recipe, experiment.dataset
        model = recipe.model if isinstance(recipe.model, str) else type(recipe.model).__name__
        parameters = summary(experiment.network, experiment.in_shape).total.parameters
        self.console.print(
            f"{dataset.name}: {len(experiment.train_images):,} images of {'x'.join(map(str, dataset.in_shape))} to "
            f"train{' (half of them mirrored)' if recipe.mirror else ''}, {len(dataset.test_images):,} to test; "
            f"{model}: {parameters:,} parameters; {jax.devices()[0].device_kind}, {recipe.dtype}"
        )

    def on_checked(self, experiment, gradient_check):
        self.console.print(
            f"gradient check: hand-written backward = jax.grad of the plain forward to {gradient_check:.0e} (float64)"
        )
        self.task = self.bar.add_task("compiling", total=experiment.recipe.epochs)

    def on_epoch(self, experiment, state, metrics, found):
        line = (
            f"epoch {metrics['epoch']:3}  loss {metrics['loss']:.4f}  accuracy {metrics['accuracy']:6.2%}  "
            f"test loss {metrics['test_loss']:.4f}  accuracy {metrics['test_accuracy']:6.2%}"
        )
        short = "loss {loss:.4f}  test loss {test_loss:.4f}  accuracy {test_accuracy:6.2%}"  # leaves room in 80 columns
        self.bar.update(self.task, advance=1, description=short.format(**metrics))
        if not self.console.is_terminal and metrics["epoch"] % max(1, experiment.recipe.epochs // 10) == 0:
            self.console.print(line)
        for layer in severe(experiment.network, found):
            if layer.name not in self.said:
                self.said.add(layer.name)
                self.console.print(f"after epoch {metrics['epoch']}, {layer}")

    def show(self, result: Result, folder: Path) -> None:
        """The outcome."""
        experiment, measured, last = result.experiment, result.measured, result.history[-1]
        show_evaluation(self.console, measured, experiment.dataset)
        self.console.print(
            Text(f"test accuracy {measured.accuracy:.2%}", style="bold"),
            f"({len(measured.predictions):,} images) after {len(result.history)} epochs, {last['step']:,} updates, "
            f"{result.seconds:.1f} s with compilation",
        )
        recipe = experiment.recipe
        if recipe.published:
            self.console.print(f"published for {recipe.name}: {recipe.published}")
            self.console.print(
                f"reached here: {1 - measured.accuracy:.2%} error ({measured.accuracy:.2%} accuracy) after "
                f"{len(result.history)} epochs on {experiment.dataset.name}"
            )
        files = ", ".join(sorted(file.name for file in folder.iterdir()))
        self.console.print(f"run folder: {folder}  ({files})")


def _outcome(result, folder):
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
