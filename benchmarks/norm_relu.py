"""Is a fused batch norm and ReLU worth it? `python -m benchmarks.norm_relu`, kept in benchmarks/results/norm_relu.json.

Fused, the rule keeps u alone and computes xh and the mask of the ReLU again; apart, batch norm keeps u and the ReLU its
output y. Both ways forward and backward are one compiled program. Bytes are those kept between; where a convolution
follows, it keeps y as its input in either way.
"""

import json
import os
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxcnn import batch_norm, files, operation, relu
from jaxcnn.kernels import compiler_options
from jaxcnn.layers import norm

RESULT = Path(__file__).parent / "results" / "norm_relu.json"
SHAPES = ((128, 32, 32, 16), (128, 16, 16, 32), (128, 8, 8, 64), (64, 32, 32, 64))
ROUNDS = 30


@operation
def norm_relu(u, scale, bias, *, epsilon=norm.EPSILON):
    """relu(batch_norm(u)), of which u is kept."""
    y, residuals = batch_norm.forward(u, scale, bias, epsilon=epsilon)
    return relu.forward(y)[0], (residuals, bias)


@norm_relu.rule
def _(residuals, dy, *, epsilon):
    kept, bias = residuals
    u, m, v, scale, _ = kept
    passed = norm._normalised(u, m, v, scale, bias, epsilon) > 0
    return batch_norm.backward(kept, jnp.where(passed, dy, jnp.zeros_like(dy)), epsilon=epsilon)


def apart(u, scale, bias, dy):
    """Forward and backward by two operations."""
    y, of_norm = batch_norm.forward(u, scale, bias)
    z, of_relu = relu.forward(y)
    return z, *batch_norm.backward(of_norm, relu.backward(of_relu, dy)[0], epsilon=norm.EPSILON)


def fused(u, scale, bias, dy):
    """Forward and backward by one."""
    z, residuals = norm_relu.forward(u, scale, bias)
    return z, *norm_relu.backward(residuals, dy, epsilon=norm.EPSILON)


def autodiff(u, scale, bias, dy):
    """Forward and backward by jax.grad of what one would write."""

    def f(u, scale, bias):
        m, v = u.mean((0, 1, 2)), u.var((0, 1, 2))
        return jax.nn.relu((u - m) * jax.lax.rsqrt(v + norm.EPSILON) * scale + bias)

    z, back = jax.vjp(f, u, scale, bias)
    return z, *back(dy)


def row(shape) -> dict:
    """Milliseconds of each way at this shape, in turns; the answers are compared before."""
    keys = jax.random.split(jax.random.key(0), 4)
    args = [
        jax.random.normal(key, size) for key, size in zip(keys, (shape, shape[-1:], shape[-1:], shape), strict=True)
    ]
    ways = {f.__name__: jax.jit(f, compiler_options=compiler_options()) for f in (apart, fused, autodiff)}
    answers = {name: way(*args) for name, way in ways.items()}
    for name, answer in answers.items():
        for found, first in zip(answer, answers["apart"], strict=True):
            if not jnp.allclose(found, first, rtol=1e-3, atol=1e-3 * float(jnp.abs(first).max())):
                raise SystemExit(f"{name}: another answer")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            jax.block_until_ready(way(*args))  # the caches are those of the way before
            started = time.perf_counter()
            jax.block_until_ready(way(*args))
            seconds[name].append(time.perf_counter() - started)
    size = args[0].nbytes / 2**20
    kept = {"apart": 2 * size, "fused": size}
    medians = {name: 1000 * statistics.median(taken) for name, taken in seconds.items()}
    return {"shape": shape, "kept_mebibytes": kept, "milliseconds": medians}


def table() -> str:
    """The rows as Markdown."""
    result = json.loads(RESULT.read_text())
    lines = ["| maps | kept, MiB: apart | fused | time: fused / apart | apart / jax.grad |", "|---|---|---|---|---|"]
    for found in result["rows"]:
        kept, taken = found["kept_mebibytes"], found["milliseconds"]
        lines.append(
            f"| {'x'.join(map(str, found['shape']))} | {kept['apart']:.1f} | {kept['fused']:.1f} | "
            f"{taken['fused'] / taken['apart']:.2f} | {taken['apart'] / taken['autodiff']:.2f} |"
        )
    where = f"{result['device']}, {result['cores']} cores, jax {result['jax']}"
    return "\n".join([*lines, "", f"{where}, load {result['load']:.1f} in the minute before."])


def main() -> None:
    """Measure and print."""
    about = {"jax": jax.__version__, "device": jax.default_backend(), "cores": len(os.sched_getaffinity(0))}
    result = about | {"load": os.getloadavg()[0], "rows": [row(shape) for shape in SHAPES]}
    files.write(RESULT, f"{json.dumps(result, indent=2)}\n".encode())
    print(table())


if __name__ == "__main__":
    main()
