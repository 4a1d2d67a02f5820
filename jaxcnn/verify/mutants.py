"""Backward rules that are wrong on purpose, each a real one with one line changed: does a checker see the fault?"""

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..geometry import resolve_pool
from ..kernels import LABELS
from ..layers import pool, upsample
from ..losses import one_hot
from ..operation import Operation
from .cases import OPERATIONS, Case, find_operation
from .problem import Problem
from .registry import check_problem, problem_of
from .report import Report


@dataclass(frozen=True)
class Mutant:
    """A fault: what is wrong, in which operation, the change of its backward and the case that shows it.

    `keep_x` hands the first argument to the backward as well: residuals become (residuals, x).
    """

    fault: str
    op: str
    change: Callable[..., tuple]  # (backward, residuals, dy, **hyper) -> the wrong gradients
    case: int = 0
    keep_x: bool = False

    def operation(self) -> Operation:
        """The operation with the wrong rule."""
        good = find_operation(self.op).op
        if not self.keep_x:
            return good.with_rule(partial(self.change, good.backward))

        def forward(x, *others, **hyper):
            y, residuals = good.forward(x, *others, **hyper)
            return y, (residuals, x)

        def backward(residuals, dy, **hyper):
            return good.backward(residuals[0], dy, **hyper)

        return good.with_rule(partial(self.change, backward), forward)

    def problem(self) -> tuple[Problem, Case]:
        """The gradient to check, and its case."""
        case = find_operation(self.op).cases[self.case]
        return problem_of(self.operation(), case, self.case), case


def spoil(index: int, change: Callable) -> Callable:
    """Change one gradient: `change(gradient, residuals, dy, hyper)`."""

    def wrong(backward, residuals, dy, **hyper):
        grads = list(backward(residuals, dy, **hyper))
        grads[index] = None if grads[index] is None else change(grads[index], residuals, dy, hyper)
        return tuple(grads)

    return wrong


def _with(change):
    """Call the backward with other residuals, cotangent or hyper-parameters: `change(residuals, dy, hyper)`."""

    def wrong(backward, residuals, dy, **hyper):
        residuals, dy, hyper = change(residuals, dy, hyper)
        return backward(residuals, dy, **hyper)

    return wrong


def _swapped(hyper):
    (top, bottom), (left, right) = hyper["padding"]
    return hyper | {"padding": ((bottom, top), (right, left))}


def _assigned(backward, residuals, dy, **hyper):
    total = backward(residuals, dy, **hyper)[0]
    count = backward(residuals, jnp.ones_like(dy), **hyper)[0]
    return (jnp.where(count > 1, total / count, total),)


def _without_stride(grad, residuals, dy, hyper):
    """(3) of the convolution with dy not dilated by the stride: right for stride 1."""
    x, weight, _ = residuals
    wrong = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), (1, 1), "VALID", dimension_numbers=LABELS
    ).transpose(1, 2, 0, 3)
    return wrong[: weight.shape[0], : weight.shape[1]]


def _ungrouped(grad, residuals, dy, hyper):
    """The channels of dx in the order of a kernel whose groups were not kept apart."""
    N, H, W, C = grad.shape
    groups = hyper["groups"]
    return grad.reshape(N, H, W, groups, C // groups).swapaxes(3, 4).reshape(grad.shape)


def _to_ties(reduced):
    """dx of max pooling with dy to every entry that equals the maximum: all of it, or shared out."""

    def change(grad, residuals, dy, hyper):
        (k, _), x = residuals
        window = resolve_pool("max_pool2d", x.shape[1:3], **hyper)
        y = find_operation("max_pool2d").op.forward(x, **hyper)[0]
        ties = []
        for position in window.taps:
            at = [pool._placed_at(values, window, position) for values in (y, dy, jnp.ones_like(dy))]
            ties.append(jnp.where((x == at[0]) & (at[2] > 0), at[1], 0))
        return reduced(ties, k)

    return change


def _last_tie(residuals, dy, hyper):
    """The residuals of max pooling with k the last position that holds the maximum."""
    (k, shape), x = residuals
    window = resolve_pool("max_pool2d", x.shape[1:3], **hyper)
    padded = jnp.pad(x, ((0, 0), *window.padding, (0, 0)), constant_values=-jnp.inf)
    y = find_operation("max_pool2d").op.forward(x, **hyper)[0]
    for tap, position in enumerate(window.taps):
        k = jnp.where(pool._entries_at(padded, window, position) == y, jnp.array(tap, k.dtype), k)
    return ((k, shape), x), dy, hyper


def _by_count(grad, residuals, dy, hyper):
    """Mean pooling that divides by the entries inside the input, not by the window's size."""
    shape, (U, V) = grad.shape, np.broadcast_to(hyper["window_size"], 2)
    inside = find_operation("avg_pool2d").op.forward(jnp.ones(shape, dy.dtype), **hyper)[0] * U * V
    backward = find_operation("avg_pool2d").op.backward
    return backward(residuals, dy * U * V / inside, **hyper)[0]


def _half(grad, residuals, dy, hyper):
    return dy * residuals * (1 - residuals)


def _of_gelu_tanh(u, dy, by_square):
    """(4) of smooth.py with v' = 2 sqrt(2/pi) (1 + by_square u^2)."""
    twice = 2 * (2 / jnp.pi) ** 0.5
    v = twice * (u + 0.044715 * u**3)
    return dy * jax.nn.sigmoid(v) * (1 + u * jax.nn.sigmoid(-v) * twice * (1 + by_square * u**2))


def _interpolated(places):
    """dx of the bilinear upsampling with other places of the centres: `places(size, factor)`."""

    def change(grad, residuals, dy, hyper):
        matrices = [
            np.maximum(0, 1 - np.abs(places(n, f)[:, None] - np.arange(n)))
            for n, f in zip(grad.shape[1:3], hyper["factor"], strict=True)
        ]
        return jnp.einsum("ph,qw,npqc->nhwc", *matrices, dy).astype(grad.dtype)

    return spoil(0, change)


# one line each: what is wrong, of which operation, the change, the case that shows it
MUTANTS = (
    Mutant("kernel not rotated", "conv2d", _with(lambda r, dy, h: ((r[0], r[1][::-1, ::-1], r[2]), dy, h))),
    Mutant("kernel rotated in one axis only", "conv2d", _with(lambda r, dy, h: ((r[0], r[1][::-1], r[2]), dy, h))),
    Mutant("dy not dilated by the stride", "conv2d", spoil(1, _without_stride), 2),
    Mutant("padding lo and hi swapped", "conv2d", _with(lambda r, dy, h: (r, dy, _swapped(h))), 3),
    Mutant("groups not kept apart", "conv2d", spoil(0, _ungrouped), 8),
    Mutant("groups' kernels exchanged", "conv2d", spoil(1, lambda g, r, dy, h: jnp.roll(g, 3, -1)), 8),
    Mutant("dilated dx shifted", "conv2d", spoil(0, lambda g, r, dy, h: jnp.roll(g, 1, 1)), 7),
    Mutant("strided dx shifted", "conv2d", spoil(0, lambda g, r, dy, h: jnp.roll(g, 1, 2)), 2),
    Mutant("bias never learned", "conv2d", spoil(2, lambda g, r, dy, h: 0 * g)),
    Mutant("bias summed over rows alone", "conv2d", spoil(2, lambda g, r, dy, h: dy.sum((0, 1))[0])),
    Mutant("bias averaged over the positions", "conv2d", spoil(2, lambda g, r, dy, h: dy.mean((1, 2)).sum(0))),
    Mutant("sum over the batch missing", "conv2d", spoil(2, lambda g, r, dy, h: dy[0].sum((0, 1)))),
    Mutant("dweight of the first sample", "conv2d", lambda b, r, dy, **h: (
        b(r, dy, **h)[0], *b((r[0][:1], *r[1:]), dy[:1], **h)[1:])),
    Mutant("dweight rotated", "conv2d", spoil(1, lambda g, r, dy, h: g[::-1, ::-1])),
    Mutant("true convolution's sign", "conv2d", spoil(1, lambda g, r, dy, h: -g)),
    Mutant("dweight divided by N", "conv2d", spoil(1, lambda g, r, dy, h: g / len(dy))),
    Mutant("one output map forgotten", "conv2d", spoil(1, lambda g, r, dy, h: g.at[..., -1].set(0))),
    Mutant("one input map forgotten", "conv2d", spoil(0, lambda g, r, dy, h: g.at[..., 0].set(0))),
    Mutant("border of dx cropped", "conv2d", spoil(0, lambda g, r, dy, h: g.at[:, -1].set(0))),
    Mutant("dilation counts the gaps", "conv2d", spoil(1, lambda g, r, dy, h: jnp.roll(g, 1, 0)), 6),
    Mutant("1 % too much", "conv2d", spoil(0, lambda g, r, dy, h: 1.01 * g)),
    Mutant("kernel rotated", "conv_transpose2d", _with(lambda r, dy, h: ((r[0], r[1][::-1, ::-1], r[2]), dy, h))),
    Mutant("dweight rotated", "conv_transpose2d", spoil(1, lambda g, r, dy, h: g[::-1, ::-1])),
    Mutant("dweight of the first sample", "conv_transpose2d", lambda b, r, dy, **h: (
        b(r, dy, **h)[0], b((r[0][:1], *r[1:]), dy[:1], **h)[1], b(r, dy, **h)[2])),
    Mutant("padding lo and hi swapped", "conv_transpose2d", _with(lambda r, dy, h: (r, dy, _swapped(h))), 1),
    Mutant("output padding at the beginning", "conv_transpose2d", _with(
        lambda r, dy, h: (r, jnp.roll(dy, h["output_padding"], (1, 2)), h)), 2),
    Mutant("output padding without bias", "conv_transpose2d", spoil(
        2, lambda g, r, dy, h: dy[:, :-2, :-1].sum((0, 1, 2))), 2),
    Mutant("bias averaged over the positions", "conv_transpose2d", spoil(
        2, lambda g, r, dy, h: dy.mean((1, 2)).sum(0))),
    Mutant("strided dx shifted", "conv_transpose2d", spoil(0, lambda g, r, dy, h: jnp.roll(g, 1, 1)), 4),
    Mutant("groups' kernels exchanged", "conv_transpose2d", spoil(1, lambda g, r, dy, h: jnp.roll(g, 2, -1)), 5),
    Mutant("dilation counts the gaps", "conv_transpose2d", spoil(1, lambda g, r, dy, h: jnp.roll(g, 1, 0)), 6),
    Mutant("overlapping windows assigned", "max_pool2d", _assigned, 1),
    Mutant("sliced from the unpadded input", "max_pool2d", spoil(0, lambda g, r, dy, h: jnp.roll(g, 1, (1, 2))), 3),
    Mutant("every tie the full gradient", "max_pool2d", spoil(0, _to_ties(lambda t, k: sum(t))), 8, keep_x=True),
    Mutant("the last tie owns it", "max_pool2d", _with(_last_tie), 8, keep_x=True),
    Mutant("dy to the whole window", "max_pool2d", _with(lambda r, dy, h: ((jnp.zeros_like(r[0]), r[1]), dy, h))),
    Mutant("the buffer not zeroed", "max_pool2d", spoil(0, lambda g, r, dy, h: g + 1)),
    Mutant("the buffer keeps the last dy", "max_pool2d", spoil(0, lambda g, r, dy, h: g + 0.5 * dy.mean())),
    Mutant("the tap's column alone", "max_pool2d", _with(lambda r, dy, h: ((r[0] % 2, r[1]), dy, h)), 2),
    Mutant("swapped padding", "max_pool2d", _with(lambda r, dy, h: (r, dy, _swapped(h))), 4),
    Mutant("mean not divided", "avg_pool2d", spoil(0, lambda g, r, dy, h: 4 * g)),
    Mutant("mean divided twice", "avg_pool2d", spoil(0, lambda g, r, dy, h: g / 4)),
    Mutant("corner wrong by 0.1 %", "avg_pool2d", spoil(0, lambda g, r, dy, h: g.at[0, 0, 0, 0].mul(1.001))),
    Mutant("padding not counted", "avg_pool2d", spoil(0, _by_count), 3),
    Mutant("windows assigned", "avg_pool2d", lambda b, r, dy, **h: (
        jnp.minimum(b(r, jnp.ones_like(dy), **h)[0], 1 / 6) * b(r, dy, **h)[0],), 1),
    Mutant("rows and columns exchanged", "avg_pool2d", spoil(0, lambda g, r, dy, h: g[:, ::-1]), 2),
    Mutant("swapped padding", "avg_pool2d", _with(lambda r, dy, h: (r, dy, _swapped(h))), 4),
    Mutant("batch averaged twice", "dense", spoil(1, lambda g, r, dy, h: g / len(dy))),
    Mutant("broadcast bias not summed", "dense", spoil(2, lambda g, r, dy, h: dy)),
    Mutant("bias averaged", "dense", spoil(2, lambda g, r, dy, h: g / len(dy))),
    Mutant("bias of the first sample", "dense", spoil(2, lambda g, r, dy, h: dy[0])),
    Mutant("dweight transposed", "dense", spoil(1, lambda g, r, dy, h: g.T)),
    Mutant("dweight unrolled by columns", "dense", spoil(1, lambda g, r, dy, h: g.T.reshape(g.shape))),
    Mutant("inputs' absolute values", "dense", spoil(1, lambda g, r, dy, h: jnp.abs(r[0]).T @ dy)),
    Mutant("weight decay in the rule", "dense", spoil(1, lambda g, r, dy, h: g + 1e-4 * r[1])),
    Mutant("dx stopped", "dense", spoil(0, lambda g, r, dy, h: 0 * g)),
    Mutant("sign of relu", "relu", spoil(0, lambda g, r, dy, h: dy - g)),
    Mutant("leaks", "relu", spoil(0, lambda g, r, dy, h: jnp.where(r > 0, dy, 0.01 * dy))),
    Mutant("everything passes", "relu", spoil(0, lambda g, r, dy, h: dy)),
    Mutant("clipped", "relu", spoil(0, lambda g, r, dy, h: jnp.clip(g, -1, 1))),
    Mutant("wrong dtype", "relu", spoil(0, lambda g, r, dy, h: g.astype(jnp.float32))),
    Mutant("the output for dy", "relu", spoil(0, lambda g, r, dy, h: r * dy)),
    Mutant("y instead of y (1 - y)", "sigmoid", spoil(0, lambda g, r, dy, h: dy * r)),
    Mutant("f' of y", "sigmoid", spoil(0, lambda g, r, dy, h: dy * jax.nn.sigmoid(r) * (1 - jax.nn.sigmoid(r)))),
    Mutant("f' twice", "sigmoid", spoil(0, lambda g, r, dy, h: g * r * (1 - r))),
    Mutant("dy forgotten", "sigmoid", spoil(0, lambda g, r, dy, h: r * (1 - r))),
    Mutant("1 - y", "tanh", spoil(0, lambda g, r, dy, h: dy * (1 - r))),
    Mutant("1 + y^2", "tanh", spoil(0, lambda g, r, dy, h: dy * (1 + r * r))),
    Mutant("sigmoid's f'", "tanh", spoil(0, _half)),
    Mutant("scale forgotten", "scaled_tanh", spoil(0, lambda g, r, dy, h: dy * (1.7159 - r * r / 1.7159))),
    Mutant("tanh's f'", "scaled_tanh", spoil(0, lambda g, r, dy, h: dy * (1 - r * r))),
    Mutant("amplitude twice", "scaled_tanh", spoil(0, lambda g, r, dy, h: 1.7159 * g)),
    Mutant("mean not divided", "global_avg_pool2d", spoil(0, lambda g, r, dy, h: 20 * g)),
    Mutant("divided by the rows alone", "global_avg_pool2d", spoil(0, lambda g, r, dy, h: 4 * g)),
    Mutant("the last entry forgotten", "global_avg_pool2d", spoil(0, lambda g, r, dy, h: g.at[:, -1, -1].set(0))),
    Mutant("maps averaged too", "global_avg_pool2d", spoil(
        0, lambda g, r, dy, h: jnp.broadcast_to(g.mean(-1, keepdims=True), g.shape))),
    Mutant("every tie the full gradient", "global_max_pool2d", spoil(
        0, lambda g, r, dy, h: jnp.where(r[1] == r[1].max((1, 2), keepdims=True), dy[:, None, None], 0)),
        2, keep_x=True),
    Mutant("ties share it", "global_max_pool2d", spoil(0, lambda g, r, dy, h: jax.vjp(
        lambda x: x.max((1, 2)), r[1])[1](dy)[0]), 2, keep_x=True),
    Mutant("the last tie owns it", "global_max_pool2d", _with(lambda r, dy, h: (((
        19 - r[1].reshape(2, 20, 3)[:, ::-1].argmax(1).astype(r[0][0].dtype), r[0][1]), r[1]), dy, h)),
        2, keep_x=True),
    Mutant("dy to the whole map", "global_max_pool2d", spoil(
        0, lambda g, r, dy, h: jnp.broadcast_to(dy[:, None, None], g.shape))),
    Mutant("rows and columns exchanged", "global_max_pool2d", spoil(
        0, lambda g, r, dy, h: g.swapaxes(1, 2).reshape(g.shape)), 1),
    Mutant("no leak", "leaky_relu", spoil(0, lambda g, r, dy, h: jnp.where(r > 0, dy, 0 * dy))),
    Mutant("the default slope", "leaky_relu", _with(lambda r, dy, h: (r, dy, h | {"slope": 0.01})), 2),
    Mutant("slope on both sides", "leaky_relu", spoil(0, lambda g, r, dy, h: h["slope"] * dy), 2),
    Mutant("sides exchanged", "leaky_relu", _with(lambda r, dy, h: (-r, dy, h))),
    Mutant("1 at the kink", "leaky_relu", spoil(0, lambda g, r, dy, h: jnp.where(r == 0, dy, g)), 1),
    Mutant("relu6 without u", "hard_swish", spoil(0, lambda g, r, dy, h: dy * jnp.clip(r + 3, 0, 6) / 6)),
    Mutant("u for 2u", "hard_swish", spoil(0, lambda g, r, dy, h: jnp.where(jnp.abs(r) < 3, dy * (r + 3) / 6, g))),
    Mutant("the middle everywhere", "hard_swish", spoil(0, lambda g, r, dy, h: dy * (2 * r + 3) / 6)),
    Mutant("silu's", "hard_swish", spoil(0, lambda g, r, dy, h: dy * jax.vmap(jax.grad(jax.nn.silu))(
        r.ravel()).reshape(r.shape))),
    Mutant("alpha forgotten", "elu", spoil(0, lambda g, r, dy, h: jnp.where(r > 0, dy, dy * (r + 1))), 2),
    Mutant("y without alpha", "elu", spoil(0, lambda g, r, dy, h: jnp.where(r > 0, dy, dy * r))),
    Mutant("alpha on both sides", "elu", spoil(0, lambda g, r, dy, h: jnp.where(r > 0, h["alpha"] * dy, g)), 2),
    Mutant("1 at the kink", "elu", spoil(0, lambda g, r, dy, h: jnp.where(r == 0, dy, g)), 1),
    Mutant("Phi alone", "gelu", spoil(0, lambda g, r, dy, h: dy * jax.scipy.stats.norm.cdf(r))),
    Mutant("phi without u", "gelu", spoil(0, lambda g, r, dy, h: dy * (
        jax.scipy.stats.norm.cdf(r) + jax.scipy.stats.norm.pdf(r)))),
    Mutant("the approximation's", "gelu", spoil(0, lambda g, r, dy, h: jax.vjp(
        lambda u: jax.nn.gelu(u, approximate=True), r)[1](dy)[0])),
    Mutant("the exact one's", "gelu_tanh", spoil(0, lambda g, r, dy, h: jax.vjp(
        lambda u: jax.nn.gelu(u, approximate=False), r)[1](dy)[0])),
    Mutant("v' without u^2", "gelu_tanh", spoil(0, lambda g, r, dy, h: _of_gelu_tanh(r, dy, 0))),
    Mutant("c for 3 c", "gelu_tanh", spoil(0, lambda g, r, dy, h: _of_gelu_tanh(r, dy, 0.044715))),
    Mutant("sigmoid alone", "silu", spoil(0, lambda g, r, dy, h: dy * jax.nn.sigmoid(r))),
    Mutant("sigmoid's f' alone", "silu", spoil(
        0, lambda g, r, dy, h: dy * r * jax.nn.sigmoid(r) * jax.nn.sigmoid(-r))),
    Mutant("f' of y", "silu", _with(lambda r, dy, h: (r * jax.nn.sigmoid(r), dy, h))),
    Mutant("sigmoid of y", "softplus", spoil(0, lambda g, r, dy, h: dy * jax.nn.sigmoid(r))),
    Mutant("e^-y", "softplus", spoil(0, lambda g, r, dy, h: dy - g)),
    Mutant("relu's", "softplus", spoil(0, lambda g, r, dy, h: jnp.where(r > jnp.log(2), dy, 0 * dy))),
    Mutant("a new draw of the position", "stochastic_pool2d", _with(
        lambda r, dy, h: ((jnp.full_like(r[0], 1), r[1]), dy, h))),
    Mutant("the first position always", "stochastic_pool2d", _with(
        lambda r, dy, h: ((jnp.zeros_like(r[0]), r[1]), dy, h))),
    Mutant("divided by the window", "stochastic_pool2d", spoil(0, lambda g, r, dy, h: g / 6)),
    Mutant("p for (2 a - y) / sum a", "expected_pool2d", lambda b, r, dy, **h: (
        b(r, dy, **h)[0] - b((0 * r[0], *r[1:]), dy, **h)[0],)),
    Mutant("a for 2 a", "expected_pool2d", _with(lambda r, dy, h: ((r[0] / 2, *r[1:]), dy, h))),
    Mutant("not divided by sum a", "expected_pool2d", _with(
        lambda r, dy, h: ((*r[:2], jnp.ones_like(r[2])), dy, h))),
    Mutant("one entry owns an even window's median", "median_pool2d", _with(
        lambda r, dy, h: ((r[0].at[1].set(r[0][0]), r[1]), dy, h))),
    Mutant("the full gradient twice", "median_pool2d", spoil(0, lambda g, r, dy, h: 2 * g)),
    Mutant("the next entry", "median_pool2d", spoil(0, lambda g, r, dy, h: jnp.roll(g, 1, 2)), 1),
    Mutant("beta forgotten", "subsample2d", _with(lambda r, dy, h: ((r[0], jnp.ones_like(r[1]), r[2]), dy, h))),
    Mutant("dbeta without down", "subsample2d", spoil(1, lambda g, r, dy, h: dy.sum((0, 1, 2)))),
    Mutant("dx divided by the window", "subsample2d", spoil(0, lambda g, r, dy, h: g / 6)),
    Mutant("bias of the first sample", "subsample2d", spoil(2, lambda g, r, dy, h: dy[0].sum((0, 1)))),
    Mutant("blocks averaged", "upsample2d_nearest", spoil(0, lambda g, r, dy, h: g / 6)),
    Mutant("the first copy alone", "upsample2d_nearest", spoil(0, lambda g, r, dy, h: dy[:, ::2, ::3])),
    Mutant("copies beside, not in blocks", "upsample2d_nearest", spoil(
        0, lambda g, r, dy, h: dy.reshape(2, 2, 4, 3, 3, 3).sum((1, 3)))),
    Mutant("the last column forgotten", "upsample2d_nearest", spoil(
        0, lambda g, r, dy, h: upsample.downsample(dy.at[:, :, -1].set(0), (2, 3)))),
    Mutant("nearest's", "upsample2d_bilinear", spoil(0, lambda g, r, dy, h: upsample.downsample(dy, (2, 3)))),
    Mutant("corners aligned", "upsample2d_bilinear", _interpolated(
        lambda n, f: np.linspace(0, n - 1, n * f))),
    Mutant("edge faded, not repeated", "upsample2d_bilinear", _interpolated(
        lambda n, f: (np.arange(n * f) + 0.5) / f - 0.5)),
    Mutant("corner for centre", "upsample2d_bilinear", _interpolated(
        lambda n, f: np.clip(np.arange(n * f) / f, 0, n - 1))),
    Mutant("divided by the factors", "upsample2d_bilinear", spoil(0, lambda g, r, dy, h: g / 6)),
    Mutant("alpha's gradient for c's", "combine_maps", spoil(
        2, lambda g, r, dy, h: jnp.einsum("npqi,npqj->ij", r[2], dy))),
    Mutant("alpha not transposed into dx", "combine_maps", lambda b, r, dy, **h: (
        b((*r[:3], r[3][:, ::-1]), dy, **h)[0], *b(r, dy, **h)[1:])),
    Mutant("kernels rotated", "combine_maps", spoil(1, lambda g, r, dy, h: g[::-1, ::-1])),
    Mutant("projected over the maps", "combine_maps", spoil(2, lambda g, r, dy, h: g - g.mean(1, keepdims=True))),
    Mutant("m and v as constants", "batch_norm", spoil(0, lambda g, r, dy, h: r[3] * dy / jnp.sqrt(r[2] + 1e-5))),
    Mutant("v as a constant", "batch_norm", spoil(
        0, lambda g, r, dy, h: r[3] * (dy - dy.mean((0, 1, 2))) / jnp.sqrt(r[2] + 1e-5))),
    Mutant("epsilon forgotten", "batch_norm", lambda b, r, dy, **h: b(r, dy, epsilon=1e-12), 1),
    Mutant("unbiased variance", "batch_norm", _with(lambda r, dy, h: ((*r[:2], r[2] * 30 / 29, *r[3:]), dy, h))),
    Mutant("scale of dx forgotten", "batch_norm", spoil(0, lambda g, r, dy, h: g / r[3])),
    Mutant("dscale of x, not xh", "batch_norm", spoil(1, lambda g, r, dy, h: (dy * r[0]).sum((0, 1, 2)))),
    Mutant("1/N forgotten", "batch_norm", spoil(2, lambda g, r, dy, h: g / 30)),
    Mutant("scale after the means", "layer_norm", lambda b, r, dy, **h: (
        b((*r[:3], jnp.ones_like(r[3])), dy, **h)[0] * r[3], *b(r, dy, **h)[1:])),
    Mutant("v as a constant", "layer_norm", spoil(
        0, lambda g, r, dy, h: (r[3] * dy - (r[3] * dy).mean(-1, keepdims=True)) / jnp.sqrt(r[2] + 1e-5))),
    Mutant("dbias of the first sample", "layer_norm", spoil(2, lambda g, r, dy, h: dy[0].sum((0, 1)))),
    Mutant("means over the batch, too", "instance_norm", spoil(0, lambda g, r, dy, h: g - g.mean((0, 1, 2)) + 1e-3)),
    Mutant("m as a constant", "instance_norm", spoil(
        0, lambda g, r, dy, h: g + r[3] * dy.mean((1, 2), keepdims=True) / jnp.sqrt(r[2] + 1e-5))),
    Mutant("dscale of each sample", "instance_norm", spoil(1, lambda g, r, dy, h: g / len(dy))),
    Mutant("groups of every second channel", "group_norm", spoil(
        0, lambda g, r, dy, h: g.reshape(*g.shape[:-1], h["groups"], -1).swapaxes(-1, -2).reshape(g.shape))),
    Mutant("dscale by groups", "group_norm", spoil(1, lambda g, r, dy, h: jnp.repeat(
        g.reshape(h["groups"], -1).mean(1), len(g) // h["groups"]))),
    Mutant("scale after the means", "group_norm", lambda b, r, dy, **h: (
        b((*r[:3], jnp.ones_like(r[3])), dy, **h)[0] * r[3], *b(r, dy, **h)[1:])),
    Mutant("as in training", "fixed_batch_norm", spoil(0, lambda g, r, dy, h: g - g.mean((0, 1, 2)))),
    Mutant("constants", "fixed_batch_norm", spoil(3, lambda g, r, dy, h: 0 * g)),
    Mutant("1/2 forgotten", "fixed_batch_norm", spoil(4, lambda g, r, dy, h: 2 * g)),
    Mutant("epsilon forgotten", "fixed_batch_norm", lambda b, r, dy, **h: b(r, dy, epsilon=1e-12), 1),
    Mutant("sign forgotten", "l1_penalty", spoil(0, lambda g, r, dy, h: dy * r)),
    Mutant("absolute values", "l1_penalty", spoil(0, lambda g, r, dy, h: jnp.abs(g))),
    Mutant("averaged", "l1_penalty", spoil(0, lambda g, r, dy, h: g / g.size)),
    Mutant("without H", "entropy_penalty", spoil(0, lambda g, r, dy, h: -dy * jnp.exp(r[0]) * r[0])),
    Mutant("wrong sign", "entropy_penalty", spoil(0, lambda g, r, dy, h: -g)),
    Mutant("alpha forgotten", "entropy_penalty", spoil(0, lambda g, r, dy, h: -dy * (r[0] + r[1]))),
    Mutant("diagonal only", "softmax", spoil(0, _half)),
    Mutant("sum over the batch", "softmax", spoil(0, lambda g, r, dy, h: r * (dy - (dy * r).sum(0, keepdims=True)))),
    Mutant("not projected", "softmax", spoil(0, lambda g, r, dy, h: r * dy)),
    Mutant("y forgotten in the sum", "softmax", spoil(0, lambda g, r, dy, h: r * (dy - dy.sum(-1, keepdims=True)))),
    Mutant("the factor forgotten", "scale", spoil(0, lambda g, r, dy, h: dy)),
    Mutant("dfactor without x", "scale", spoil(1, lambda g, r, dy, h: dy.sum((0, 1, 2)))),
    Mutant("dfactor of y", "scale", spoil(1, lambda g, r, dy, h: g * r[1])),
    Mutant("dfactor of the first sample", "scale", spoil(1, lambda g, r, dy, h: (dy * r[0])[0].sum((0, 1)))),
    Mutant("cut from the other side", "crop2d", spoil(0, lambda g, r, dy, h: jnp.roll(g, 1, 1))),
    Mutant("rows and columns exchanged", "crop2d", spoil(0, lambda g, r, dy, h: g.swapaxes(1, 2).reshape(g.shape))),
    Mutant("the edge repeated", "crop2d", spoil(0, lambda g, r, dy, h: jnp.pad(
        dy, ((0, 0), h["rows"], h["columns"], (0, 0)), mode="edge"))),
    Mutant("padding lo and hi swapped", "pad2d", spoil(0, lambda g, r, dy, h: dy[:, 2:-1, 3:])),
    Mutant("the zeros' dy added to the edge", "pad2d", spoil(
        0, lambda g, r, dy, h: g.at[:, 0].add(dy[:, 0, :-3]))),
    Mutant("averaged over the padded map", "pad2d", spoil(0, lambda g, r, dy, h: g * 12 / 42)),
    Mutant("map by map", "flatten", spoil(0, lambda g, r, dy, h: g.swapaxes(1, -1).reshape(g.shape))),
    Mutant("from the end", "flatten", spoil(0, lambda g, r, dy, h: g[:, ::-1, ::-1, ::-1])),
    Mutant("batch mixed in", "flatten", spoil(0, lambda g, r, dy, h: dy.T.reshape(g.shape))),
    Mutant("for the first alone", "add", spoil(1, lambda g, r, dy, h: 0 * g)),
    Mutant("shared out", "add", lambda backward, r, dy: (dy / 2, dy / 2)),
    Mutant("a difference", "add", spoil(1, lambda g, r, dy, h: -g)),
    Mutant("from the front", "concatenate", spoil(1, lambda g, r, dy, h: dy[..., :g.shape[-1]])),
    Mutant("one channel too early", "concatenate", spoil(1, lambda g, r, dy, h: dy[..., -1 - g.shape[-1]:-1])),
    Mutant("a's channels reversed", "concatenate", spoil(0, lambda g, r, dy, h: g[..., ::-1])),
    Mutant("of the factor itself", "multiply", lambda backward, r, dy: (dy * r[0], dy * r[1])),
    Mutant("the first factor alone", "multiply", spoil(1, lambda g, r, dy, h: dy)),
    Mutant("the mean over a map", "multiply", spoil(0, lambda g, r, dy, h: g / 15), 1),
    Mutant("the gate forgotten", "multiply", spoil(1, lambda g, r, dy, h: dy), 1),
    Mutant("one entry of a map", "multiply", spoil(1, lambda g, r, dy, h: (dy * r[0])[:, :1, :1]), 2),
    Mutant("not divided by 1 - rate", "dropout", spoil(0, lambda g, r, dy, h: g * (1 - h["rate"])), 1),
    Mutant("a new draw", "dropout", _with(
        lambda r, dy, h: (jax.random.bernoulli(jax.random.key(9), 1 - h["rate"], dy.shape), dy, h)), 1),
    Mutant("kept and dropped exchanged", "dropout", _with(lambda r, dy, h: (~r, dy, h)), 1),
    Mutant("no mask", "dropout", spoil(0, lambda g, r, dy, h: dy), 1),
    Mutant("1/N twice", "squared_error", spoil(0, lambda g, r, dy, h: g / len(g))),
    Mutant("1/N forgotten", "squared_error", spoil(0, lambda g, r, dy, h: g * len(g))),
    Mutant("the square's 2", "squared_error", spoil(0, lambda g, r, dy, h: 2 * g)),
    Mutant("targets get the outputs' gradient", "squared_error", spoil(1, lambda g, r, dy, h: -g)),
    Mutant("p - t for any t", "softmax_cross_entropy", spoil(
        0, lambda g, r, dy, h: dy * (jnp.exp(r[0]) - r[1]) / len(g)), 4),
    Mutant("1/N forgotten", "softmax_cross_entropy", spoil(0, lambda g, r, dy, h: g * len(g))),
    Mutant("p alone", "softmax_cross_entropy", spoil(0, lambda g, r, dy, h: dy * jnp.exp(r[0]) / len(g))),
    Mutant("classes counted from 1", "softmax_cross_entropy", spoil(
        0, lambda g, r, dy, h: dy * (jnp.exp(r[0]) - one_hot((r[1] + 1) % 4, 4, g.dtype)) / len(g))),
    Mutant("targets without gradient", "softmax_cross_entropy", spoil(1, lambda g, r, dy, h: 0 * g), 2),
    Mutant("targets get p", "softmax_cross_entropy", spoil(1, lambda g, r, dy, h: -dy * jnp.exp(r[0]) / len(g)), 2),
    Mutant("1/N for every pixel", "softmax_cross_entropy", spoil(0, lambda g, r, dy, h: g * r[3].size / len(g)), 7),
    Mutant("weights forgotten", "softmax_cross_entropy", spoil(0, lambda g, r, dy, h: dy * (
        jnp.exp(r[0]) - one_hot(r[1], 5, g.dtype)) / r[2].sum()), 8),
    Mutant("weights twice", "softmax_cross_entropy", spoil(0, lambda g, r, dy, h: g * r[2][..., None]), 8),
    Mutant("divided by the number", "softmax_cross_entropy", spoil(
        0, lambda g, r, dy, h: g * r[2].sum() / r[2].size), 8),
    Mutant("targets without weights", "softmax_cross_entropy", spoil(
        1, lambda g, r, dy, h: -dy * r[0] / r[2].sum()), 5),
    Mutant("e for e - E", "softmax_cross_entropy", spoil(2, lambda g, r, dy, h: dy * r[3] / r[2].sum()), 8),
    Mutant("e - E for e", "softmax_cross_entropy", spoil(
        2, lambda g, r, dy, h: g - dy * (r[2] * r[3]).sum() / r[2].sum()), 9),
    Mutant("no gradient of a weight 0", "softmax_cross_entropy", spoil(
        2, lambda g, r, dy, h: jnp.where(r[2] == 0, 0 * g, g)), 9),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Who saw the fault of a mutant: our failed checks, and the two others (None: not installed)."""

    mutant: Mutant
    checks: tuple[str, ...]
    note: str
    check_grads: bool
    chex: bool | None


def examine(mutant: Mutant, *, differences: bool = True, dtypes=("float64",)) -> Report:
    """Our report on a mutant."""
    problem, case = mutant.problem()
    name = f"{mutant.op}: {mutant.fault}"
    return check_problem(problem, case, mutant.case, name, differences=differences, dtypes=dtypes)


def outcomes() -> Iterator[Outcome]:
    """Every mutant before the three checkers."""
    for mutant in MUTANTS:
        report = examine(mutant)
        failed = [check for check in report.checks if check.verdict == "FAILED"]
        problem, _ = mutant.problem()
        checks = tuple(dict.fromkeys(check.oracle for check in failed))
        note = next((check.note for check in failed if check.note), "")
        yield Outcome(mutant, checks, note, refuses_check_grads(problem), refuses_chex(problem))


def refuses_check_grads(problem: Problem) -> bool:
    """Whether `jax.test_util.check_grads`, in float64 and with its own tolerances, raises."""
    from jax.test_util import check_grads

    return _raises(problem, lambda f, values: check_grads(f, values, order=1, modes=["rev"]))


def refuses_chex(problem: Problem) -> bool | None:
    """Whether `chex.assert_numerical_grads` raises; None where chex is not installed."""
    try:
        from chex import assert_numerical_grads  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return _raises(problem, lambda f, values: assert_numerical_grads(f, values, order=1, modes=["rev"]))


def _raises(problem, checker):
    with jax.enable_x64(True), contextlib.redirect_stdout(io.StringIO()):
        values = tuple(problem.values(np.float64))
        state = np.random.get_state()  # noqa: NPY002  check_grads draws its direction from the global generator
        np.random.seed(0)  # noqa: NPY002
        try:
            checker(lambda *v: problem.value(v), values)
        except Exception:
            return True
        finally:
            np.random.set_state(state)  # noqa: NPY002
    return False


def false_alarms() -> dict[str, tuple[int, int] | None]:
    """Of the right rules, one for each case of each operation: how many each of the three refuses, of how many."""
    cases = [(entry.op, case, seed) for entry in OPERATIONS.values() for seed, case in enumerate(entry.cases)]
    problems = [problem_of(*case) for case in cases]
    ours = [
        check_problem(problem, case, seed, op.name, dtypes=("float64",)).failed
        for problem, (op, case, seed) in zip(problems, cases, strict=True)
    ]
    chex = [refuses_chex(problem) for problem in problems]
    return {
        "jaxcnn": (sum(ours), len(problems)),
        "check_grads": (sum(map(refuses_check_grads, problems)), len(problems)),
        "chex": None if None in chex else (sum(map(bool, chex)), len(problems)),
    }


def mutant_table(found: list[Outcome], alarms: dict[str, tuple[int, int] | None]) -> str:
    """A line for each mutant, the totals and the false alarms."""

    def word(caught):
        return "not run" if caught is None else "caught" if caught else "missed"

    head = f"{'operation':22} {'fault':34} {'jaxcnn':8} {'check_grads':12} {'chex':8} caught by"
    lines = [head, "-" * len(head)]
    for o in found:
        ours = word(bool(o.checks))
        by = ", ".join(o.checks) + (f": {o.note}" if o.note else "")
        lines.append(
            f"{o.mutant.op:22} {o.mutant.fault:34} {ours:8} {word(o.check_grads):12} {word(o.chex):8} {by}".rstrip()
        )
    total = len(found)
    lines.append(f"caught: jaxcnn {sum(bool(o.checks) for o in found)} of {total}, "
                 f"check_grads {sum(o.check_grads for o in found)} of {total}, "
                 + ("chex is not installed (pip install '.[peers]' in a checkout)" if found and found[0].chex is None
                    else f"chex {sum(bool(o.chex) for o in found)} of {total}"))  # fmt: skip
    for name, alarm in alarms.items():
        if alarm is not None:
            lines.append(f"false alarms of {name} on the right rules: {alarm[0]} of {alarm[1]} cases")
    return "\n".join(lines)
