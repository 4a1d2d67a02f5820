"""Epoch after epoch, in pieces of one compiled program, until a stopping rule holds.

Tests: tests/test_fit.py.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from .data.stream import Streamed
from .errors import InputError
from .layers.base import Layer
from .layers.rules import with_rules
from .losses import Loss
from .plan import Plan, at_hand
from .progress import Progress, StoppingRules, best_epoch
from .recovery import divergence
from .sgd import Optimizer
from .training import (
    TrainState,
    cast,
    check_batch_size,
    check_samples,
    check_specs,
    epoch_order,
    evaluate,
    in_host_memory,
    is_label,
    refuse_traced,
    train_steps,
)

__all__ = ["fit"]

PIECE = 0.5  # seconds that training goes on before anybody is told
ON_DEVICE = 2**24  # numbers of streamed images that are on the device at a time, if that is a batch or more


def fit(
    network: Layer,
    loss: Loss,
    optimizer: Optimizer,
    state: TrainState,
    images,
    labels,
    *,
    batch_size: int,
    epochs: int,
    target_error: float | None = None,
    validation: tuple[Any, Any] | None = None,
    patience: int | None = None,
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    mesh: Mesh | None = None,
    sharded: bool = False,
    accumulate: int = 1,
    precision: str = "full",
    rules: Mapping[Any, Callable] | None = None,
    resume: Progress | None = None,
    on_steps: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
) -> tuple[TrainState, list[dict]]:
    """Train until a stopping rule of `progress` holds [T1].

    An epoch is trained in pieces of about half a second, by one compiled program: where it is cut changes no bit.

    Args:
        network, loss, optimizer: specs.
        state: from `init_state`.
        images: (N, ...); they are cast to the parameters' dtype, not scaled: divide bytes by 255 before. `Streamed`
            images stay in their files and are decoded by worker processes while the network is trained.
        labels: (N,) integers, or a map of them for each image, see `train_step`.
        batch_size: samples per update, from 1 to N.
        epochs: largest number of epochs, at least 1.
        target_error: stop after an epoch whose mean training loss is at or below it; None: never.
        validation: images and labels to evaluate after every epoch, or None; never those of a test.
        patience: stop after so many epochs in which no more of the validation images were classified right, nor as
            many with a smaller loss; None: never.
        augment: None or a function `(key, images) -> images`, such as `data.Augmentation`, of every batch; hashable.
        mesh: None, or a mesh of one axis, as of `jax.make_mesh((8,), ("batch",))`: each of its devices computes its
            rows of a batch, and the gradients are summed once. The result is that of one device up to rounding.
        sharded: the devices of the mesh keep a part each of the parameters and of the optimizer's state.
        accumulate: a batch is computed in so many parts, one after another, in less memory; see `gradients`.
        precision: "full", or "mixed": forward and backward in bfloat16, while the parameters, their update, the loss
            and the statistics of batch norms keep the state's dtype.
        rules: another way back of some layers, see `with_rules`.
        resume: where an earlier `fit` with these arguments stood: training goes on there, not with `state`. Its
            finished epochs count among `epochs`.
        on_steps: called with the progress after every piece of an epoch.
        on_epoch: called with the progress after every epoch; it may add to the dict `progress.history[-1]`.

    Returns:
        `(state, history)`: one dict for each epoch with "epoch", "step", "loss", "accuracy" (means over the epoch's
        steps, before each update), "seconds" (of training alone; the first epoch's hold the compilation) and, with
        `validation`, "validation_loss" and "validation_accuracy", of `state.averaged`.

    Raises:
        InputError: an argument is out of range or does not fit, or this runs inside of `jit`, `scan`, `grad` or `vmap`.
        NonFiniteLoss: the loss became NaN or infinite.

    >>> from jaxcnn import SGD, Dense, SoftmaxCrossEntropy, init_state
    >>> x, labels = jnp.eye(4), jnp.arange(4)
    >>> optimizer = SGD(1.0)
    >>> state = init_state(Dense(4), optimizer, jax.random.key(0), (4,))
    >>> state, history = fit(Dense(4), SoftmaxCrossEntropy(), optimizer, state, x, labels,
    ...                      batch_size=2, epochs=100, target_error=0.1)
    >>> history[-1]["loss"] <= 0.1 < history[-2]["loss"], history[-1]["accuracy"]
    (True, 1.0)
    """
    refuse_traced("fit", state, images, labels, validation)
    check_specs(network, loss, optimizer, state)
    network = with_rules(network, rules or {})
    plan = Plan(mesh, sharded, accumulate, precision)
    stopping = StoppingRules(epochs, target_error, patience)
    if patience is not None and validation is None:
        raise InputError(f"fit: patience is {patience} but validation is None; it must be images and labels")
    images, labels = check_samples(network, loss, images, in_host_memory(labels))
    check_batch_size(batch_size, len(images))
    plan.check_batch_size(batch_size)
    make = _steps if plan.processes == 1 and not isinstance(images, Streamed) else _streamed_steps
    if make is _steps:
        images, labels = plan.everywhere((cast(state.params, images), jnp.asarray(labels)))
    data = images, labels
    probe = tuple(part[:batch_size] for part in data)
    if validation is not None:
        probe = validation_pair("fit", network, loss, state.averaged, validation)
    state = plan.placed(state)
    progress = (
        Progress(state)
        if resume is None
        else _resumed(resume, state, validation is not None, len(images) // batch_size)
    )
    progress = replace(progress, state=plan.placed(progress.state))
    steps = make((network, loss, optimizer, plan, augment), *data, int(batch_size), progress.state.key)
    each = max(is_label(loss, labels).sum() / len(labels), 1 / len(labels))  # labels of a sample, in the mean
    count, earlier = 1, progress
    while not stopping.hold(progress.history):
        while len(progress.losses) < len(data[0]) // batch_size:
            before, started = progress, time.perf_counter()
            progress = steps(before, count)
            seconds = time.perf_counter() - started
            if not np.isfinite(progress.losses).all():
                raise divergence(progress, math.nan, (earlier, before), steps)
            made = len(progress.losses) - len(before.losses)
            count, earlier = plan.agreed(max(1, min(8 * count, int(made * PIECE / seconds)))), before
            progress = replace(progress, seconds=before.seconds + seconds)
            on_steps(_told(progress))
        measured = evaluate(network, loss, progress.state.averaged, *probe)
        if not math.isfinite(measured.loss):
            raise divergence(progress, measured.loss, (earlier,), steps)
        epoch = {
            "epoch": int(progress.state.epoch),
            "step": int(progress.state.step),
            "loss": float(progress.losses.mean()),
            "accuracy": float(progress.correct.sum() / (len(progress.losses) * batch_size * each)),
            "seconds": progress.seconds,
        }
        if validation is not None:
            epoch |= {"validation_loss": measured.loss, "validation_accuracy": measured.accuracy}
        history = (*progress.history, epoch)
        is_best = validation is not None and best_epoch(history) == len(history)
        progress = Progress(
            progress.state, history, best=at_hand(progress.state.averaged) if is_best else progress.best
        )
        on_epoch(_told(progress))
    return (progress.state if plan.processes == 1 else at_hand(progress.state)), list(progress.history)


def _told(progress):
    """As a function of one process can use it."""
    return replace(progress, state=at_hand(progress.state))


def _steps(specs: tuple[Any, Any, Any, Any, Any], images, labels, batch_size, key):
    """`steps(progress, count)`: the progress at most `count` updates later, within an epoch, which may begin now."""
    order = _order(key, len(images), batch_size)

    def steps(progress, count):
        state, done = _begun(progress)
        batches = order(int(state.epoch))
        count = min(count, len(batches) - done)
        return _later(progress, *train_steps(*specs, state, images, labels, batches, done, count))

    return steps


def _streamed_steps(specs: tuple[Any, Any, Any, Any, Any], images, labels, batch_size, key):
    """The same for images in the host's memory or files: some batches at a time are brought to the devices.

    Where there are several processes each reads its own rows of a batch alone.
    """
    plan = specs[3]
    order = _order(key, len(images), batch_size)
    most = max(1, min(16, ON_DEVICE // math.prod((batch_size, *images.shape[1:]))))
    own, labels = plan.own(batch_size), np.asarray(labels)
    chunk = np.zeros((most, own.stop - own.start, *images.shape[1:]), images.dtype)
    read = images.batches if isinstance(images, Streamed) else lambda batches: (images[rows] for rows in batches)
    running = {}  # the batches that are being decoded, by the epoch and the number of the next one

    def steps(progress, count):
        state, done = _begun(progress)
        place, batches = (int(state.epoch), done), np.asarray(order(int(state.epoch)))
        count = min(count, most, len(batches) - done)
        source = running.pop(place, None) or read(batches[done:, own])
        running.clear()
        for i, batch in enumerate(islice(source, count)):
            chunk[i] = batch
        running[place[0], done + count] = source
        chosen = np.resize(batches[done : done + count, own], (most, chunk.shape[1]))
        x, t = (plan.batches(part, batch_size) for part in (np.asarray(cast(state.params, chunk)), labels[chosen]))
        return _later(progress, *train_steps(*specs, state, x, t, np.arange(most), 0, count))

    return steps


def _order(key, count, batch_size):
    """The batches of an epoch by its number; those of the last epochs are kept."""
    return lru_cache(maxsize=2)(lambda epoch: epoch_order(key, epoch, count, batch_size))


def _begun(progress):
    """The state in the epoch that goes on, or begins, and how many of its batches were used."""
    state, done = progress.state, len(progress.losses)
    return (state if done else replace(state, epoch=state.epoch + 1)), done


def _later(progress, state, losses, correct):
    losses, correct = np.concatenate([progress.losses, losses]), np.concatenate([progress.correct, correct])
    return replace(progress, state=state, losses=losses, correct=correct)


def _resumed(resume, state, validated, steps):
    """The progress to go on from, refused unless its state is one of this network and optimizer."""
    if not isinstance(resume, Progress):
        raise InputError(f"fit: resume is of type {type(resume).__name__} but must be a Progress of an earlier fit")
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (resume.state, state)]
    if shapes[0] != shapes[1]:
        raise InputError("fit: resume is of another network or optimizer but must be of the same as state")
    known = {("validation_loss" in epoch) for epoch in resume.history}
    if known - {validated} or len(resume.losses) > steps:
        raise InputError(
            "fit: resume is of a fit with other images or batches but must be of one with the same arguments"
        )
    return resume


def validation_pair(name, network, loss, params, validation):
    """The images and labels to evaluate; a sentence about them says so."""
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise InputError(
            f"{name}: validation is of type {type(validation).__name__} but must be a pair, (images, labels)"
        )
    try:
        images, labels = check_samples(network, loss, validation[0], in_host_memory(validation[1]))
        images = images if isinstance(images, Streamed) else cast(params, images)
        jax.eval_shape(network.apply, params, cast(params, images[:1]))
    except InputError as error:
        raise InputError(f"{name}: validation: {error}") from None
    return images, labels
