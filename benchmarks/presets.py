"""What the presets reach: `python -m benchmarks.presets FOLDER [PRESET[:EPOCHS] ...]`, FOLDER with the IDX files.

Each entry in the result replaces that of the same preset and epochs. Seconds are those of an epoch's training, the
median over the epochs after the first, which compiles. `benchmarks.held_out` compares values of a preset without the
test images.
"""

import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import jax

from jaxcnn import evaluate
from jaxcnn.experiment import Observer, Result, run
from jaxcnn.zoo.presets import PRESETS, find_preset

RESULT = Path(__file__).parent / "results" / "presets.json"
RUNS = ("deeplearntoolbox:20", "deeplearntoolbox:100", "lenet5", "bouvrie", "stochastic:1", "modern")


class AfterOne(Observer):
    """Measures the test images after the first epoch, too, of which some authors tell; nothing is chosen by it."""

    accuracy = 0.0

    def on_epoch(self, experiment, progress, found):
        metrics = progress.history[-1]
        if len(progress.history) == 1:
            images = experiment.normalization(experiment.dataset.test_images)
            params, labels = progress.state.averaged, experiment.dataset.test_labels
            self.accuracy = evaluate(experiment.network, experiment.loss, params, images, labels).accuracy
        print(f"{experiment.recipe.name} epoch {metrics['epoch']}: loss {metrics['loss']:.4f}", file=sys.stderr)


def entry(result: Result, after_one: float) -> dict[str, Any]:
    """What a run says of its preset."""
    recipe, epochs = result.experiment.recipe, result.history
    seconds = [epoch["seconds"] for epoch in epochs[1:]] or [epochs[0]["seconds"]]
    return {
        "preset": recipe.name,
        "data": Path(recipe.data).name,
        "epochs": len(epochs),
        "test_accuracy": result.measured.accuracy,
        "test_accuracy_after_epoch_1": after_one,
        "seconds_per_epoch": round(statistics.median(seconds), 1),
        "seed": recipe.seed,
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def train(data: str | Path, named: str) -> dict[str, Any]:
    """The entry of one run, "preset" or "preset:epochs"."""
    name, _, epochs = named.partition(":")
    recipe, observer = find_preset(name).changed(data=str(data)), AfterOne()
    result = run(recipe.changed(epochs=int(epochs)) if epochs else recipe, observer)
    return entry(result, observer.accuracy)


def record(new: dict[str, Any], result: Path = RESULT) -> None:
    """Put an entry into a result, in the order of the presets."""
    old = json.loads(result.read_text()) if result.exists() else []
    entries = [other for other in old if (other["preset"], other["epochs"]) != (new["preset"], new["epochs"])]
    entries = sorted([*entries, new], key=lambda e: (list(PRESETS).index(e["preset"]), e["epochs"]))
    result.write_text(json.dumps(entries, indent=2) + "\n")


def table(entries: list[dict[str, Any]]) -> str:
    """The result as a Markdown table."""
    lines = ["| preset | epochs | test error after the first | after the last | seconds per epoch | published |"]
    lines.append("|---|---|---|---|---|---|")
    for found in entries:
        cells = (
            found["preset"],
            found["epochs"],
            f"{1 - found['test_accuracy_after_epoch_1']:.2%}",
            f"{1 - found['test_accuracy']:.2%}",
            found["seconds_per_epoch"],
            find_preset(found["preset"]).published,
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(data: str, *runs: str) -> None:
    """Train each preset and record what it reached."""
    for named in runs or RUNS:
        new = train(data, named)
        record(new)
        print(new)
    print(table(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main(*sys.argv[1:])
