"""Run every oracle against every operation and a whole network: `python -m reference [--op NAME]`.

"value" and "reference" compare jaxcnn's value and explicit gradients with the loops, "differences" the gradients with
central differences of the loops, "autodiff" with automatic differentiation of the plain forward; all in float64.

The only file here that knows jaxcnn. Exits 1 if a check fails.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import losses as jaxcnn_losses
from jaxcnn.errors import InputError
from jaxcnn.layers.activation import ReLU, Sigmoid, Tanh
from jaxcnn.layers.conv import Conv2d
from jaxcnn.layers.dense import Dense
from jaxcnn.layers.pool import AvgPool2d, MaxPool2d
from jaxcnn.layers.reshape import Flatten
from jaxcnn.kernels import quick_jit
from jaxcnn import Sequential, spec_to_json
from jaxcnn.verify.cases import OPERATIONS, Case, find
from jaxcnn.verify.registry import explicit, through, without_rule
from jaxcnn.verify.report import Check, table
from jaxcnn.verify.tolerances import EXACT, FINITE_DIFFERENCE, relative_error

from . import (
    activation,
    combine_maps,
    conv,
    dense,
    dropout,
    losses,
    median_pool,
    network,
    pool,
    reshape,
    sparsity,
    stochastic_pool,
    subsample,
)  # fmt: skip
from .finite_difference import derivative

DIRECTIONS = 4
MODULES = (
    activation, combine_maps, conv, dense, dropout, losses, median_pool, pool, reshape, sparsity, stochastic_pool,
    subsample,
)  # fmt: skip


def check_case(name: str, case: Case, seed: int) -> list[Check]:
    """jaxcnn's value and explicit gradients of one case, in float64, against the oracles."""
    op = find(name).op
    forward, backward = _function(f"{name}_forward"), _function(f"{name}_backward")
    drawn = case.draw(seed)

    @quick_jit
    def ours(args, dy):
        y, residuals = op.forward(*args, **case.hyper)
        grads = explicit(op, case.hyper, args, dy)
        return y, residuals, grads, through(without_rule(op), case.hyper, args, dy)

    with jax.enable_x64(True):
        shape = jax.eval_shape(partial(op.forward, **case.hyper), *drawn)[0].shape
        dy = np.random.default_rng(seed + 1000).standard_normal(shape)
        y, residuals, grads, autodiff = jax.tree.map(np.asarray, ours(drawn, jnp.asarray(dy)))
    if "key" in op.arguments:  # the draw itself: NumPy has not JAX's random numbers
        (drawn[op.arguments.index("key")],) = jax.tree.leaves(residuals)
    expected_y, expected_residuals = forward(*drawn, **case.hyper)
    expected = backward(expected_residuals, dy, **case.hyper)

    check = partial(Check, name)
    checks = [check("value", str(case), "y", relative_error(y, expected_y), EXACT)]
    for i, argument in enumerate(op.arguments):
        if grads[i] is None:
            checks.append(check("reference", str(case), argument, 0.0 if expected[i] is None else np.inf, EXACT))
            continue
        checks.append(check("reference", str(case), argument, relative_error(grads[i], expected[i]), EXACT))
        checks.append(check("autodiff", str(case), argument, relative_error(grads[i], autodiff[i]), EXACT))

        def value(point, i=i):
            return (forward(*drawn[:i], point, *drawn[i + 1 :], **case.hyper)[0] * dy).sum()

        if case.smooth:
            error = _along_directions(value, drawn[i], grads[i], seed)
            checks.append(check("differences", str(case), argument, error, FINITE_DIFFERENCE))
    return checks


NETWORK = Sequential(
    (
        Conv2d(3, (3, 2), padding=((1, 0), (0, 1))),
        ReLU(),
        MaxPool2d((2, 3), stride=(2, 1)),
        Conv2d(4, 2, stride=(1, 2), padding="SAME"),
        Tanh(),
        AvgPool2d(2),
        Flatten(),
        Dense(5),
        Sigmoid(),
        Dense(4, bias=False),
    )
)


def check_whole_network(seed: int = 0) -> list[Check]:
    """A whole network's loss, gradients, dx and deltas by the chain of backward functions, against the oracles."""
    rng = np.random.default_rng(seed)
    x, labels = rng.standard_normal((3, 9, 7, 2)), np.array([2, 0, 3])
    loss = jaxcnn_losses.SoftmaxCrossEntropy()
    spec = spec_to_json(NETWORK)["layers"]

    def ours(params, x):
        y, residuals = NETWORK.forward(params, x)
        E, loss_residuals = loss.forward(y, labels)
        dx, grads, deltas = NETWORK.backward_with_deltas(residuals, loss.backward(loss_residuals))
        return {"params": grads, "x": dx, "delta": deltas}, E

    def plain_loss(params, x):
        return loss.forward(NETWORK.forward(params, x)[0], labels)[0]

    def reference_loss(params, x):
        return losses.softmax_cross_entropy_forward(network.sequential_forward(spec, params, x)[0], labels)[0]

    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda w: rng.standard_normal(w.shape) / 2, NETWORK.init(jax.random.key(seed), x.shape[1:])
        )
        found, E = jax.tree.map(np.asarray, quick_jit(ours)(params, x))
        auto_params, auto_x = jax.tree.map(np.asarray, quick_jit(jax.grad(plain_loss, argnums=(0, 1)))(params, x))

    y, residuals = network.sequential_forward(spec, params, x)
    expected_E, loss_residuals = losses.softmax_cross_entropy_forward(y, labels)
    dy = losses.softmax_cross_entropy_backward(loss_residuals, 1.0)[0]
    dx, grads, deltas = network.sequential_backward(spec, residuals, dy)

    check = partial(Check, "network")
    checks = [check("value", "10 layers", "E", relative_error(E, expected_E), EXACT)]
    for oracle, truth in (
        ("reference", {"params": grads, "x": dx, "delta": deltas}),
        ("autodiff", {"params": auto_params, "x": auto_x}),
    ):
        for path, leaf in jax.tree_util.tree_leaves_with_path({part: found[part] for part in truth}):
            true = dict(jax.tree_util.tree_leaves_with_path(truth))[path]
            argument = jax.tree_util.keystr(path, simple=True, separator=" ")
            checks.append(check(oracle, "10 layers", argument, relative_error(leaf, true), EXACT))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):

        def value(point, path=path):
            moved = jax.tree_util.tree_map_with_path(lambda p, w: point if p == path else w, params)
            return reference_loss(moved, x)

        name, parameter = (step.key for step in path)
        error = _along_directions(value, leaf, found["params"][name][parameter], seed)
        checks.append(check("differences", "10 layers", f"{name} {parameter}", error, FINITE_DIFFERENCE))
    error = _along_directions(lambda point: reference_loss(params, point), x, found["x"], seed)
    checks.append(check("differences", "10 layers", "x", error, FINITE_DIFFERENCE))
    return checks


def _along_directions(value, point, grad, seed):
    """Largest deviation of <grad, v> from the derivative along v, over random unit vectors v, relative to |grad|."""
    rng = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(DIRECTIONS):
        direction = rng.standard_normal(point.shape)
        direction /= np.linalg.norm(direction)
        error = abs(derivative(value, point, direction) - (grad * direction).sum())
        worst = max(worst, error / (np.linalg.norm(grad) or 1))
    return float(worst)


def _function(name):
    return next(getattr(module, name) for module in MODULES if hasattr(module, name))


def all_checks(names) -> Iterator[list[Check]]:
    """The checks of one case after the other, the whole network last."""
    for name in names:
        for seed, case in enumerate(find(name).cases):
            yield check_case(name, case, seed)
    yield check_whole_network()


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reference", description="Run every oracle against every operation."
    )
    parser.add_argument("--op", help=f"one of {', '.join(OPERATIONS)}; all unless given")
    op = parser.parse_args().op
    try:
        names = [op] if op and find(op) else OPERATIONS
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    checks, total = [], sum(len(find(name).cases) for name in names) + 1
    for done, found in enumerate(all_checks(names), 1):
        checks += found
        print(f"\r{done}/{total} {found[0].op:24}", end="", file=sys.stderr, flush=True)
    print("\r" + 40 * " " + "\r", end="", file=sys.stderr)
    print(table(checks))
    return 0 if all(check.passed for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
