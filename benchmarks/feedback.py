"""Learning without the forward weights on the way back: `python -m benchmarks.feedback --data FOLDER`.

FOLDER has the four IDX files, such as Fashion-MNIST's. The network `lenet28` is trained from the same weights, on the
same batches, by backpropagation, feedback alignment, sign symmetry and direct feedback. Each has the learning rate that
does best on the 5,000 training images held out, after `TRIED` epochs of a seed that is not reported. The test images
are read once, behind the last epoch of a run; no epoch is chosen. After every epoch the angle between each layer's
gradient and the true one is measured on 512 of the images held out.

It keeps benchmarks/results/feedback.json and docs/feedback.png; with --images, a trial of fewer, it keeps neither.
"""

import argparse
import io
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import (
    SGD,
    Conv2d,
    Dense,
    NonFiniteLoss,
    SoftmaxCrossEntropy,
    evaluate,
    files,
    fit,
    gradients,
    init_state,
    with_rules,
)
from jaxcnn.change import DirectFeedback, FeedbackAlignment, sign_symmetric
from jaxcnn.data import Dataset, Normalization, held_out, load_dataset
from jaxcnn.zoo.models import find_model

ROOT = Path(__file__).parents[1]
RESULT, PICTURE = ROOT / "benchmarks" / "results" / "feedback.json", ROOT / "docs" / "feedback.png"
NETWORK, LOSS, BATCH, MOMENTUM = find_model("lenet28").build(10), SoftmaxCrossEntropy(), 64, 0.9
RATES, TRIED, TRIED_SEED, HELD_OUT = (0.0003, 0.001, 0.003, 0.01, 0.03), 2, 99, 5_000


gradient = jax.jit(gradients, static_argnums=(0, 1))


def rules(seed: int) -> dict[str, Mapping[Any, Any]]:
    """The ways back by name, each with random matrices of the seed."""
    return {
        "backpropagation": {},
        "feedback alignment": {Dense: FeedbackAlignment(seed), Conv2d: FeedbackAlignment(seed)},
        "sign symmetry": {Dense: sign_symmetric, Conv2d: sign_symmetric},
        "direct feedback": {"": DirectFeedback(seed)},
    }


def train(name: str, seed: int, rate: float, epochs: int, training: Any, validation: Any) -> tuple[Any, dict[str, Any]]:
    """The network's last parameters, and what is kept of the run."""
    way = rules(seed)[name]
    probe = tuple(part[:512] for part in validation)

    def angles(params):
        true, found = (gradient(network, LOSS, params, *probe)[0] for network in (NETWORK, with_rules(NETWORK, way)))
        return {layer: round(angle(found[layer]["weight"], true[layer]["weight"]), 2) for layer in true}

    optimizer = SGD(rate, MOMENTUM)
    state = init_state(NETWORK, optimizer, jax.random.key(seed), training[0].shape[1:])
    measured = [angles(state.params)]
    state, history = fit(
        NETWORK,
        LOSS,
        optimizer,
        state,
        *training,
        batch_size=BATCH,
        epochs=epochs,
        validation=validation,
        rules=way,
        on_epoch=lambda progress: measured.append(angles(progress.state.params)),
    )
    row = {
        "rule": name,
        "seed": seed,
        "rate": rate,
        "validation_accuracy": [round(epoch["validation_accuracy"], 4) for epoch in history],
        "angles": {layer: [each[layer] for each in measured] for layer in measured[0]},
        "seconds_per_epoch": round(statistics.median(epoch["seconds"] for epoch in history[1:] or history), 2),
    }
    return state.params, row


def angle(a: jax.Array, b: jax.Array) -> float:
    """Between two arrays, in degrees.

    >>> round(angle(jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0])), 3)
    45.0
    """
    x, y = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return float(np.degrees(np.arccos(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))))


def split(dataset: Dataset, count: int | None) -> tuple[Any, Any, Any]:
    """(images, labels) to train on, held out, and to test; normalised by those to train on."""
    kept, held = held_out(dataset.train_labels, HELD_OUT / len(dataset.train_labels), 0)
    kept = kept[:count]
    normalization = Normalization.of(dataset.train_images[kept])
    images, labels = dataset.train_images, dataset.train_labels
    return (
        (jnp.asarray(normalization(images[kept])), labels[kept]),
        (jnp.asarray(normalization(images[held])), labels[held]),
        (normalization(dataset.test_images), dataset.test_labels),
    )


def measure(data: str, epochs: int, seeds: list[int], count: int | None) -> dict[str, Any]:
    """All runs, the choice of the rates before them."""
    started, load, dataset = time.perf_counter(), os.getloadavg()[0], load_dataset(data)
    training, validation, test = split(dataset, count)
    tried, rows = [], []
    for name in rules(0):
        for rate in RATES:
            try:
                _, row = train(name, TRIED_SEED, rate, min(TRIED, epochs), training, validation)
                reached = row["validation_accuracy"][-1]
            except NonFiniteLoss:
                reached = 0.0
            tried.append({"rule": name, "rate": rate, "validation_accuracy": reached})
            print(tried[-1], file=sys.stderr, flush=True)
        best = max((found for found in tried if found["rule"] == name), key=lambda found: found["validation_accuracy"])
        for seed in seeds:
            params, row = train(name, seed, best["rate"], epochs, training, validation)
            rows.append(row | {"test_accuracy": evaluate(NETWORK, LOSS, params, *test).accuracy})
            print(rows[-1], file=sys.stderr, flush=True)
    return {
        "data": Path(data).name,
        "model": "lenet28",
        "batch": BATCH,
        "momentum": MOMENTUM,
        "epochs": epochs,
        "trained_on": len(training[1]),
        "held_out": len(validation[1]),
        "rows": rows,
        "rates": tried,
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(load, 1),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def table(found: dict[str, Any] | None = None) -> str:
    """The result as Markdown; angles are the means over the seeds of the layers but the last, whose angle is 0."""
    result: dict[str, Any] = json.loads(RESULT.read_text()) if found is None else found
    lines = [
        "| way back | learning rate | test accuracy, mean (least to most) | angle before | after |",
        "|---|---|---|---|---|",
    ]
    for name in rules(0):
        rows = [row for row in result["rows"] if row["rule"] == name]
        accuracies = [row["test_accuracy"] for row in rows]
        reached = f"{statistics.mean(accuracies):.2%} ({min(accuracies):.2%} to {max(accuracies):.2%})"
        before, after = (
            statistics.mean(each[i] for row in rows for each in list(row["angles"].values())[:-1]) for i in (0, -1)
        )
        lines.append(f"| {name} | {rows[0]['rate']} | {reached} | {before:.0f}° | {after:.0f}° |")
    seeds = len({row["seed"] for row in result["rows"]})
    return "\n".join(
        [
            *lines,
            "",
            f"{result['model']} on {result['data']}, {result['epochs']} epochs, {seeds} seeds; {result['device']}, "
            f"{result['cores']} cores, load {result['load_before']} before.",
        ]
    )


def picture(result: dict[str, Any]) -> bytes:
    """Accuracy on the images held out by epoch, from the least to the most of the seeds; beside it the angles."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4), layout="constrained")
    accuracy, *others = figure.subplots(1, 4)
    for name in rules(0):
        rows = [row["validation_accuracy"] for row in result["rows"] if row["rule"] == name]
        curve, epochs = 100 * np.array(rows), np.arange(1, len(rows[0]) + 1)
        accuracy.plot(epochs, curve.mean(0), label=name, marker=".")
        accuracy.fill_between(epochs, curve.min(0), curve.max(0), alpha=0.2)
    accuracy.set(title="On images held out", xlabel="epoch", ylabel="accuracy (%)")
    accuracy.legend()
    for axes, name in zip(others, list(rules(0))[1:], strict=True):
        runs = [row["angles"] for row in result["rows"] if row["rule"] == name]
        for layer in runs[0]:
            axes.plot(np.mean([angles[layer] for angles in runs], axis=0), label=layer, marker=".")
        axes.axhline(90, color="gray", linewidth=0.8)
        axes.set(title=name.capitalize(), xlabel="epoch", ylabel="angle to the true gradient (degrees)", ylim=(-3, 120))
    others[1].legend(ncols=2, loc="upper right")
    for axes in (accuracy, *others):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    with io.BytesIO() as written:
        figure.savefig(written, format="png", dpi=100)
        return written.getvalue()


def main() -> None:
    """Measure, print, and keep what is no trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, help="train on so many alone, and keep nothing")
    given = parser.parse_args()
    result = measure(given.data, given.epochs, given.seeds, given.images)
    drawn = picture(result)
    if given.images is None:
        files.write(RESULT, f"{json.dumps(result, indent=2)}\n".encode())
        files.write(PICTURE, drawn)
    print(table(result))


if __name__ == "__main__":
    main()
