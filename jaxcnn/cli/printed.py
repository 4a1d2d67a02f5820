"""What a person sees of a run: a bar on a terminal, lines elsewhere, the outcome."""

import time
from pathlib import Path

import jax
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..experiment import Observer, Result, make_mesh
from ..inspect.summary import summary
from ..progress import best_epoch
from .show import severe, show_evaluation

MINUTE = 60  # seconds after which a line is due where there is no terminal


class Printed(Observer):
    """Tells a console what happens."""

    def __init__(self, console):
        self.console, self.said, self.began, self.line = console, set(), 0, time.monotonic()
        self.held = ""
        columns = (TextColumn("{task.description}"), BarColumn(10), TextColumn("{task.fields[rate]}"))
        self.bar = Progress(
            *columns,
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("starting", total=None, rate="")

    def on_stage(self, doing):
        self.bar.update(self.task, description=doing)

    def on_prepared(self, experiment):
        recipe, dataset = experiment.recipe, experiment.dataset
        model = recipe.model if isinstance(recipe.model, str) else type(recipe.model).__name__
        parameters = summary(experiment.network, experiment.in_shape).total.parameters
        held = f"{len(experiment.validation[1]):,} held out, " if experiment.validation else ""
        self.console.print(
            f"{dataset.name}: {len(experiment.train_images):,} images of {'x'.join(map(str, dataset.in_shape))} to "
            f"train{' (half of them mirrored)' if recipe.mirror else ''}, {held}{len(dataset.test_images):,} to test; "
            f"{len(dataset.classes)} classes"
        )
        self.console.print(f"{model}: {parameters:,} parameters; {_devices(recipe)}")

    def on_checked(self, experiment, gradient_check, progress):
        self.console.print(
            f"gradient check: hand-written backward = jax.grad of the plain forward to {gradient_check:.0e}"
        )
        self.began = int(progress.state.step)
        if self.began:
            self.console.print(f"going on after {_epochs(progress.history)}, {self.began:,} updates")
        total = (experiment.recipe.epochs - len(progress.history)) * experiment.steps - len(progress.losses)
        self.bar.update(self.task, total=max(total, 0))

    def on_steps(self, experiment, progress):
        epochs, done = experiment.recipe.epochs, int(progress.state.step) - self.began
        epoch = f"epoch {len(progress.history) + 1}/{epochs}"
        rate = f"{len(progress.losses) / max(progress.seconds, 1e-9):,.3g} steps/s"
        self.bar.update(
            self.task, completed=done, rate=rate, description=f"{epoch}  loss {progress.losses.mean():.4f}{self.held}"
        )
        if not self.console.is_terminal and time.monotonic() - self.line > MINUTE:
            self._say(f"{epoch}  step {len(progress.losses):,} of {experiment.steps:,}  {rate}")

    def on_epoch(self, experiment, progress, found):
        metrics, epochs = progress.history[-1], experiment.recipe.epochs
        self.held = ""
        line = f"epoch {metrics['epoch']:3}  loss {metrics['loss']:.4f}  accuracy {metrics['accuracy']:6.2%}"
        if experiment.validation:
            line += f"  held out: loss {metrics['validation_loss']:.4f}  {metrics['validation_accuracy']:6.2%}"
            self.held = f"  held out {metrics['validation_accuracy']:.2%}"
        if "noise_trace" in metrics:
            noise = f"  noise scale {metrics['noise_scale']:,.0f}" if "noise_scale" in metrics else "  no noise scale"
            line, self.held = line + noise, self.held + noise
        due = metrics["epoch"] % max(1, epochs // 10) == 0 or time.monotonic() - self.line > MINUTE
        if not self.console.is_terminal and due:
            self._say(line)
        for layer in severe(experiment.network, found):
            if layer.name not in self.said:
                self.said.add(layer.name)
                self.console.print(f"after epoch {metrics['epoch']}, {layer}")

    def _say(self, line):
        self.console.print(line)
        self.line = time.monotonic()

    def show(self, result: Result, folder: Path) -> None:
        """The outcome."""
        experiment, measured, last = result.experiment, result.measured, result.history[-1]
        show_evaluation(self.console, measured, experiment.dataset)
        best = f" (of the best, epoch {best_epoch(result.history)})" if experiment.validation else ""
        self.console.print(
            Text(f"test accuracy {measured.accuracy:.2%}", style="bold"),
            f"({len(measured.predictions):,} images) after {_epochs(result.history)}{best}, {last['step']:,} "
            f"updates, {result.seconds:.1f} s with compilation",
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


def _devices(recipe):
    """Such as "cpu, float32" or "8 x cpu in 2 processes, float32, computed in bfloat16"."""
    mesh, where, dtype = make_mesh(recipe), jax.devices()[0].device_kind, recipe.dtype
    if mesh is not None:
        where = f"{mesh.size} x {where}"
    if jax.process_count() > 1:
        where += f" in {jax.process_count()} processes"
    return f"{where}, {dtype}{', computed in bfloat16' if recipe.precision == 'mixed' else ''}"


def _epochs(history):
    return f"{len(history)} epoch{'' if len(history) == 1 else 's'}"
