"""What the preset `cifar` reaches: `python -m benchmarks.cifar FOLDER [SEED ...]`, seeds 0, 1 and 2 unless given.

FOLDER is what `jaxcnn train --data` takes: CIFAR-10's binary files, or train/CLASS/ and test/CLASS/ with its images.
The test images are read once, at the end of a run. Each seed has an entry in benchmarks/results/cifar.json, which
replaces that of the same model, seed, epochs and device; minutes are those of the whole run, from the first file to
the accuracy.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax

from jaxcnn import files
from jaxcnn.experiment import Observer, Result, run
from jaxcnn.recipe import Recipe
from jaxcnn.zoo.presets import find_preset

RESULT = Path(__file__).parent / "results" / "cifar.json"


class Printed(Observer):
    """A line for each epoch."""

    def on_epoch(self, experiment, progress, found):
        shown = {name: round(value, 4) for name, value in progress.history[-1].items() if not name.endswith("_dead")}
        print(json.dumps(shown), file=sys.stderr, flush=True)


def entry(result: Result, load: float) -> dict[str, Any]:
    """What is kept of a run."""
    recipe = result.experiment.recipe
    return {
        "model": recipe.model,
        "seed": recipe.seed,
        "epochs": len(result.history),
        "parameters": result.parameters,
        "test_accuracy": result.measured.accuracy,
        "minutes": round(result.seconds / 60, 1),
        "seconds_per_epoch": round(result.history[-1]["seconds"], 1),
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(load, 1),
        "jax": jax.__version__,
    }


def table() -> str:
    """The entries as Markdown."""
    lines = ["| network | parameters | seed | epochs | test accuracy | minutes | on |", "|---|---|---|---|---|---|---|"]
    for found in json.loads(RESULT.read_text()):
        where = f"{found['device']}, {found['cores']} cores, load {found['load_before']} before"
        cells = (found["model"], f"{found['parameters']:,}", found["seed"], found["epochs"])
        lines.append(f"| {' | '.join(map(str, cells))} | {found['test_accuracy']:.2%} | {found['minutes']} | {where} |")
    return "\n".join(lines)


def main() -> None:
    """Train for each seed and record what was reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    for seed in given.seeds:
        load = os.getloadavg()[0]
        recipe: Recipe = find_preset("cifar").changed(data=given.folder, seed=seed)
        new = entry(run(recipe, Printed()), load)
        old = json.loads(RESULT.read_text()) if RESULT.exists() else []
        same = ("model", "seed", "epochs", "device")
        kept = [other for other in old if any(other[name] != new[name] for name in same)]
        files.write(RESULT, f"{json.dumps([*kept, new], indent=2)}\n".encode())
        print(json.dumps(new))


if __name__ == "__main__":
    main()
