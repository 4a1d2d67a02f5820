"""What `check_rule` says of rules that ship in jax, optax and flax: `python -m benchmarks.others [NAME]`.

With a NAME the whole report, else a line for each. Writes nothing; docs/others.md holds the committed table.
"""

import argparse
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.verify import Report, check_rule

RNG = np.random.default_rng(0)
NORMAL, OTHER = RNG.standard_normal((3, 5)), RNG.standard_normal((3, 5))
POSITIVE, LABELS = np.abs(OTHER) + 0.1, np.array([1, 4, 0])
WITH_ZERO = NORMAL * (np.arange(15).reshape(3, 5) % 7 != 0)
WELL = RNG.standard_normal((4, 4)) + 3 * np.eye(4)


def _plain_weighted(x, weights):
    return weights * (x - jax.scipy.special.logsumexp(x, axis=-1, keepdims=True))


def _rules():
    """Name: the function, its arguments, check_rule's keywords."""
    import flax.linen.fp8_ops as fp8  # pyright: ignore[reportMissingImports]
    import optax
    from optax.losses._classification import weighted_logsoftmax

    special, projection = jax.scipy.special, optax.projections.projection_simplex
    ones, history = np.ones(1), np.zeros(4)
    return {
        "jax.nn.relu": (jax.nn.relu, (NORMAL,), {"plain": lambda x: jnp.where(x > 0, x, 0)}),
        "jax.nn.relu at zeros": (
            jax.nn.relu, (WITH_ZERO,), {"plain": lambda x: jnp.where(x > 0, x, 0), "kinks": "autodiff"}),
        "jax.nn.relu6": (jax.nn.relu6, (4 * NORMAL,), {"plain": lambda x: jnp.minimum(jnp.maximum(x, 0), 6)}),
        "jax.nn.softmax": (
            jax.nn.softmax, (NORMAL,), {"plain": lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)}),
        "jax.nn.logsumexp": (jax.nn.logsumexp, (NORMAL,), {"plain": lambda x: jnp.log(jnp.exp(x).sum())}),
        "jax.nn.silu": (jax.nn.silu, (NORMAL,), {"plain": lambda x: x / (1 + jnp.exp(-x))}),
        "jax.nn.log1mexp": (jax.nn.log1mexp, (POSITIVE,), {"plain": lambda x: jnp.log(1 - jnp.exp(-x))}),
        "jnp.logaddexp": (jnp.logaddexp, (NORMAL, OTHER), {"plain": lambda a, b: jnp.log(jnp.exp(a) + jnp.exp(b))}),
        "jnp.logaddexp, equal": (jnp.logaddexp, (NORMAL, NORMAL.copy()), {}),
        "jnp.sinc": (jnp.sinc, (NORMAL,), {"plain": lambda x: jnp.sin(jnp.pi * x) / (jnp.pi * x)}),
        "jnp.sinc at zeros": (jnp.sinc, (WITH_ZERO,), {}),
        "jnp.i0": (jnp.i0, (NORMAL,), {}),
        "jnp.linalg.slogdet": (jnp.linalg.slogdet, (WELL,), {}),
        "special.xlogy": (special.xlogy, (NORMAL, POSITIVE), {"plain": lambda x, y: x * jnp.log(y)}),
        "special.xlogy at x = 0": (special.xlogy, (WITH_ZERO, POSITIVE), {"plain": lambda x, y: x * jnp.log(y)}),
        "special.entr": (special.entr, (POSITIVE,), {"plain": lambda x: -x * jnp.log(x)}),
        "special.logit": (special.logit, (special.expit(NORMAL),), {"plain": lambda p: jnp.log(p / (1 - p))}),
        "special.log_ndtr": (special.log_ndtr, (NORMAL,), {"plain": lambda x: jnp.log(special.ndtr(x))}),
        "special.expi": (special.expi, (POSITIVE,), {}),
        "optax.weighted_logsoftmax": (
            weighted_logsoftmax, (NORMAL, POSITIVE), {"plain": _plain_weighted}),
        "optax.weighted_logsoftmax, w = 0": (
            weighted_logsoftmax, (NORMAL, WITH_ZERO), {"plain": _plain_weighted}),
        "optax.projection_simplex": (projection, (NORMAL[0],), {}),
        "optax.softmax_cross_entropy": (
            optax.losses.softmax_cross_entropy_with_integer_labels, (NORMAL, LABELS),
            {"plain": lambda x, y: jax.scipy.special.logsumexp(x, -1) - jnp.take_along_axis(x, y[:, None], 1)[:, 0]}),
        "optax.scale_gradient": (partial(optax.scale_gradient, scale=0.5), (NORMAL,), {"plain": lambda x: x}),
        "flax fp8_ops.in_qdq": (
            partial(fp8.in_qdq, jnp.float32, jnp.float8_e4m3fn), (NORMAL, ones, history), {"argnums": 0}),
        "flax fp8_ops.out_qdq": (
            partial(fp8.out_qdq, jnp.float32, jnp.float8_e5m2), (NORMAL, ones, history), {"plain": lambda x, s, h: x}),
    }  # fmt: skip


def check(name: str) -> Report:
    """The report on one of the rules."""
    f, args, keywords = _rules()[name]
    return check_rule(f, *args, **keywords)


def line(name: str, report: Report) -> str:
    """The verdict and the first thing that is not as it should be."""
    first = next((c for c in report.checks if c.verdict == "FAILED"), None)
    first = first or next((c for c in report.checks if not c.passed), None)
    words = ""
    if first is not None:
        words = f"{first.oracle} {first.argument}: {first.reason or first.note or f'error {first.error:.1e}'}"
    return f"| `{name}` | {report.verdict} | {words} |"


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.others", description=__doc__)
    parser.add_argument("name", nargs="?", help="one of the rules; all unless given")
    name = parser.parse_args().name
    try:
        rules = _rules()
    except ImportError as error:
        print(f"others: {error}; pip install '.[peers]'", file=sys.stderr)
        return 2
    if name is not None and name not in rules:
        print(f"name is {name!r} but must be one of {', '.join(rules)}", file=sys.stderr)
        return 2
    if name is not None:
        print(check(name))
        return 0
    print("| rule | verdict | the first finding |\n|---|---|---|")
    for one in rules:
        print(line(one, check(one)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
