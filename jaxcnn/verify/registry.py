"""The library's own rules under the engine: every case of every operation, and a whole network."""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..layers.base import Layer, Params
from ..losses import Loss
from ..operation import Operation
from ..training import gradients
from .cases import Case, Entry, find_operation
from .engine import TRANSFORMATIONS, check
from .problem import Problem, is_floating
from .report import Check, Report
from .tolerances import relative_error

MOST = 5  # cases of one operation: seconds on 2 cores; the test suite runs all of them


def check_operations(names: Iterable[str], *, thorough: bool = False) -> Iterator[list[Check]]:
    """Check the backward of the operations of these names: yields the checks of one case after the other.

    Each is a `check_rule` of the operation, with the value of `op.forward` as `plain`; "explicit" is the gradient by
    the explicit `op.backward`. The transformations run on the last case of each operation; where `thorough`, every
    case is checked, with the transformations.

    Raises:
        InputError: no operation has this name.

    >>> all(check.passed for checks in check_operations(["relu"]) for check in checks)
    True
    """
    cases = []
    for entry in map(find_operation, names):
        chosen = chosen_cases(entry, thorough)
        cases += [(entry.op, case, seed, thorough or seed == chosen[-1][0], thorough) for seed, case in chosen]
    with ThreadPoolExecutor(2) as pool:  # nearly all of the time is compilation, which runs outside Python's lock
        yield from (list(report.checks) for report in pool.map(lambda given: check_case(*given), cases))


def chosen_cases(entry: Entry, thorough: bool = False) -> list[tuple[int, Case]]:
    """The cases to check, with their seeds: all where `thorough`, else at most MOST, evenly spread.

    >>> [seed for seed, _ in chosen_cases(find_operation("max_pool2d"))]
    [0, 2, 4, 6, 8]
    """
    numbered = list(enumerate(entry.cases))
    return numbered if thorough else numbered[:: math.ceil(len(numbered) / MOST)]


def check_case(op: Operation, case: Case, seed: int, transformed: bool = False, thorough: bool = False) -> Report:
    """The report of one case of an operation."""

    def of_explicit(values, dys):
        args = problem.rebuild(values)
        grads = explicit(op, case.hyper, args, *dys)
        if [grad is not None for grad in grads] != [is_floating(arg) for arg in args]:
            return []
        return [grad for grad, arg in zip(grads, args, strict=True) if is_floating(arg)]

    problem, asked = problem_of(op, case, seed), TRANSFORMATIONS if transformed else ()
    others = {"explicit": of_explicit}
    return check_problem(problem, case, seed, op.name, others=others, transformations=asked, thorough=thorough)


def check_problem(problem: Problem, case: Case, seed: int, name: str, **more: Any) -> Report:
    """The report of a problem that is a case; of an operation's kinks `plain` has the convention."""
    return check(problem, name=name, case=str(case), kinks="autodiff", terms=case.terms, seed=seed, **more)


def problem_of(op: Operation, case: Case, seed: int) -> Problem:
    """The gradient of an operation at one case."""
    f, plain = (partial(g, **case.hyper) for g in (op, without_rule(op)))
    return Problem.of(f, case.draw(seed), plain, None, op.arguments)


def check_network(network: Layer, loss: Loss, params: Params, x, labels, key: jax.Array) -> float:
    """Relative error of a network's hand-written gradient on a batch, in float64 and with `train=True`.

    The explicit chain of backward functions against `jax.grad` of the plain forward: the largest deviation of any
    parameter's gradient over the largest entry of that gradient.

    >>> from jaxcnn import Dense, SoftmaxCrossEntropy
    >>> params = Dense(3).init(jax.random.key(0), (4,))
    >>> x, labels = np.ones((2, 4)), np.array([0, 2])
    >>> check_network(Dense(3), SoftmaxCrossEntropy(), params, x, labels, jax.random.key(1)) < 1e-10
    True
    """

    @jax.jit
    def both(params, x, key):
        def plain(params):
            outputs, _ = network.forward(params, x, train=True, key=key)
            return loss.forward(outputs, labels)[0] + network.penalty(params)[0]

        return gradients(network, loss, params, x, labels, key=key)[0], jax.grad(plain)(params)

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), params)
        ours, truth = both(wide, jnp.asarray(x, jnp.float64), key)
        if jax.tree.structure(ours) != jax.tree.structure(truth):
            return np.inf
        return max(jax.tree.leaves(jax.tree.map(relative_error, ours, truth)))


def explicit(op: Operation, hyper: dict, args, dy):
    """The gradients by `op.backward`, one entry for each argument."""
    _, residuals = op.forward(*args, **hyper)
    return op.backward(residuals, dy, **hyper)


def without_rule(op: Operation) -> Callable:
    """The operation without its rule: the value of `op.forward`."""
    return lambda *args, **hyper: op.forward(*args, **hyper)[0]
