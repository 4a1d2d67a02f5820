"""Run every oracle against every operation and a whole network: `python -m reference [--op NAME]`.

"value" and "reference" compare jaxcnn's value and explicit gradients with the loops, "autodiff" the gradients with
automatic differentiation of the plain forward, both by the verifier; "differences" compares them with central
differences of the loops. All in float64.

The only file here that knows jaxcnn. Exits 1 if a check fails.
"""

import argparse
import importlib
import math
import pkgutil
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

import jaxcnn
from jaxcnn.operation import operation
from jaxcnn.verify import OPERATIONS, Check, find_operation, table
from jaxcnn.verify.cases import Case
from jaxcnn.verify.context import Context, numpy_arrays
from jaxcnn.verify.oracles import compare_gradients, compare_values, point_at
from jaxcnn.verify.problem import Problem
from jaxcnn.verify.registry import without_rule
from jaxcnn.verify.report import ORACLES
from jaxcnn.verify.structure import check_structure
from jaxcnn.verify.tolerances import EXACT, FINITE_DIFFERENCE

from . import losses, network
from .finite_difference import largest_error

LOOPS = {
    name: function
    for module in pkgutil.iter_modules([str(Path(__file__).parent)])
    if module.name != "__main__"
    for name, function in vars(importlib.import_module(f".{module.name}", "reference")).items()
}


def check_loops(
    name: str, case: str, seed: int, problem: Problem, forward: Callable, backward: Callable, kinks: Collection[str]
) -> list[Check]:
    """The value and the rule of a problem against the loops `forward(*args)` and `backward(residuals, dy)`.

    No differences are taken by the arguments `kinks`.
    """
    with jax.enable_x64(True):
        context = Context.of(problem, name, case, others={}, convention=None, terms=1, seed=seed)
        checks, _ = check_structure(context)
        point = point_at(context, 0, None)
        values, (dy,), grads = (numpy_arrays(part) for part in (point.values, point.dys, point.grads))
        args = problem.rebuild(values)
        y, residuals = forward(*args)
        leaves = jax.tree.structure(args).flatten_up_to(backward(residuals, dy))
        if any(leaf is not None for place, leaf in enumerate(leaves) if place not in problem.places):
            checks.append(context.check("reference", "integers", math.inf, EXACT, note="have a gradient"))
        truths = {"reference": [leaves[place] for place in problem.places]} | point.truths
        point = replace(point, others=point.others | {"f and the loops": [np.asarray(y)]}, truths=truths)
        checks += [*compare_values(context, point), *compare_gradients(context, point, None)]
        for i, argument in enumerate(problem.names):
            if argument in kinks:
                continue

            def value(moved, i=i):
                return (forward(*problem.rebuild([*values[:i], moved, *values[i + 1 :]]))[0] * dy).sum()

            error = largest_error(value, values[i], grads[i], seed)
            checks.append(context.check("differences", argument, error, FINITE_DIFFERENCE))
    return [check for check in checks if check.oracle in ORACLES or not check.passed]


def check_case(name: str, case: Case, seed: int) -> list[Check]:
    """One case of an operation, whose rule is made the explicit backward."""
    op, args = find_operation(name).op, case.draw(seed)
    explicit, plain, forward, backward = (
        partial(f, **case.hyper)
        for f in (op.with_rule(op.backward), without_rule(op), LOOPS[f"{name}_forward"], LOOPS[f"{name}_backward"])
    )
    if "key" in op.arguments:  # the loops get the draw itself: NumPy has not JAX's random numbers
        with jax.enable_x64(True):
            (draw,) = numpy_arrays(jax.tree.leaves(op.forward(*args, **case.hyper)[1]))
        forward = partial(lambda loops, x, _: loops(x, draw), forward)
    problem = Problem.of(explicit, args, plain, None, op.arguments)
    kinks = () if case.smooth else op.arguments
    return check_loops(name, str(case), seed, problem, forward, backward, kinks)


NETWORK = jaxcnn.Sequential((
    jaxcnn.Conv2d(3, (3, 2), padding=((1, 0), (0, 1))), jaxcnn.ReLU(), jaxcnn.MaxPool2d((2, 3), stride=(2, 1)),
    jaxcnn.Conv2d(4, 2, stride=(1, 2), padding="SAME"), jaxcnn.Tanh(), jaxcnn.AvgPool2d(2), jaxcnn.Flatten(),
    jaxcnn.Dense(5), jaxcnn.Sigmoid(), jaxcnn.Dense(4, bias=False),
))  # fmt: skip


def check_whole_network(seed: int = 0) -> list[Check]:
    """A network's loss by the chain of backward functions; `delta` is added to the outputs of its layers, and is 0."""
    rng, loss, spec = np.random.default_rng(seed), jaxcnn.SoftmaxCrossEntropy(), jaxcnn.spec_to_json(NETWORK)["layers"]
    x, labels = rng.standard_normal((3, 9, 7, 2)), np.array([2, 0, 3])

    @operation
    def explicit(params, x, delta):
        y, residuals = NETWORK.forward(params, x)
        E, loss_residuals = loss.forward(y, labels)
        return E, (residuals, loss_residuals)

    @explicit.rule
    def _(residuals, dE):
        dx, grads, deltas = NETWORK.backward_with_deltas(residuals[0], dE * loss.backward(residuals[1]))
        return grads, dx, deltas

    def plain(params, x, delta):
        for name, layer in zip(NETWORK.names, NETWORK.layers, strict=True):
            x = layer.forward(params.get(name, {}), x)[0] + delta[name]
        return loss.forward(x, labels)[0]

    def forward(params, x, delta):
        y, residuals = network.sequential_forward(spec, params, x, delta)
        E, loss_residuals = losses.softmax_cross_entropy_forward(y, labels)
        return E, (residuals, loss_residuals)

    def backward(residuals, dE):
        dy = losses.softmax_cross_entropy_backward(residuals[1], dE)[0]
        dx, grads, deltas = network.sequential_backward(spec, residuals[0], dy)
        return grads, dx, deltas

    with jax.enable_x64(True):
        params = NETWORK.init(jax.random.key(seed), x.shape[1:])
        params = jax.tree.map(lambda w: rng.standard_normal(w.shape) / 2, params)
    delta = jax.tree.map(np.zeros_like, backward(forward(params, x, {})[1], 1.0)[2])
    problem = Problem.of(explicit, (params, x, delta), plain, None, explicit.arguments)
    kinks = ("delta['relu1']",)  # zeros tie in the windows of the pooling
    return check_loops("network", "10 layers", seed, problem, forward, backward, kinks)


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reference", description="Run every oracle against every operation."
    )
    parser.add_argument("--op", help=f"one of {', '.join(OPERATIONS)}; all unless given")
    op = parser.parse_args().op
    try:
        names = [op] if op and find_operation(op) else OPERATIONS
    except jaxcnn.InputError as error:
        print(error, file=sys.stderr)
        return 2
    calls = [(check_case, name, case, n) for name in names for n, case in enumerate(find_operation(name).cases)]
    calls, checks = [*calls, (check_whole_network,)], []
    for done, (check, *given) in enumerate(calls, 1):
        checks += check(*given)
        print(f"\r{done}/{len(calls)} {checks[-1].op:24}", end="", file=sys.stderr, flush=True)
    print("\r" + 40 * " " + "\r", end="", file=sys.stderr)
    print(table(checks))
    return 0 if all(check.passed for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
