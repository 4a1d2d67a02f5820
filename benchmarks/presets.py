"""What the presets reach: `python -m benchmarks.presets FOLDER [PRESET[:EPOCHS] ...]`, FOLDER with the IDX files.

Each run is a process of its own, `jaxcnn train --preset`; its entry in the result replaces that of the same preset and
epochs. Seconds are those of an epoch's training, the median over the epochs after the first, which compiles.
`benchmarks.held_out` compares values of a preset without the test images.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

from jaxcnn import presets

RESULT = Path(__file__).parent / "results" / "presets.json"
RUNS = ("deeplearntoolbox:20", "deeplearntoolbox:100", "lenet5", "bouvrie", "stochastic:1", "modern")


def entry(folder: Path) -> dict[str, Any]:
    """What a run folder says of its preset."""
    config = json.loads((folder / "config.json").read_text())
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = [epoch["seconds"] for epoch in epochs[1:]] or [epochs[0]["seconds"]]
    return {
        "preset": config["preset"],
        "data": Path(config["data"]).name,
        "epochs": len(epochs),
        "test_accuracy": epochs[-1]["test_accuracy"],
        "test_accuracy_after_epoch_1": epochs[0]["test_accuracy"],
        "seconds_per_epoch": round(statistics.median(seconds), 1),
        "seed": config["seed"],
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "jax": config["versions"]["jax"],
        "python": platform.python_version(),
    }


def train(data: str | Path, run: str) -> dict[str, Any]:
    """The entry of one run, "preset" or "preset:epochs", in a process of its own."""
    name, _, epochs = run.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "jaxcnn", "train", "--preset", name, "--data", str(data)]
        command += ["--out", f"{folder}/run", *(["--epochs", epochs] if epochs else [])]
        subprocess.run(command, check=True)
        return entry(Path(folder) / "run")


def record(new: dict[str, Any], result: Path = RESULT) -> None:
    """Put an entry into a result, in the order of the presets."""
    old = json.loads(result.read_text()) if result.exists() else []
    entries = [other for other in old if (other["preset"], other["epochs"]) != (new["preset"], new["epochs"])]
    entries = sorted([*entries, new], key=lambda e: (list(presets.PRESETS).index(e["preset"]), e["epochs"]))
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
            presets.find(found["preset"]).anchor,
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(data: str, *runs: str) -> None:
    """Train each preset and record what it reached."""
    for run in runs or RUNS:
        new = train(data, run)
        record(new)
        print(new)
    print(table(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main(*sys.argv[1:])
