"""Single operations: forward, dx and dW of convolutions, forward and backward of poolings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import InputError
from jaxcnn.kernels import compiler_options
from jaxcnn.layers.conv import conv2d
from jaxcnn.layers.pool import avg_pool2d, max_pool2d
from jaxcnn.verify.tolerances import tolerance

from . import lax_nets
from .precision import Precision, precisions
from .timing import Row, Variant, compiled, measure, waiting

BATCH = 128
SIZE = 2048  # of the matrix product that is the measure of what the machine can do


@dataclass(frozen=True)
class Workload:
    """One operation at batch 128: image height and width, input and output maps, the window's size, the rest."""

    op: str
    size: int
    channels: tuple[int, int]
    window: int
    hyper: dict[str, int] = field(default_factory=dict)

    def __str__(self):
        (I, O), groups = self.channels, self.hyper.get("groups", 1)
        shape = f"{self.window}x{self.window}, {self.size}x{self.size}x{I}"
        kind = "depthwise " if groups == I > 1 else f"{groups} groups " if groups > 1 else ""
        to = f" to {O}" if self.op == "conv2d" else ""
        stride = self.hyper.get("stride", 1 if self.op == "conv2d" else self.window)
        return f"{kind}{shape}{to}, stride {stride}"

    @property
    def directions(self) -> tuple[str, ...]:
        """What is timed."""
        return ("forward", "dx", "dweight") if self.op == "conv2d" else ("forward", "dx")


CASES = (
    Workload("conv2d", 28, (1, 6), 5, {"padding": 2}),
    Workload("conv2d", 14, (6, 16), 5),
    Workload("conv2d", 28, (1, 32), 3, {"padding": 1}),
    Workload("conv2d", 32, (16, 16), 3, {"padding": 1}),
    Workload("conv2d", 16, (32, 64), 3, {"padding": 1}),
    Workload("conv2d", 32, (16, 32), 3, {"padding": 1, "stride": 2}),
    Workload("conv2d", 16, (32, 64), 3, {"padding": 1, "stride": 2}),
    Workload("conv2d", 16, (64, 64), 1),
    Workload("conv2d", 32, (16, 32), 1, {"stride": 2}),
    Workload("conv2d", 16, (64, 64), 3, {"padding": 1, "groups": 64}),
    Workload("conv2d", 16, (64, 64), 3, {"padding": 1, "groups": 4}),
    Workload("max_pool2d", 32, (32, 32), 2),
    Workload("max_pool2d", 32, (32, 32), 3, {"stride": 2, "padding": 1}),
    Workload("avg_pool2d", 32, (32, 32), 2),
    Workload("avg_pool2d", 32, (32, 32), 3, {"stride": 2, "padding": 1}),
)
OPERATION_NAMES = tuple(dict.fromkeys(case.op for case in CASES))
OURS = {"conv2d": conv2d, "max_pool2d": max_pool2d, "avg_pool2d": avg_pool2d}
PLAIN = {"conv2d": lax_nets.conv, "max_pool2d": lax_nets.max_pool, "avg_pool2d": lax_nets.avg_pool}


def choose_cases(op: str) -> tuple[Workload, ...]:
    """The cases of this operation, or of all.

    Raises:
        InputError: it is none of `OPERATION_NAMES`.

    >>> choose_cases("conv")
    Traceback (most recent call last):
    jaxcnn.errors.InputError: op is 'conv' but must be one of conv2d, max_pool2d, avg_pool2d, all
    """
    if op not in (*OPERATION_NAMES, "all"):
        raise InputError(f"op is {op!r} but must be one of {', '.join(OPERATION_NAMES)}, all")
    return tuple(case for case in CASES if op in (case.op, "all"))


def operations(
    cases: tuple[Workload, ...], peers: dict[str, ModuleType], seconds: float, report: Callable[[str], None]
) -> Iterator[Row]:
    """Rows "operation", one for each variant of each direction of each case, and "product", the matrix product.

    "product_milliseconds" is the time in which a product of 2048 x 2048 matrices makes as many multiply-adds.
    """
    for precision in precisions():
        with precision.active():
            per_multiply_add, product = _product(precision, seconds)
            yield product
            for case in cases:
                report(f"{case.op} {case}, {precision.name}")
                yield from _case(case, precision, per_multiply_add, peers, seconds)


def _case(case: Workload, precision: Precision, per_multiply_add, peers, seconds) -> Iterator[Row]:
    I, O = case.channels
    draw = np.random.default_rng(0)
    x = draw.standard_normal((BATCH, case.size, case.size, I), np.float32)
    weight = draw.standard_normal((case.window, case.window, I // case.hyper.get("groups", 1), O), np.float32)
    args = (x, weight) if case.op == "conv2d" else (x,)
    y = jax.eval_shape(partial(_plain, case), *args)
    dy = draw.standard_normal(y.shape, np.float32)
    args, dy = precision.cast((args, dy))
    truths = _in_float64(case, args, dy)
    products = y.size * case.window**2 * (weight.shape[2] if case.op == "conv2d" else 1)
    sizes = {"forward": y.size, "dx": x.size, "dweight": weight.size}
    for direction in case.directions:
        variants = [
            _variant("ours", _ours(case, direction), compiler_options(), *_kept(case, direction, args), dy),
            _variant("jax.grad", partial(_autodiff, case, direction), None, args, dy),
        ]
        if "torch" in peers:
            hyper = case.hyper if case.op == "conv2d" else {"kernel_size": case.window, **case.hyper}
            arrays = [np.asarray(a, np.float32) for a in (x, weight, dy)]
            options = (precision.dtype, precision.tf32)
            found = peers["torch"].operations(case.op, direction, *arrays, hyper, *options)
            variants += [Variant(name, run, lambda answer=answer: [answer()]) for name, (run, answer) in found.items()]
        about = {"op": case.op, "case": str(case), "direction": direction, "precision": precision.name}
        limit = {"product_milliseconds": 1e3 * products * per_multiply_add} if case.op == "conv2d" else {}
        terms = -(-products // sizes[direction])
        eps_of = jnp.bfloat16 if precision.tf32 else precision.dtype  # TF32 has 3 bits more: within the same bound
        for row in measure(variants, [truths[direction]], tolerance(jnp.dtype(eps_of), terms), seconds):
            yield {"table": "operation", **about, **limit, **row}


def _variant(name, f, options, *args):
    program, _ = compiled(f, options, *args)
    return Variant(name, waiting(program, *args), lambda: [program(*args)])


def _ours(case, direction) -> Callable:
    """Of training: forward gives what backward needs as well; a backward alone leaves the rest out."""
    keywords: dict[str, Any] = dict(case.hyper)
    if case.op != "conv2d":
        keywords["window_size"] = case.window
    if direction == "forward":
        return lambda args, dy: OURS[case.op].forward(*args, **keywords)[0]
    index = {"dx": 0, "dweight": 1}[direction]
    return lambda kept, dy: OURS[case.op].backward(kept, dy, **keywords)[index]


def _kept(case, direction, args):
    if direction == "forward":
        return (args,)
    if case.op == "conv2d":
        return ((*args, None),)
    return (jax.jit(lambda x: OURS[case.op].forward(x, case.window, **case.hyper)[1])(*args),)


def _plain(case, x, weight=None):
    return PLAIN[case.op](x, case.window if weight is None else weight, **case.hyper)


def _autodiff(case, direction, args, dy):
    if direction == "forward":
        return _plain(case, *args)
    if direction == "dx":
        return jax.vjp(lambda x: _plain(case, x, *args[1:]), args[0])[1](dy)[0]
    return jax.vjp(lambda weight: _plain(case, args[0], weight), args[1])[1](dy)[0]


def _in_float64(case, args, dy):
    def all_directions(args, dy):
        return {direction: _autodiff(case, direction, args, dy) for direction in case.directions}

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (args, dy))
        return jax.tree.map(np.asarray, jax.jit(all_directions)(*wide))


def _product(precision, seconds):
    """Seconds for one multiply-add in a large matrix product, and its row."""
    a, b = precision.cast([jax.random.normal(jax.random.key(i), (SIZE, SIZE)) for i in range(2)])
    program, _ = compiled(jnp.matmul, None, a, b)
    (row,) = measure([Variant("product", waiting(program, a, b), list)], [], np.inf, seconds)
    taken = row["milliseconds"] / 1e3
    rate = {"gigaflops": 2e-9 * SIZE**3 / taken}
    return taken / SIZE**3, {"table": "product", "size": SIZE, "precision": precision.name, **row, **rate}
