"""Test accuracy of `jaxcnn train` over the seeds 0 to 4: `python -m benchmarks.digits` (about two minutes).

Each run is a process of its own; its wall time includes start-up and compilation. Nothing is chosen by the test
split: the defaults of the command were chosen on a validation split of the training images.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

RESULT = Path(__file__).parent / "results" / "digits.json"


def main() -> None:
    """Run the five seeds one after the other and write the result."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(5):
            command = [sys.executable, "-m", "jaxcnn", "train", "--json", "--seed", str(seed)]
            started = time.perf_counter()
            done = subprocess.run(
                [*command, "--out", f"{folder}/{seed}"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            seconds = time.perf_counter() - started
            runs.append({"seed": seed, "accuracy": json.loads(done.stdout)["accuracy"], "seconds": round(seconds, 1)})
            print(runs[-1])
    result = {
        "median_accuracy": statistics.median(run["accuracy"] for run in runs),
        "median_seconds": statistics.median(run["seconds"] for run in runs),
        "runs": runs,
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"median accuracy {result['median_accuracy']:.2%}, median time {result['median_seconds']} s -> {RESULT}")


if __name__ == "__main__":
    main()
