"""What `Recompute` saves: `python -m benchmarks.recompute` measures it and keeps benchmarks/results/recompute.json.

A chain of four blocks of four convolutions with ReLU, 16 maps of 32x32, batch 64: the gradient of all weights as one
compiled program, with and without each block in a `Recompute`, and by `jax.checkpoint` of each block.
"""

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn import Conv2d, Recompute, ReLU, Sequential, files, summary
from jaxcnn.kernels import compiler_options

RESULT = Path(__file__).parent / "results" / "recompute.json"
BATCH, SHAPE, BLOCKS, ROUNDS = 64, (32, 32, 16), 4, 20


def block() -> Sequential:
    """Four convolutions, each with ReLU."""
    return Sequential((Conv2d(16, 3, padding=1), ReLU()) * 4)


def networks() -> dict[str, Sequential]:
    """The chain, plain and with each block recomputed."""
    return {"plain": Sequential((block(),) * BLOCKS), "Recompute": Sequential((Recompute(block()),) * BLOCKS)}


def needed(program: Any) -> int:
    """Bytes besides arguments and results."""
    return program.memory_analysis().temp_size_in_bytes


def measure() -> dict:
    """Bytes and milliseconds of each way, in turns; every gradient is compared with the first."""
    x = jax.random.normal(jax.random.key(1), (BATCH, *SHAPE))
    rows, programs = {}, {}
    for name, network in networks().items():
        params = network.init(jax.random.key(0), SHAPE)

        def E(params, network=network):
            return (network.apply(params, x) ** 2).mean()

        programs[name] = jax.jit(jax.grad(E), compiler_options=compiler_options()).lower(params).compile(), params
        kept = summary(network, SHAPE, batch_size=BATCH).total.residual_bytes
        rows[name] = {"kept": kept, "needed": needed(programs[name][0])}
    plain, params = networks()["plain"], programs["plain"][1]

    def checkpointed(params):
        y = x
        for name, layer in plain.children().items():
            y = jax.checkpoint(layer.apply)(params[name], y)
        return (y**2).mean()

    programs["jax.checkpoint"] = (
        jax.jit(jax.grad(checkpointed), compiler_options=compiler_options()).lower(params).compile(),
        params,
    )
    rows["jax.checkpoint"] = {"needed": needed(programs["jax.checkpoint"][0])}
    seconds = {name: [] for name in programs}
    answers = {name: jax.tree.leaves(program(params)) for name, (program, params) in programs.items()}
    for name, answer in answers.items():
        for ours, first in zip(answer, answers["plain"], strict=True):
            if not jnp.allclose(ours, first, rtol=1e-3, atol=1e-5):
                raise SystemExit(f"{name}: another gradient")
    load = os.getloadavg()[0]
    for _ in range(ROUNDS):
        for name, (program, params) in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(program(params))
            seconds[name].append(time.perf_counter() - started)
    for name, row in rows.items():
        row["milliseconds"] = 1000 * statistics.median(seconds[name])
    return {"jax": jax.__version__, "device": jax.default_backend(), "load": load, "rows": rows}


def table() -> str:
    """The rows as Markdown."""
    result = json.loads(RESULT.read_text())
    rows = result["rows"]
    lines = [
        f"| {name} | {_mebi(row.get('kept'))} | {_mebi(row['needed'])} | "
        f"{row['milliseconds'] / rows['plain']['milliseconds']:.2f} |"
        for name, row in rows.items()
    ]
    head = "| blocks | kept for the way back, MiB | needed by the compiled gradient, MiB | time / plain |"
    where = f"{result['device']}, jax {result['jax']}, load {result['load']:.1f} in the minute before"
    return "\n".join(
        [
            head,
            "|---|---|---|---|",
            *lines,
            "",
            f"Batch {BATCH}, {BLOCKS} blocks of four convolutions of 16 maps, 32x32; {where}.",
        ]
    )


def _mebi(count):
    return "" if count is None else f"{count / 2**20:.1f}"


if __name__ == "__main__":
    files.write(RESULT, f"{json.dumps(measure(), indent=2)}\n".encode())
    print(table())
