"""Single operations: forward, dx and dW of convolutions, forward and backward of poolings."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
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
from .children import Child
from .peers import module_of
from .precision import Precision, precisions
from .timing import Row, Variant, compiled_variant, in_turn, measure

DISPATCH = "negation of one number"
SIZE = 2048  # of the matrix product that is the measure of what the machine can do


@dataclass(frozen=True)
class Workload:
    """One operation: image height and width, input and output maps, the window's size, the rest."""

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


def check_batches(batches: Sequence[int]) -> None:
    """Whether they are batch sizes.

    Raises:
        InputError: one is below 1, or there is none.

    >>> check_batches([32, 0])
    Traceback (most recent call last):
    jaxcnn.errors.InputError: batch is '32,0' but must be integers of at least 1, by commas
    """
    if not batches or min(batches) < 1:
        raise InputError(f"batch is {','.join(map(str, batches))!r} but must be integers of at least 1, by commas")


def operations(
    cases: Sequence[Workload],
    batches: Sequence[int],
    peers: dict[str, Child],
    seconds: float,
    report: Callable[[str], None],
) -> Iterator[Row]:
    """Rows "operation", one for each variant of each direction of each case at each batch size.

    Before them "dispatch", a call that computes next to nothing, and "product", a product of 2048 x 2048 matrices:
    "product_milliseconds" of an operation is the time in which that makes as many multiply-adds.
    """
    yield from dispatch(peers, seconds)
    for precision in precisions():
        with precision.active():
            product = product_row(precision, seconds)
            yield product
            for batch in batches:
                for case in cases:
                    report(f"{case.op} {case}, batch {batch}, {precision.name}")
                    yield from case_rows(case, batch, precision, product, peers, seconds)


def dispatch(peers: dict[str, Child], seconds: float) -> Iterator[Row]:
    """Rows "dispatch": what a call costs, whatever it computes, of a compiled program and of PyTorch."""
    variants = [compiled_variant("ours", jnp.negative, compiler_options(), jnp.ones(()))]
    if "torch" in peers:
        variants += peers["torch"].variants(_torch_dispatch)
    for row in measure(variants, [-np.ones(())], 0.0, seconds):
        yield {"table": "dispatch", "call": DISPATCH, **row}


def product_row(precision: Precision, seconds: float) -> Row:
    """The row "product", the matrix product that is the measure of what the machine can do."""
    a, b = precision.cast([jax.random.normal(jax.random.key(i), (SIZE, SIZE)) for i in range(2)])
    variant = dataclasses.replace(compiled_variant("product", jnp.matmul, None, a, b), answer=list)
    (row,) = measure([variant], [], np.inf, seconds)
    rate = {"gigaflops": 2e-6 * SIZE**3 / row["milliseconds"]}
    return {"table": "product", "size": SIZE, "precision": precision.name, **row, **rate}


def case_rows(
    case: Workload, batch: int, precision: Precision, product: Row, peers: dict[str, Child], seconds: float
) -> Iterator[Row]:
    """Rows "operation" of one case; `product` is the row of that name."""
    I, O = case.channels
    draw = np.random.default_rng(0)
    x = draw.standard_normal((batch, case.size, case.size, I), np.float32)
    weight = draw.standard_normal((case.window, case.window, I // case.hyper.get("groups", 1), O), np.float32)
    args = (x, weight) if case.op == "conv2d" else (x,)
    y = jax.eval_shape(partial(_plain, case), *args)
    dy = draw.standard_normal(y.shape, np.float32)
    arrays = (x, weight, dy)
    args, dy = precision.cast((args, dy))
    truths = _in_float64(case, args, dy)
    products = y.size * case.window**2 * (weight.shape[2] if case.op == "conv2d" else 1)
    sizes = {"forward": y.size, "dx": x.size, "dweight": weight.size}
    for direction in case.directions:
        variants = [
            compiled_variant("ours", _ours(case, direction), compiler_options(), *_kept(case, direction, args), dy),
            compiled_variant("jax.grad", partial(_autodiff, case, direction), None, args, dy),
        ]
        if "torch" in peers:
            variants += peers["torch"].variants(_torch_operations, case, direction, arrays, precision)
        about = {"op": case.op, "case": str(case), "batch": batch, "direction": direction, "precision": precision.name}
        limit = {"product_milliseconds": product["milliseconds"] * products / SIZE**3} if case.op == "conv2d" else {}
        terms = -(-products // sizes[direction])
        eps_of = jnp.bfloat16 if precision.tf32 else precision.dtype  # TF32 has 3 bits more: within the same bound
        for row in measure(variants, [truths[direction]], tolerance(jnp.dtype(eps_of), terms), seconds):
            yield {"table": "operation", **about, **limit, **row}


def _torch_dispatch():
    """In PyTorch's child."""
    torch = module_of("torch")
    run, answer = torch.dispatch()
    return [Variant("torch", in_turn(run, torch.wait), lambda: [answer()])]


def _torch_operations(case, direction, arrays, precision):
    """In PyTorch's child."""
    hyper = case.hyper if case.op == "conv2d" else {"kernel_size": case.window, **case.hyper}
    torch = module_of("torch")
    found = torch.operations(case.op, direction, *arrays, hyper, precision.dtype, precision.tf32)
    return [
        Variant(name, in_turn(run, torch.wait), lambda answer=answer: [answer()])
        for name, (run, answer) in found.items()
    ]


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
