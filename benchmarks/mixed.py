"""What mixed precision costs in accuracy: `python -m benchmarks.mixed FOLDER`, kept in benchmarks/results/mixed.json.

FOLDER has the four IDX files of Fashion-MNIST. `cnn28` is trained for 5 epochs with seeds 0, 1 and 2, in float32 and in
mixed precision, all else equal; nothing is chosen by the test images.
"""

import json
import os
import statistics
import sys
from pathlib import Path

import jax

from jaxcnn import files
from jaxcnn.experiment import run
from jaxcnn.plan import PRECISIONS
from jaxcnn.recipe import Recipe

RESULT = Path(__file__).parent / "results" / "mixed.json"
SEEDS = (0, 1, 2)


def measure(data: str) -> dict:
    """The test accuracy of each seed and the seconds of its last epoch, by precision."""
    load, rows = os.getloadavg()[0], {precision: [] for precision in PRECISIONS}
    for seed in SEEDS:
        for precision, found in rows.items():
            recipe = Recipe(data=data, model="cnn28", epochs=5, batch_size=64, seed=seed, precision=precision)
            result = run(recipe)
            found.append({"accuracy": result.measured.accuracy, "seconds": result.history[-1]["seconds"]})
            print(precision, seed, found[-1], file=sys.stderr, flush=True)
    about = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "cores": len(os.sched_getaffinity(0))}
    return about | {"load": load, "rows": rows}


def table() -> str:
    """The rows as Markdown."""
    result = json.loads(RESULT.read_text())
    lines = ["| precision | test accuracy of seeds 0, 1, 2 | median | seconds an epoch |", "|---|---|---|---|"]
    for precision, found in result["rows"].items():
        accuracies = [each["accuracy"] for each in found]
        seconds = statistics.median(each["seconds"] for each in found)
        shown = ", ".join(f"{accuracy:.2%}" for accuracy in accuracies)
        lines.append(f"| {precision} | {shown} | {statistics.median(accuracies):.2%} | {seconds:.1f} |")
    where = f"{result['device']}, {result['cores']} cores, jax {result['jax']}"
    return "\n".join([*lines, "", f"`cnn28`, 5 epochs; {where}, load {result['load']:.1f} in the minute before."])


if __name__ == "__main__":
    files.write(RESULT, f"{json.dumps(measure(sys.argv[1]), indent=2)}\n".encode())
    print(table())
