"""One SGD step with a measurement of the samples beside it: ours, plain JAX's, the peers', and what they must find."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import lax_nets
from benchmarks.speed.nets import LOSS, RATE, Task
from benchmarks.speed.peers import module_of
from benchmarks.speed.timing import Variant, compiled, in_turn
from jaxcnn.geometry import resolve
from jaxcnn.layers.base import Layer, Params, walk
from jaxcnn.layers.conv import Conv2d
from jaxcnn.measure import clipped_gradient, each_layer, gradient_norms, kfac, sample_gradients
from jaxcnn.training import gradients

CHUNK = 32
FIRST_AND_LAST = (0, -1)  # the samples whose gradients are compared
PARTS = {  # of the answer
    "plain": ("gradient",),
    "samples": ("gradient", "samples"),
    "norms": ("gradient", "norms"),
    "clipped": ("clipped",),
    "kfac": ("gradient", "inputs"),
}
Parts = dict[str, list[np.ndarray]]
Way = Callable[[Layer, float, Params, Any, Any], tuple[Params, dict[str, Any]]]  # network, limit, params, x, labels


def truth_of(task: Task) -> tuple[Parts, float]:
    """What all must find, by `jax.grad` of each sample's loss in float64, in chunks; and the limit for the clipped.

    That is the median norm of the first chunk: about half of the samples are clipped.
    """
    each_of = jax.jit(partial(_each_by_vmap, task.network))
    found, limit = [], 0.0
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        params, x = jax.tree.map(partial(jnp.asarray, dtype=jnp.float64), (task.params, task.x))
        for i in range(0, len(x), CHUNK):
            each = task.flat(each_of(params, x[i : i + CHUNK], task.labels[i : i + CHUNK]))
            norms = np.sqrt(sum((g.reshape(len(g), -1) ** 2).sum(axis=1) for g in each))
            limit = limit or float(np.median(norms))
            factors = np.minimum(1, limit / norms)
            sums = [g.sum(axis=0) for g in each], [np.tensordot(factors, g, 1) for g in each]
            found.append((norms, *sums, [g[0] for g in each], [g[-1] for g in each]))
    norms, summed, clipped, first, last = zip(*found, strict=True)
    means = [[sum(arrays) / len(task.x) for arrays in zip(*sums, strict=True)] for sums in (summed, clipped)]
    samples = [*first[0], *last[-1]]
    found = {"gradient": means[0], "norms": [np.concatenate(norms)], "clipped": means[1], "samples": samples}
    return found | {"inputs": in_any_order(inputs_in_float64(task))}, limit


def inputs_in_float64(task: Task) -> list[np.ndarray]:
    """Of each layer 1/N sum of a a^T, a what one entry of its output sees, over samples and positions: (D, D).

    The factor of the outputs is one of drawn labels: it differs from draw to draw, and is not compared.
    """

    def factor(layer, params, residuals, dy, context):
        a = context.x
        if not params:
            return {}
        if isinstance(layer, Conv2d):
            size = params["weight"].shape[:2]
            window = resolve("conv2d", a.shape[1:3], size, stride=layer.stride, padding=layer.padding)
            a = jax.lax.conv_general_dilated_patches(
                a, size, window.stride, window.padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        a = a.reshape(-1, a.shape[-1])
        return {"inputs": a.T @ a / len(dy)}

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        params, x = jax.tree.map(partial(jnp.asarray, dtype=jnp.float64), (task.params, task.x))
        found = each_layer(task.network, LOSS, params, x, task.labels, factor)
        return [np.asarray(of_layer["inputs"]) for of_layer in found.values() if of_layer]


def in_any_order(factors: list[np.ndarray]) -> list[np.ndarray]:
    """Trace and L2 norm of each: the same in whatever order the entries of an input are.

    >>> in_any_order([np.array([[3.0, 0.0], [0.0, 4.0]])])
    [array([7., 5.])]
    """
    return [np.array([np.trace(factor), np.linalg.norm(factor)], np.float64) for factor in factors]


def plain(network: Layer, limit: float, params: Params, x, labels):
    """Nothing is measured."""
    return gradients(network, LOSS, params, x, labels)[0], {}


def our_samples(network: Layer, limit: float, params: Params, x, labels):
    """The update is by the mean of the samples' gradients."""
    each = sample_gradients(network, LOSS, params, x, labels)
    return _mean(each), {"samples": each}


def our_norms(network: Layer, limit: float, params: Params, x, labels):
    """The gradient comes with the norms."""
    found = gradient_norms(network, LOSS, params, x, labels)
    return found.grads, {"norms": found.norms}


def our_clipped(network: Layer, limit: float, params: Params, x, labels):
    """The N-th part of the clipped sum."""
    summed, norms = clipped_gradient(network, LOSS, params, x, labels, limit)
    return jax.tree.map(lambda g: g / len(x), summed), {"norms": norms}


def our_kfac(network: Layer, limit: float, params: Params, x, labels):
    """The factors by one draw of the labels, beside the gradient of the batch."""
    factors = kfac(network, LOSS, params, x, labels, fisher="model", key=jax.random.key(0))
    return plain(network, limit, params, x, labels)[0], {"factors": factors}


def _of_inputs(task: Task, factors) -> list[np.ndarray]:
    """Of each layer the factor (D, D) of its inputs, summed over positions, without a bias' 1, from `kfac`'s."""
    found = []
    for name, _, params in walk(task.network, task.params):
        if params:
            D = params["weight"].size // params["weight"].shape[-1]
            found.append(np.asarray(factors[name].positions * factors[name].A[:D, :D]))
    return found


def plain_samples(network: Layer, limit: float, params: Params, x, labels):
    """By `vmap(grad)`."""
    each = _each_by_vmap(network, params, x, labels)
    return _mean(each), {"samples": each}


def plain_norms(network: Layer, limit: float, params: Params, x, labels):
    """By `vmap(grad)`."""
    each = _each_by_vmap(network, params, x, labels)
    return _mean(each), {"norms": _norms(each)}


def plain_clipped(network: Layer, limit: float, params: Params, x, labels):
    """By `vmap(grad)`."""
    each = _each_by_vmap(network, params, x, labels)
    norms = _norms(each)
    factors = jnp.minimum(1, limit / norms) / len(x)
    return jax.tree.map(lambda g: jnp.tensordot(factors, g, 1), each), {"norms": norms}


OURS: dict[str, Way] = {"samples": our_samples, "norms": our_norms, "clipped": our_clipped, "kfac": our_kfac}
PLAIN_JAX: dict[str, Way] = {"samples": plain_samples, "norms": plain_norms, "clipped": plain_clipped}


def step_program(way: Way, options: dict | None, task: Task, limit: float) -> Any:
    """A compiled step: `(params, x, labels, rate)` to the new parameters and what was found beside."""

    def step(params, x, labels, rate):
        grads, found = way(task.network, limit, params, x, labels)
        return jax.tree.map(lambda w, g: w - rate * g, params, grads), found

    return compiled(step, options, task.params, task.x, task.labels, jnp.float32(RATE))[0]


def step_variant(name: str, measure: str, program: Any, task: Task) -> Variant:
    """The step as a variant: the very program that is timed is checked, with a rate beside which parameters vanish."""

    def answer() -> Parts:
        params, found = program(task.params, task.x, task.labels, jnp.float32(2.0**20))
        old, new = task.flat(task.params), task.flat(params)
        gradient = [(before - after) / 2.0**20 for before, after in zip(old, new, strict=True)]
        parts = {"clipped" if measure == "clipped" else "gradient": gradient}
        if "norms" in found:
            parts["norms"] = [np.asarray(found["norms"])]
        if "samples" in found:
            each = [jax.tree.map(lambda g, i=i: g[i], found["samples"]) for i in FIRST_AND_LAST]
            parts["samples"] = [array for tree in each for array in task.flat(tree)]
        if "factors" in found:
            parts["inputs"] = in_any_order(_of_inputs(task, found["factors"]))
        return parts

    return Variant(name, in_turn(partial(program, task.params, task.x, task.labels, jnp.float32(RATE))), answer)


def fill_variant(task: Task) -> Variant:
    """No step, and nothing to check: the time to write as many floats as all samples' gradients have."""

    def fill(value):
        return jax.tree.map(lambda w: jnp.full((len(task.x), *w.shape), value), task.params)

    program, _ = compiled(fill, None, jnp.float32(0))
    return Variant("fill", in_turn(partial(program, jnp.float32(1))), dict)


def peer_variants(peer: str, measure: str, task: Task, limit: float) -> list[Variant]:
    """The peer's steps, in its child."""
    return module_of(peer).variants(measure, task, limit)


def checked_by(variant: Variant, parts: tuple[str, ...], truth: Parts) -> Variant:
    """The variant with its answer in these parts; what it is not asked for is right."""

    def answer():
        found: Any = variant.answer()
        return truth | {name: found[name] for name in parts}

    return dataclasses.replace(variant, answer=answer)


def _each_by_vmap(network, params, x, labels):
    def of_one(params, x, label):
        return lax_nets.loss(network, params, x[None], label[None])[0]

    return jax.vmap(jax.grad(of_one), (None, 0, 0))(params, x, labels)


def _mean(each):
    """As a product: XLA's sum over the first axis takes fifty times as long on CPU."""
    return jax.tree.map(lambda g: jnp.tensordot(jnp.full(len(g), 1 / len(g), g.dtype), g, 1), each)


def _norms(each):
    return jnp.sqrt(sum((g.reshape(len(g), -1) ** 2).sum(axis=1) for g in jax.tree.leaves(each)))
