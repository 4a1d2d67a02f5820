"""README's explicit chain outside of jit beside `jax.grad` of the same, warm: `python -m benchmarks.eager`.

Both take turns; the result has the medians, their ratio, and the load of the machine before the race.
"""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.timing import Variant, in_turn, measure
from jaxcnn import Conv2d, Dense, Flatten, MaxPool2d, ReLU, Sequential, SoftmaxCrossEntropy

RESULT = Path(__file__).parent / "results" / "eager.json"


def main() -> None:
    """Measure and write the result."""
    network, loss = Sequential((Conv2d(8, 3), ReLU(), MaxPool2d(2), Flatten(), Dense(10))), SoftmaxCrossEntropy()
    params = network.init(jax.random.key(0), (28, 28, 1))
    x, labels = jax.random.normal(jax.random.key(1), (32, 28, 28, 1)), jnp.arange(32) % 10

    def explicit():
        logits, kept = network.forward(params, x)
        return jax.block_until_ready(network.backward(kept, loss.backward(loss.forward(logits, labels)[1]))[1])

    def by_grad():
        return jax.block_until_ready(jax.grad(lambda p: loss.apply(network.apply(p, x), labels))(params))

    load = os.getloadavg()[0]
    variants = [Variant(f.__name__, in_turn(f), lambda f=f: jax.tree.leaves(f())) for f in (explicit, by_grad)]
    rows = measure(variants, [np.asarray(a) for a in jax.tree.leaves(by_grad())], 1e-6, seconds=10)
    device = {"device": jax.devices()[0].device_kind, "cores": len(os.sched_getaffinity(0)), "jax": jax.__version__}
    RESULT.write_text(json.dumps({"rows": rows, **device, "load": round(load, 2)}, indent=2) + "\n")
    for row in rows:
        print(f"{row['variant']:10} {row['milliseconds']:6.2f} ms   explicit / it {row['ratio']:.2f}")
    print(f"load {load:.2f} -> {RESULT}")


if __name__ == "__main__":
    main()
