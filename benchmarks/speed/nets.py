"""Whole networks: one SGD step, evaluation, compilation, what is kept from forward to backward, growth."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from math import prod, sqrt

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.errors import InputError
from jaxcnn.inspect.summary import summary
from jaxcnn.kernels import compiler_options, onednn
from jaxcnn.layers.activation import ReLU
from jaxcnn.layers.base import Layer, Params, Shape, rebuild
from jaxcnn.layers.conv import Conv2d
from jaxcnn.layers.rewrite import relu_after_pool
from jaxcnn.layers.sequential import Sequential
from jaxcnn.layers.statistics import MOMENTUM, Statistics, init_statistics, merged, moving_statistics
from jaxcnn.losses import SoftmaxCrossEntropy
from jaxcnn.training import gradients
from jaxcnn.zoo.models import find_model

from . import lax_nets
from .children import Child
from .peers import brought_back, flat, module_of, weights_of
from .precision import Precision, precisions
from .timing import Answer, Row, Variant, compiled, compiled_variant, in_turn, measure

NETS = ("lenet28", "cnn28", "vgg32", "resnet32", "resnet20")
BATCH, OTHER_BATCHES, GROWTH_BATCH = 128, (1, 32, 512), 32
RATE, STEPS, CHUNK, COMPILATIONS = 0.01, 4, 32, 3
LOSS = SoftmaxCrossEntropy()
EPS = float(np.finfo(np.float32).eps)
Parts = dict[str, list[np.ndarray]]  # of the answer of a step: "gradient", "statistics"
Learned = tuple[Params, Statistics]  # {} are the statistics of a network without batch norm


def find_net(name: str) -> tuple[Layer, Shape]:
    """The network of this name and its input shape.

    Raises:
        InputError: it is not one of `NETS`.

    >>> find_net("lenet5")
    Traceback (most recent call last):
    jaxcnn.errors.InputError: net is 'lenet5' but must be one of lenet28, cnn28, vgg32, resnet32, resnet20
    """
    if name not in NETS:
        raise InputError(f"net is {name!r} but must be one of {', '.join(NETS)}")
    model = find_model(name)
    return model.build(10), model.in_shape


@dataclasses.dataclass(frozen=True)
class Task:
    """A network, its parameters, the moving statistics of its batch norms and a batch, in one precision."""

    network: Layer
    in_shape: Shape
    params: Params
    statistics: Statistics
    x: jax.Array
    labels: jax.Array
    precision: Precision

    @classmethod
    def draw(cls, network: Layer, in_shape: Shape, batch: int, precision: Precision) -> "Task":
        """Random parameters, statistics and batch; one of several times 128 samples repeats the first 128."""
        drawn = BATCH if batch % BATCH == 0 else batch
        init = jax.jit(lambda key: network.init(key, in_shape), compiler_options={"xla_backend_optimization_level": 0})
        params = init(jax.random.key(0))  # it runs once: LLVM's optimizations would take longer than they save
        x = jnp.resize(jax.random.normal(jax.random.key(1), (drawn, *in_shape)), (batch, *in_shape))
        params, x = precision.cast((params, x))
        statistics, structure = jax.tree.flatten(init_statistics(network, params, in_shape))
        keys = jax.random.split(jax.random.key(2), len(statistics))
        drawn_ones = [a + jax.random.uniform(key, a.shape) for a, key in zip(statistics, keys, strict=True)]
        labels = jnp.arange(batch) % drawn % 10
        return cls(network, in_shape, params, jax.tree.unflatten(structure, drawn_ones), x, labels, precision)

    @property
    def learned(self) -> Learned:
        """What a step takes and returns."""
        return self.params, self.statistics

    @property
    def allowed(self) -> float:
        """Largest error of the gradient: that of the precision; of a network with batch norm, which is deep, more.

        That of the precision is the root of the share of decisions that may flip, and on the way back the shares of
        all layers of ReLU add up. To each, first, what the precision allows: in resnet20 at batch 128 in float32 3 to 8
        eps flip, of 24 million entries 14. Second, what the mean before it rounds: n entries of mean mu summed one by
        one, as PyTorch does with channels last, are off by up to eps/2 sqrt(n/3) mu, of which 0.4, the density of
        entries at zero, flips: 0.1 eps sqrt(n). Third, one entry of the smallest layer, which is much in a small batch.
        """
        if not self.statistics:
            return self.precision.allowed
        samples = min(len(self.x), BATCH)  # the others repeat them
        shapes = list(_of_relus(self.network, self.in_shape))
        rounding = [0.1 * EPS * sqrt(len(self.x) * prod(positions)) for *positions, _ in shapes]
        smallest = min(samples * prod(shape) for shape in shapes)
        return sqrt(len(shapes) * self.precision.allowed**2 + sum(rounding) + 1 / smallest)

    def flat(self, tree) -> list[np.ndarray]:
        """A tree like the parameters or the statistics as a list, in the order of all variants."""
        return [np.asarray(a, np.float64) for a in flat(self.network, self.in_shape, tree)]

    def answer(self, gradient: list, moved: list, steps: int = 1) -> Parts:
        """The answer of a step: the gradient, and the batch's mean and unbiased variance in each batch norm.

        The latter are told by what the moving ones have become after so many steps with this batch.
        """
        weight = 1 - (1 - MOMENTUM) ** steps
        before = self.flat(self.statistics)
        batch = [old + (np.asarray(new, np.float64) - old) / weight for old, new in zip(before, moved, strict=True)]
        return {"gradient": gradient, "statistics": batch}


def _of_relus(layer, shape):
    """The shape of a sample at each ReLU."""
    if isinstance(layer, ReLU):
        yield shape
    for inner in layer.children().values():
        yield from _of_relus(inner, shape)
        if isinstance(layer, Sequential):
            shape = inner.output_shape(shape)


Truth = Callable[[Task], Parts]


def step_in_float64(network: Layer) -> Truth:
    """Automatic differentiation of the plain network in float64, compiled for chunks: a mean is the mean of means.

    With batch norm, in which the samples of a batch depend on each other, the batch is one chunk.
    """
    grad = jax.jit(jax.grad(partial(lax_nets.loss, network), has_aux=True))

    def truth(task: Task) -> Parts:
        x, labels = np.asarray(task.x, np.float64), np.asarray(task.labels)
        if len(x) % BATCH == 0:
            x, labels = x[:BATCH], labels[:BATCH]  # the others repeat them
        copies, size = len(task.x) // len(x), len(x)
        if not task.statistics:
            if CHUNK % len(x) == 0:
                x, labels = np.repeat(x, CHUNK // len(x), axis=0), np.repeat(labels, CHUNK // len(labels))
            size = CHUNK if len(x) % CHUNK == 0 else len(x)
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):  # the same program for every precision
            params, statistics = _wide(task.learned)
            parts, batch = [], {}
            for i in range(0, len(x), size):
                grads, batch = grad(params, jnp.asarray(x[i : i + size]), labels[i : i + size])
                parts.append(task.flat(grads))
            moved = task.flat(lax_nets.moved(statistics, batch, copies))
        return task.answer([np.mean(arrays, axis=0) for arrays in zip(*parts, strict=True)], moved)

    return truth


def outputs_in_float64(task: Task) -> list[np.ndarray]:
    """The plain network's outputs in float64."""
    with jax.enable_x64(True):
        params, x = _wide((merged(*task.learned), task.x))
        return [np.asarray(jax.jit(partial(_plain_outputs, task.network))(params, x))]


def our_step(network: Layer, learned: Learned, x, labels, rate) -> Learned:
    """One step by the hand-written chain."""
    params, statistics = learned
    grads, _, _, batch = gradients(network, LOSS, params, x, labels)
    return _descend(params, grads, rate), moving_statistics(statistics, batch)


def autodiff_step(network: Layer, learned: Learned, x, labels, rate) -> Learned:
    """One step by `jax.grad` of plain lax."""
    params, statistics = learned
    grads, batch = jax.grad(partial(lax_nets.loss, network), has_aux=True)(params, x, labels)
    return _descend(params, grads, rate), lax_nets.moved(statistics, batch)


def step_variant(name: str, step: Callable, options: dict | None, task: Task) -> Variant:
    """The compiled step as a variant.

    The very program that is timed is checked: with a rate of 2^20 the old parameters vanish beside the gradient.
    """
    args = (task.learned, task.x, task.labels)
    program, _ = _compiled_step(step, options, task)

    def answer():
        return _answer(task, program(*args, _rate(task, 2.0**20)))

    run = partial(program, *args, _rate(task, RATE))
    return Variant(name, in_turn(run), answer)


def scan_variant(name: str, step: Callable, options: dict | None, task: Task) -> Variant:
    """`STEPS` steps over as many batches in one compiled scan, as an epoch runs them."""

    def epoch(learned, batches, labels, rates):
        def body(learned, batch):
            return step(task.network, learned, *batch), None

        return lax.scan(body, learned, (batches, labels, rates))[0]

    batches, labels = (jnp.stack([a] * STEPS) for a in (task.x, task.labels))
    rates = jnp.full(STEPS, _rate(task, RATE))
    program, _ = compiled(epoch, options, task.learned, batches, labels, rates)

    def answer():  # of the last step: with a rate of 0 the others change no parameter
        only_last = jnp.zeros_like(rates).at[-1].set(2.0**20)
        return _answer(task, program(task.learned, batches, labels, only_last), STEPS)

    run = partial(program, task.learned, batches, labels, rates)
    return Variant(name, in_turn(run), answer, STEPS)


def peer_steps(peer: str, task: Task) -> list[Variant]:
    """The peer's steps, in its child."""
    module = module_of(peer)
    return [
        Variant(name, in_turn(net.step, module.wait), partial(_peer_answer, module, task, net))
        for name, net in _peer_nets(peer, task).items()
    ]


def peer_evaluations(peer: str, task: Task) -> list[Variant]:
    """The peer's forward passes alone, in its child."""
    return [
        Variant(name, in_turn(net.evaluate, module_of(peer).wait), lambda net=net: [net.outputs()])
        for name, net in _peer_nets(peer, task).items()
    ]


def _peer_nets(peer, task):
    """The peer's networks with our weights and statistics, by the names of the variants."""
    module = module_of(peer)
    weights = weights_of(task.network, task.in_shape, task.params, module.CHANNELS_FIRST)
    statistics = weights_of(task.network, task.in_shape, task.statistics)
    x, labels = np.asarray(task.x, np.float32), np.asarray(task.labels)
    return module.nets(task.network, weights, statistics, x, labels, RATE, task.precision.dtype, task.precision.tf32)


def _peer_answer(module, task, net):
    grads, statistics = net.gradients(), _chained(net.statistics())
    if module.CHANNELS_FIRST:
        return task.answer(brought_back(task.network, task.in_shape, task.params, grads), statistics)
    return task.answer(_chained(grads), statistics)


def step_without_onednn(task: Task) -> list[Variant]:
    """Our step where oneDNN is never called, in a child of its own: what is compiled there later calls it no more."""
    onednn.__dict__["_native"] = lambda: (None, "switched off for the measurement")
    return [step_variant("ours, without oneDNN", our_step, compiler_options(), task)]


def of_all(peers: dict[str, Child], build: Callable[[str, Task], list[Variant]], task: Task) -> list[Variant]:
    """The variants that `build(peer, task)` makes in the peers' children."""
    return [variant for peer, child in peers.items() for variant in child.variants(build, peer, task)]


def both_steps(task: Task) -> list[Variant]:
    """Our step and jax.grad's."""
    return [
        step_variant("ours", our_step, compiler_options(), task),
        step_variant("jax.grad", autodiff_step, None, task),
    ]


def step_rows(name: str, task: Task, variants: list[Variant], truth: Answer, seconds: float) -> Iterator[Row]:
    """Rows "step" of the network of this name."""
    for row in measure(variants, truth, task.allowed, seconds):
        yield {"table": "step", "net": name, "precision": task.precision.name, "batch": len(task.x), **row}


def steps(name: str, peers: dict[str, Child], seconds: float, report: Callable[[str], None]) -> Iterator[Row]:
    """The rows of one network: "step" at batch 128 and others, "evaluation", "compile", "memory", "residuals"."""
    network, in_shape = find_net(name)
    yield from residuals(name, network, in_shape)
    truth = step_in_float64(network)
    for precision in precisions():
        about = {"net": name, "precision": precision.name}
        with precision.active(), ExitStack() as stack:
            report(f"{name}, {precision.name}: step")
            task = Task.draw(network, in_shape, BATCH, precision)
            options = compiler_options()
            for row in compilation(task):
                yield {**row, **about}
            ours, autodiff = both_steps(task)
            variants = [ours]
            if options:
                variants.append(step_variant("ours, default options", our_step, None, task))
            variants.append(scan_variant("ours, scanned", our_step, options, task))
            if jax.default_backend() == "cpu":
                child = stack.enter_context(Child("ours, without oneDNN"))
                variants += child.variants(step_without_onednn, task)
            variants += [autodiff, *of_all(peers, peer_steps, task)]
            yield from step_rows(name, task, variants, truth(task), 20 * seconds)

            report(f"{name}, {precision.name}: evaluation")
            for row in evaluation(task, peers, seconds):  # new networks: those that stepped have moved
                yield {"table": "evaluation", **about, "batch": BATCH, **row}
            torch = {peer: child for peer, child in peers.items() if peer == "torch"}
            for batch in OTHER_BATCHES:
                report(f"{name}, {precision.name}: batch {batch}")
                task = Task.draw(network, in_shape, batch, precision)
                variants = [*both_steps(task), *of_all(torch, peer_steps, task)]
                yield from step_rows(name, task, variants, truth(task), seconds)


def compilation(task: Task) -> Iterator[Row]:
    """Rows "compile", seconds from nothing traced to a step that can run, and "memory", what it needs for itself.

    The seconds are medians of `COMPILATIONS`, in turns. The bytes are those besides arguments and results, where the
    platform tells them.
    """
    variants = {"ours": (our_step, compiler_options()), "jax.grad": (autodiff_step, None)}
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    bytes_needed = {}
    compiled(lambda x: x + 1, compiler_options(), 0.0)  # what the first compilation pays alone
    for _ in range(COMPILATIONS):
        for variant, (step, options) in variants.items():
            jax.clear_caches()
            program, taken = _compiled_step(step, options, task)
            seconds[variant].append(taken)
            if analysis := program.memory_analysis():
                bytes_needed[variant] = analysis.temp_size_in_bytes
    for variant in variants:
        yield {"table": "compile", "variant": variant, "seconds": float(np.median(seconds[variant]))}
    for variant, count in bytes_needed.items():
        yield {"table": "memory", "variant": variant, "bytes": count}


def evaluation(task: Task, peers: dict[str, Child], seconds: float) -> list[Row]:
    """The forward pass alone, by `apply`, by plain lax and by the peers."""
    args = (merged(*task.learned), task.x)
    variants = [compiled_variant("ours", task.network.apply, compiler_options(), *args)]
    if compiler_options():
        variants.append(compiled_variant("ours, default options", partial(task.network.apply), None, *args))
    variants.append(compiled_variant("plain lax", partial(_plain_outputs, task.network), None, *args))
    variants += of_all(peers, peer_evaluations, task)
    return measure(variants, outputs_in_float64(task), task.precision.allowed, seconds)


def residuals(name: str, network: Layer, in_shape: Shape) -> Iterator[Row]:
    """Bytes kept from forward to backward at batch 128 in float32, besides the parameters and the batch."""
    ours = summary(relu_after_pool(network), in_shape, batch_size=BATCH).total.residual_bytes
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), in_shape))

    def kept(params, x):
        return jax.tree.leaves(jax.vjp(lambda params: lax_nets.apply(network, params, x), params, has_aux=True)[1])

    jaxpr = jax.make_jaxpr(kept)(params, jax.ShapeDtypeStruct((BATCH, *in_shape), jnp.result_type(float))).jaxpr
    new = {var for var in jaxpr.outvars if not hasattr(var, "val")} - set(jaxpr.invars)  # a literal has a value
    theirs = sum(var.aval.size * var.aval.dtype.itemsize for var in new)
    for variant, count in (("ours", ours), ("jax.grad", theirs)):
        yield {"table": "residuals", "net": name, "batch": BATCH, "variant": variant, "bytes": count}


def growth(name: str, seconds: float, report: Callable[[str], None]) -> Iterator[Row]:
    """Rows "growth": our step and jax.grad's at batch 32 as it is, with twice the channels, twice the image size."""
    network, (H, W, C) = find_net(name)
    precision = precisions()[0]
    sizes = {
        "as it is": (network, (H, W, C)),
        "channels x 2": (_wider(network), (H, W, C)),
        "height and width x 2": (network, (2 * H, 2 * W, C)),
    }
    with precision.active():
        for change, (grown, in_shape) in sizes.items():
            report(f"{name}: growth, {change}")
            task = Task.draw(grown, in_shape, GROWTH_BATCH, precision)
            about = {"net": name, "precision": precision.name, "batch": GROWTH_BATCH, "change": change}
            work = {"multiply_adds": grown.multiply_adds(in_shape)}
            for row in measure(both_steps(task), step_in_float64(grown)(task), task.allowed, seconds):
                yield {"table": "growth", **about, **work, **row}


def _wider(network):
    """The network with twice the maps in every convolution."""

    def wider(layer):
        return dataclasses.replace(layer, out_channels=2 * layer.out_channels) if isinstance(layer, Conv2d) else layer

    return rebuild(network, wider)


def _descend(params, grads, rate):
    return jax.tree.map(lambda w, g: w - rate * g, params, grads)


def _compiled_step(step, options, task):
    return compiled(partial(step, task.network), options, task.learned, task.x, task.labels, _rate(task, RATE))


def _rate(task, rate):
    return jnp.asarray(rate, task.precision.dtype)


def _answer(task, learned, steps=1):
    """The answer from what is learned after steps of which the last has a rate of 2^20, the others of 0."""
    params, statistics = learned
    old, new = task.flat(task.params), task.flat(params)
    gradient = [(before - after) / 2.0**20 for before, after in zip(old, new, strict=True)]
    return task.answer(gradient, task.flat(statistics), steps)


def _plain_outputs(network, params, x):
    return lax_nets.apply(network, params, x)[0]


def _chained(groups):
    return [array for values in groups for array in values]


def _wide(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), tree)
