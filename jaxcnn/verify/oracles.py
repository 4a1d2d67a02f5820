r"""Is a hand-written backward right? Independent answers to compare it with.

The oracle never passes through the rule under test: automatic differentiation sees `op_forward`, which has none.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..layers.base import Layer, Params
from ..losses import Loss
from ..training import gradients
from .cases import Case, Operation, find
from .report import Check
from .tolerances import EXACT, FINITE_DIFFERENCE, relative_error, tolerance

STEP = 1e-3
QUICK = {"xla_backend_optimization_level": 0}  # float64 runs once: LLVM's optimizations take longer than they save


def check_operations(names: Iterable[str]) -> Iterator[list[Check]]:
    """Check the backward of the operations of these names: yields the checks of one case after the other.

    In float64: the explicit backward against automatic differentiation of the plain forward ("autodiff"), against
    finite differences of it ("differences", not where values tie), and against what `jax.grad` of the operation gives
    ("rule"). In "float32" and "bfloat16": the explicit backward against automatic differentiation in float64 at the
    same rounded inputs. Products have the highest precision: by default a GPU rounds float32 to TF32.
    The caller's `jax_enable_x64` is left as it was.

    Raises:
        InputError: no operation has this name.

    >>> all(check.passed for checks in check_operations(["relu"]) for check in checks)
    True
    """
    cases = [(name, find(name), case, seed) for name in names for seed, case in enumerate(find(name).cases)]
    with ThreadPoolExecutor() as pool:  # nearly all of the time is compilation, which runs outside Python's lock
        yield from pool.map(_check_case, *zip(*cases, strict=True))


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


def explicit(operation: Operation, hyper: dict, args, dy):
    """The gradients by `op_backward`, one entry for each argument."""
    _, residuals = operation.forward(*args, **hyper)
    return operation.backward(residuals, dy, **hyper)


def through(f: Callable, hyper: dict, args, dy):
    """The gradients by `jax.vjp` of f: None for what has no gradient."""
    floating = [i for i, a in enumerate(args) if _is_floating(a)]

    def of_floating(*values):
        full = list(args)
        for i, value in zip(floating, values, strict=True):
            full[i] = value
        return f(*full, **hyper)

    found = dict(zip(floating, jax.vjp(of_floating, *(args[i] for i in floating))[1](dy), strict=True))
    return tuple(found.get(i) for i in range(len(args)))


def finite_differences(operation: Operation, hyper: dict, args, dy):
    """The gradients by central differences of fourth order of <op_forward, dy>, entry by entry; None as above."""
    floating = [i for i, a in enumerate(args) if _is_floating(a)]
    sizes = np.cumsum([0, *(args[i].size for i in floating)])

    def value(flat):
        full = list(args)
        for i, start, end in zip(floating, sizes[:-1], sizes[1:], strict=True):
            full[i] = flat[start:end].reshape(args[i].shape)
        return (operation.forward(*full, **hyper)[0] * dy).sum()

    point = jnp.concatenate([args[i].ravel() for i in floating])
    offsets = STEP * jnp.array([-2, -1, 1, 2])[:, None, None] * jnp.eye(len(point), dtype=point.dtype)
    # lax.map, not vmap: a convolution batched over its weight is a grouped one, which XLA on CPU runs slowly
    values = lax.map(value, (point + offsets).reshape(-1, len(point))).reshape(4, -1)
    flat = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * STEP)
    parts = zip(floating, jnp.split(flat, sizes[1:-1]), strict=True)
    found = {i: part.reshape(args[i].shape) for i, part in parts}
    return tuple(found.get(i) for i in range(len(args)))


def cast(args, dtype):
    """The arguments with the floating ones as JAX arrays of `dtype`."""
    return [jnp.asarray(a, dtype) if _is_floating(a) else a for a in args]


def plain(operation: Operation) -> Callable:
    """The operation without its rule: the value of `op_forward`."""
    return lambda *args, **hyper: operation.forward(*args, **hyper)[0]


def _check_case(name: str, operation: Operation, case: Case, seed: int) -> list[Check]:
    drawn = case.draw(seed)
    hyper = case.hyper
    ours = jax.jit(partial(explicit, operation, hyper))
    truth = jax.jit(partial(through, plain(operation), hyper), compiler_options=QUICK)

    @partial(jax.jit, compiler_options=QUICK)
    def in_float64(args, dy):
        found = {
            "explicit": explicit(operation, hyper, args, dy),
            "autodiff": through(plain(operation), hyper, args, dy),
            "rule": through(operation.op, hyper, args, dy),
        }
        if case.smooth:
            found["differences"] = finite_differences(operation, hyper, args, dy)
        return found

    def compare(oracle, grads, truths, dtype, allowed):
        checks = []
        for argument, arg, grad, true in zip(operation.arguments, drawn, grads, truths, strict=True):
            if not _is_floating(arg):
                error = 0.0 if grad is None else np.inf
            elif grad is None or grad.dtype != dtype or grad.shape != arg.shape:
                error = np.inf
            else:
                error = relative_error(grad, true)
            checks.append(Check(name, oracle, str(case), f"d{argument}", error, allowed))
        return checks

    checks = []
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        args = cast(drawn, jnp.float64)
        y = jax.eval_shape(partial(operation.forward, **hyper), *args)[0]
        dy = np.random.default_rng(seed + 1000).standard_normal(y.shape)
        results = in_float64(args, jnp.asarray(dy))
        for oracle in [oracle for oracle in results if oracle != "explicit"]:
            allowed = FINITE_DIFFERENCE if oracle == "differences" else EXACT
            checks += compare(oracle, results["explicit"], results[oracle], jnp.float64, allowed)
        for dtype in (jnp.float32, jnp.bfloat16):
            low, low_dy = cast(drawn, dtype), jnp.asarray(dy, dtype)
            truths = truth(cast(low, jnp.float64), low_dy.astype(jnp.float64))
            checks += compare(jnp.dtype(dtype).name, ours(low, low_dy), truths, dtype, tolerance(dtype, case.terms))
    return checks


def _is_floating(a) -> bool:
    return a is not None and jnp.issubdtype(a.dtype, jnp.floating)
