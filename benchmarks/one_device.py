"""What the path of many devices costs on one: `python -m benchmarks.one_device`, kept in results/one_device.json.

The pieces of an epoch, as `fit` runs them, by one compiled program with a mesh of one device and by one without, in
turns. The interval is that of the median of the ratios of neighbours, by 10,000 resamplings.
"""

import json
import os
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from jaxcnn import SGD, SoftmaxCrossEntropy, files, init_state
from jaxcnn.plan import Plan
from jaxcnn.training import train_steps
from jaxcnn.zoo.models import find_model

RESULT = Path(__file__).parent / "results" / "one_device.json"
NETWORKS = {"digits": 400, "lenet28": 150, "cnn28": 50, "resnet20": 4}  # steps of a piece
BATCH, ROUNDS = 64, 40


def row(name: str, count: int) -> dict:
    """Milliseconds of a step by either path, and the ratio's median with its 95 % interval."""
    model, loss, optimizer = find_model(name), SoftmaxCrossEntropy(), SGD(0.01, momentum=0.9)
    network = model.build(10)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((count * BATCH, *model.in_shape), np.float32)
    labels = rng.integers(0, 10, len(images))
    order = rng.permutation(len(images)).reshape(count, BATCH)
    state = init_state(network, optimizer, jax.random.key(0), model.in_shape)
    plans = {"plain": Plan(), "mesh": Plan(Mesh(np.array(jax.devices()[:1]), ("batch",)))}
    given = {
        path: (plan.placed(state), plan.everywhere(images), plan.everywhere(labels)) for path, plan in plans.items()
    }
    seconds: dict[str, list[float]] = {path: [] for path in plans}
    losses = {}
    for _ in range(ROUNDS + 1):
        for path, plan in plans.items():
            placed, x, t = given[path]
            started = time.perf_counter()
            _, losses[path], _ = train_steps(network, loss, optimizer, plan, None, placed, x, t, order, 0, count)
            seconds[path].append(time.perf_counter() - started)
    np.testing.assert_array_equal(losses["mesh"], losses["plain"])
    plain, mesh = (np.array(taken[1:]) for taken in seconds.values())  # the first compiles
    ratios = mesh / plain
    medians = np.median(rng.choice(ratios, (10_000, len(ratios))), axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    steps = {path: 1000 * float(np.median(taken)) / count for path, taken in (("plain", plain), ("mesh", mesh))}
    return {"network": name, "milliseconds": steps, "ratio": float(np.median(ratios)), "interval": [low, high]}


def table() -> str:
    """The rows as Markdown."""
    result = json.loads(RESULT.read_text())
    lines = ["| network | plain, ms a step | mesh of one device | ratio | 95 % interval |", "|---|---|---|---|---|"]
    for found in result["rows"]:
        plain, mesh = found["milliseconds"].values()
        low, high = found["interval"]
        lines.append(
            f"| {found['network']} | {plain:.2f} | {mesh:.2f} | {found['ratio']:.3f} | {low:.3f} to {high:.3f} |"
        )
    where = f"{result['device']}, {result['cores']} cores, jax {result['jax']}"
    return "\n".join([*lines, "", f"Batch {BATCH}; {where}, load {result['load']:.1f} in the minute before."])


def main() -> None:
    """Measure and print."""
    about = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "cores": len(os.sched_getaffinity(0))}
    result = about | {"load": os.getloadavg()[0], "rows": [row(*found) for found in NETWORKS.items()]}
    files.write(RESULT, f"{json.dumps(result, indent=2)}\n".encode())
    print(table())


if __name__ == "__main__":
    main()
