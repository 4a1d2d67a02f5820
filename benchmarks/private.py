"""What privacy costs in accuracy: `python -m benchmarks.private --data FOLDER` keeps benchmarks/results/private.json.

FOLDER has the four IDX files of Fashion-MNIST. The network with tanh of Papernot et al. 2021, *Tempered sigmoid
activations for deep learning with differential privacy*, learns 55,000 images by `private_fit`, for two epsilons, and
once without noise and clipping. The 5,000 held out choose learning rate and limit (`--choose`, one seed); the test
images are seen once. About 2 minutes on two cores, and 7 to choose.

Epsilon is that of the training alone: what the choice gives away of the images held out, and of the others by way of
them, is not counted. The seed stands here, so these weights are for reading, not for use: a key nobody knows is needed.
"""

import argparse
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import jax

from jaxcnn import (
    SGD,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    Sequential,
    SoftmaxCrossEntropy,
    Tanh,
    evaluate,
    files,
    fit,
    init_state,
)
from jaxcnn.data import held_out, load_dataset
from jaxcnn.private import PoissonSampling, epsilon, noise_for, private_fit

RESULT = Path(__file__).parent / "results" / "private.json"
NETWORK = Sequential(
    (
        *(Conv2d(16, 8, stride=2, padding=3), Tanh(), MaxPool2d(2, stride=1)),
        *(Conv2d(32, 4, stride=2), Tanh(), MaxPool2d(2, stride=1)),
        *(Flatten(), Dense(32), Tanh(), Dense(10)),
    )
)
LOSS = SoftmaxCrossEntropy()
EPSILONS, DELTA, EXPECTED, EPOCHS, HELD_OUT, SEED = (3.0, 8.0), 1e-5, 1024, 15, 5000, 0
RATE, LIMIT, PLAIN_RATE = 4.0, 0.1, 0.05  # chosen; with momentum 0.9


def split(folder):
    """Images and labels to learn, held out, and to test; from -1 to 1 by no measure of them."""
    data = load_dataset(folder)
    kept, held = held_out(data.train_labels, HELD_OUT / len(data.train_labels), SEED)
    x, t = 2 * data.train_images - 1, data.train_labels
    return (x[kept], t[kept]), (x[held], t[held]), (2 * data.test_images - 1, data.test_labels)


def settings(count):
    """How batches are drawn from so many images, and the number of updates."""
    sampling = PoissonSampling.of(count, EXPECTED)
    return sampling, round(EPOCHS / sampling.probability)


def private(learnt, held, target, rate, limit):
    """The parameters, and what is told of them."""
    sampling, steps = settings(len(learnt[0]))
    noise, optimizer = noise_for(target, sampling, steps, DELTA), SGD(rate, momentum=0.9)
    state = init_state(NETWORK, optimizer, jax.random.key(SEED), learnt[0].shape[1:])
    state, history = private_fit(
        NETWORK, LOSS, optimizer, state, *learnt,
        sampling=sampling, steps=steps, limit=limit, noise=noise, validation=held,
    )  # fmt: skip
    found = {
        "epsilon": round(epsilon(sampling, noise, steps, DELTA), 3),
        "delta": DELTA,
        "noise": round(noise, 4),
        "limit": limit,
        "probability": round(sampling.probability, 6),
        "expected": EXPECTED,
        "size": sampling.size,
        "steps": steps,
        "rate": rate,
    }
    return state.averaged, found | told(history)


def plain(learnt, held, rate):
    """The same of a training without noise and clipping, in batches of `EXPECTED`."""
    optimizer = SGD(rate, momentum=0.9)
    state = init_state(NETWORK, optimizer, jax.random.key(SEED), learnt[0].shape[1:])
    state, history = fit(NETWORK, LOSS, optimizer, state, *learnt, batch_size=EXPECTED, epochs=EPOCHS, validation=held)
    return state.averaged, {"epsilon": None, "steps": int(state.step), "rate": rate} | told(history)


def told(history):
    """Seconds are those of training, compilation included."""
    return {
        "held_out_accuracy": history[-1]["validation_accuracy"],
        "seconds": round(sum(epoch["seconds"] for epoch in history), 1),
    }


def choose(folder):
    """Print what each choice reaches on the images held out."""
    learnt, held, _ = split(folder)
    for limit in (0.1, 1.0):
        for step in (0.2, 0.4, 0.8):
            _, found = private(learnt, held, EPSILONS[0], step / limit, limit)
            print(f"limit {limit}, rate {step / limit:.2g}: {found['held_out_accuracy']:.2%}", flush=True)
    for rate in (0.025, 0.05, 0.1, 0.2):
        print(f"plain, rate {rate}: {plain(learnt, held, rate)[1]['held_out_accuracy']:.2%}", flush=True)


def table() -> str:
    """The result as a Markdown table."""
    lines = ["| epsilon | delta | sigma | steps | test accuracy | seconds |", "|---|---|---|---|---|---|"]
    for row in json.loads(RESULT.read_text())["rows"]:
        privacy = f"{row['epsilon']:.2f} | {row['delta']:g} | {row['noise']:.3f}" if row["epsilon"] else "none | | "
        lines.append(f"| {privacy} | {row['steps']} | {row['test_accuracy']:.2%} | {row['seconds']:.0f} |")
    return "\n".join(lines)


def main(folder) -> None:
    """Train for every epsilon, and without; write the result."""
    load, rows = os.getloadavg()[0], []
    learnt, held, test = split(folder)
    for target in (*EPSILONS, None):
        params, found = (
            plain(learnt, held, PLAIN_RATE) if target is None else private(learnt, held, target, RATE, LIMIT)
        )
        rows.append(found | {"test_accuracy": evaluate(NETWORK, LOSS, params, *test).accuracy})
        print(rows[-1], flush=True)
    result = {
        "data": Path(folder).resolve().name,
        "seed": SEED,
        "rows": rows,
        "load_before": round(load, 2),
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "dp_accounting": version("dp-accounting"),
        "python": platform.python_version(),
    }
    files.write(RESULT, (json.dumps(result, indent=2) + "\n").encode())
    print(table())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--choose", action="store_true", help="compare learning rates and limits on images held out")
    arguments = parser.parse_args()
    choose(arguments.data) if arguments.choose else main(arguments.data)
