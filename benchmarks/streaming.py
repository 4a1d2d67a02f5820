"""Photographs decoded while a network learns them: `python -m benchmarks.streaming FOLDER`, an image folder, 5 minutes.

vgg32 is trained on the first 20,000 images, batch 128: in memory, by Grain, and by PyTorch's DataLoader with as many
worker processes, which shuffles and decodes the same files. Images per second of an epoch after the first, start-up of
its workers included; the median of three rounds, in turns, each in a process of its own. Beside them what the loaders
reach alone. FOLDER should be in the page cache: a round that does not count goes first.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "streaming.json"
COUNT, BATCH, ROUNDS, WORKERS = 20_000, 128, 3, 2
WAYS = {
    "in memory": "jaxcnn, in memory",
    "streamed": "jaxcnn, streamed by Grain",
    "torch in memory": "PyTorch, in memory",
    "torch": "PyTorch, DataLoader",
    "grain alone": "Grain alone, nothing is trained",
    "torch alone": "DataLoader alone, nothing is trained",
}


def listed(folder):
    """The paths and labels of the first images, every class among them."""
    import numpy as np

    from jaxcnn.data import list_images

    listing = list_images(folder)
    chosen = np.linspace(0, len(listing.train_paths) - 1, COUNT, dtype=int)
    return tuple(listing.train_paths[i] for i in chosen), listing.train_labels[chosen]


def ours(folder, streamed):
    """Images per second of the second epoch of `fit`, to the end of its last step."""
    import jax

    from jaxcnn import SGD, SoftmaxCrossEntropy, fit, init_state
    from jaxcnn.data import Normalization, Streamed
    from jaxcnn.zoo.models import find_model

    paths, labels = listed(folder)
    images = Normalization(0.5, 0.25)(Streamed(paths, (32, 32, 3)))
    network, optimizer, times = find_model("vgg32").build(10), SGD(0.01, momentum=0.9), []
    state = init_state(network, optimizer, jax.random.key(0), (32, 32, 3))
    images = images if streamed else images[:]
    fit(
        network, SoftmaxCrossEntropy(), optimizer, state, images, labels, batch_size=BATCH, epochs=2,
        on_epoch=lambda progress: times.append(progress.history[-1]["seconds"]),
    )  # fmt: skip
    return COUNT // BATCH * BATCH / times[1]


def grain_alone(folder):
    """Images per second that arrive in the process, ready for a network."""
    import numpy as np

    from jaxcnn.data import Normalization, Streamed

    paths, _ = listed(folder)
    order = np.random.default_rng(0).permutation(COUNT)[: COUNT // BATCH * BATCH].reshape(-1, BATCH)
    started = time.perf_counter()
    for batch in Normalization(0.5, 0.25)(Streamed(paths, (32, 32, 3))).batches(order):
        assert batch.shape == (BATCH, 32, 32, 3)
    return order.size / (time.perf_counter() - started)


def torchs(folder, trained, in_memory=False):
    """Images per second of an epoch in PyTorch."""
    from .peers import torch_loader

    return torch_loader.rate(*listed(folder), BATCH, WORKERS, trained, in_memory)


def measure(way, folder):
    """Images per second of one way."""
    return {
        "in memory": lambda: ours(folder, False),
        "streamed": lambda: ours(folder, True),
        "torch": lambda: torchs(folder, True),
        "torch in memory": lambda: torchs(folder, True, in_memory=True),
        "grain alone": lambda: grain_alone(folder),
        "torch alone": lambda: torchs(folder, False),
    }[way]()


def table() -> str:
    """The result as a Markdown table."""
    found = json.loads(RESULT.read_text())
    lines = ["| | images per second |", "|---|---|"]
    lines += [f"| {words} | {found['images_per_second'][way]:,.0f} |" for way, words in WAYS.items()]
    return "\n".join(lines)


def main(folder: str) -> None:
    """Measure every way in turns and write the result."""
    load, seen = os.getloadavg()[0], {way: [] for way in WAYS}
    for turn in range(ROUNDS + 1):
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.streaming", folder, way]
            rate = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            print(f"round {turn}: {WAYS[way]}: {rate:,.0f} images per second", file=sys.stderr)
            if turn:
                seen[way].append(rate)
    import jax

    result = {
        "images_per_second": {way: round(statistics.median(rates)) for way, rates in seen.items()},
        "rounds": {way: [round(rate) for rate in rates] for way, rates in seen.items()},
        "data": Path(folder).resolve().name,
        "load_before": round(load, 2),
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(table())


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(measure(sys.argv[2], sys.argv[1]))
    else:
        main(sys.argv[1])
