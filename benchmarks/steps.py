"""One SGD step on a CPU: ours, jax.grad of plain lax, PyTorch eager. `python -m benchmarks.steps [NET ...]`.

Float32, batch 128, all variants in turn in one process (round-robin), medians; the machine drifts, so read the ratios.
PyTorch (`pip install torch`) is left out, and named, where it is not installed. Before anything is timed our gradient
is compared with automatic differentiation in float64: a wrong answer has no time.
"""

import importlib
import json
import os
import platform
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn import Conv2d, Dense, Flatten, MaxPool2d, ReLU, SoftmaxCrossEntropy, compiler_options, gradients, models

RESULT = Path(__file__).parent / "results" / "steps.json"
NETS = ("lenet28", "cnn28", "vgg32")
BATCH, RATE, STEPS, SECONDS = 128, 0.01, 4, 12
LOSS = SoftmaxCrossEntropy()


def plain_loss(network, params, x, labels):
    """The loss as a user of plain JAX writes it: no hand-written rule anywhere."""
    for name, layer in zip(network.names, network.layers, strict=True):
        if isinstance(layer, Conv2d):
            padding = "SAME" if layer.padding else "VALID"  # these nets pad by (k - 1) / 2 or not at all
            w = params[name]["weight"]
            x = lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = x + params[name]["bias"]
        elif isinstance(layer, ReLU):
            x = jax.nn.relu(x)
        elif isinstance(layer, MaxPool2d):
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        elif isinstance(layer, Flatten):
            x = x.reshape(x.shape[0], -1)
        else:
            x = x @ params[name]["weight"] + params[name]["bias"]
    return -jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], axis=1).mean()


def descend(params, grads):
    """Plain gradient descent."""
    return jax.tree.map(lambda w, g: w - RATE * g, params, grads)


def ours(network, params, x, labels):
    """One step by the hand-written chain."""
    return descend(params, gradients(network, LOSS, params, x, labels)[0])


def autodiff(network, params, x, labels):
    """One step by jax.grad of plain lax."""
    return descend(params, jax.grad(partial(plain_loss, network))(params, x, labels))


def scanned(step):
    """STEPS steps in one compiled scan, as an epoch runs them."""

    def run(params, x, labels):
        return lax.scan(lambda params, _: (step(params, x, labels), None), params, length=STEPS)[0]

    return run


def compiled(f, options, *args):
    """f compiled for these arguments, as a function without arguments that waits for the result."""
    program = jax.jit(f).lower(*args).compile(compiler_options=options)
    return lambda: jax.block_until_ready(program(*args))


def torch_step(network, in_shape, x, labels, memory_format):
    """One step as a user of PyTorch writes it, or None where it is not installed."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layers, shape = [], in_shape
    for layer in network.layers:
        if isinstance(layer, Conv2d):
            layers.append(torch.nn.Conv2d(shape[-1], layer.out_channels, layer.kernel_size, padding=layer.padding))
        elif isinstance(layer, Dense):
            layers.append(torch.nn.Linear(shape[0], layer.out_features))
        else:
            layers.append(
                {ReLU: torch.nn.ReLU(), MaxPool2d: torch.nn.MaxPool2d(2), Flatten: torch.nn.Flatten()}[type(layer)]
            )
        shape = layer.output_shape(shape)
    model = torch.nn.Sequential(*layers).to(memory_format=getattr(torch, memory_format))
    images = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2).contiguous(memory_format=getattr(torch, memory_format))
    targets, loss = torch.tensor(np.asarray(labels)).long(), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step():
        optimizer.zero_grad()
        loss(model(images), targets).backward()
        optimizer.step()

    return step


def check(network, params, x, labels):
    """Relative L2 error of our float32 gradient against automatic differentiation in float64."""
    found = jax.jit(lambda p: gradients(network, LOSS, p, x, labels)[0])(params)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, x))
        truth = jax.jit(jax.grad(lambda p, x: plain_loss(network, p, x, labels)))(*wide)
        pairs = [(np.asarray(a, float), np.asarray(b)) for a, b in
                 zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True)]  # fmt: skip
    difference = sum(((a - b) ** 2).sum() for a, b in pairs)
    return float(np.sqrt(difference / sum((b**2).sum() for _, b in pairs)))


def measure(name):
    """Median milliseconds of every variant on one net."""
    model = models.find(name)
    network = model.build(10)
    params = network.init(jax.random.key(0), model.in_shape)
    x, labels = jax.random.normal(jax.random.key(1), (BATCH, *model.in_shape)), jnp.arange(BATCH) % 10
    error = check(network, params, x, labels)
    if not error < 1e-4:  # pooling and ReLU decisions that flip on rounding stay below this
        sys.exit(f"{name}: our gradient is off by {error:.1e}; a wrong answer has no time")
    step = partial(ours, network)
    variants = {
        "ours": compiled(step, compiler_options(), params, x, labels),
        "ours, without compile options": compiled(step, None, params, x, labels),
        "ours, in a scan": compiled(scanned(step), compiler_options(), params, x, labels),
        "jax.grad": compiled(partial(autodiff, network), None, params, x, labels),
        "torch": torch_step(network, model.in_shape, x, labels, "contiguous_format"),
        "torch, channels last": torch_step(network, model.in_shape, x, labels, "channels_last"),
    }
    variants = {variant: run for variant, run in variants.items() if run is not None}
    for run in variants.values():
        run(), run()
    times = {variant: [] for variant in variants}
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for variant, run in variants.items():
            started = time.perf_counter()
            run()
            times[variant].append(1e3 * (time.perf_counter() - started) / (STEPS if "scan" in variant else 1))
    result = {variant: round(statistics.median(values), 1) for variant, values in times.items()}
    return {"milliseconds": result, "rounds": len(times["ours"]), "relative error of our gradient": error}


def table(result):
    """The ratios of a result as Markdown, for the README."""
    variants = list(next(iter(result["nets"].values()))["milliseconds"])[1:]
    lines = ["| ours / | " + " | ".join(variants) + " | ours, ms |", "|---" * (len(variants) + 2) + "|"]
    for name, net in result["nets"].items():
        times = net["milliseconds"]
        ratios = [f"{times['ours'] / times[variant]:.2f}" for variant in variants]
        lines.append(f"| {name} | " + " | ".join(ratios) + f" | {times['ours']} |")
    return "\n".join(lines)


def main():
    """Measure the nets named on the command line, all unless given; write the result if all were measured."""
    names = sys.argv[1:] or NETS
    nets = {}
    for name in names:
        nets[name] = measure(name)
        milliseconds = nets[name]["milliseconds"]
        print(
            name,
            *(f"\n  {v:32} {t:7.1f} ms   ours / it {milliseconds['ours'] / t:5.2f}" for v, t in milliseconds.items()),
        )
    if "torch" not in sys.modules:
        print("torch is not installed: left out")
    if tuple(names) == NETS:
        versions = {"jax": jax.__version__, "python": platform.python_version()}
        if "torch" in sys.modules:
            versions["torch"] = sys.modules["torch"].__version__
        device = {"device": jax.devices()[0].device_kind, "cores": len(os.sched_getaffinity(0)), "batch": BATCH}
        result = {**device, **versions, "nets": nets}
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
        print(table(result), f"-> {RESULT}", sep="\n")


if __name__ == "__main__":
    main()
