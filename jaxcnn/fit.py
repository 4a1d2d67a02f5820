r"""Epoch after epoch until a stopping rule holds.

(1)  stop at the largest number of epochs, or when an epoch's mean training loss is at or below the expected value [T1]

Tests: tests/test_fit.py.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .errors import InputError, check_count, is_number
from .layers.base import Layer
from .losses import Loss
from .recovery import divergence, replay
from .sgd import Optimizer
from .training import (
    TrainState,
    cast,
    check_batch_size,
    check_samples,
    check_specs,
    evaluate,
    in_host_memory,
    refuse_traced,
    train_epoch,
)

__all__ = ["fit"]


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
    test: tuple[Any, Any] | None = None,
    on_epoch: Callable[[TrainState, dict], None] = lambda state, metrics: None,
) -> tuple[TrainState, list[dict]]:
    """Train until a stopping rule of [T1] holds (1).

    Args:
        network, loss, optimizer: specs.
        state: from `init_state`.
        images: (N, ...); they are cast to the parameters' dtype, not scaled: divide bytes by 255 before.
        labels: (N,) integers.
        batch_size: samples per update, from 1 to N.
        epochs: largest number of epochs, at least 1.
        target_error: stop after an epoch whose mean training loss is at or below it; None: never.
        test: images and labels to evaluate after every epoch, or None.
        on_epoch: called after every epoch with the state and the epoch's metrics.

    Returns:
        `(state, history)`: one dict for each epoch with "epoch", "step", "loss", "accuracy" (means over the epoch's
        steps, before each update), "seconds" (of training alone; the first epoch's hold the compilation) and, with
        `test`, "test_loss" and "test_accuracy".

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
    refuse_traced("fit", state, images, labels, test)
    check_specs(network, loss, optimizer, state)
    check_count("fit", "epochs", epochs)
    if target_error is not None and not (is_number(target_error) and 0 <= target_error < math.inf):
        raise InputError(f"fit: target_error is {target_error!r} but must be a finite number of at least 0")
    images, labels = check_samples(network, images, in_host_memory(labels))
    check_batch_size(batch_size, len(images))
    images, labels = cast(state.params, images), jnp.asarray(labels)
    probe = (images[:batch_size], labels[:batch_size]) if test is None else _test(network, state.params, test)
    history, earlier = [], state
    for _ in range(epochs):
        before, started = state, time.perf_counter()
        state, metrics = train_epoch(network, loss, optimizer, before, images, labels, batch_size)
        losses, correct = np.asarray(metrics["loss"], float), np.asarray(metrics["correct"])
        seconds = time.perf_counter() - started
        measured = evaluate(network, loss, state.params, *probe)
        if not (np.isfinite(losses).all() and math.isfinite(measured.loss)):
            steps = partial(replay, network, loss, optimizer, images, labels, batch_size)
            raise divergence(losses, measured.loss, earlier, before, steps, history)
        earlier = before
        epoch = {
            "epoch": int(state.epoch),
            "step": int(state.step),
            "loss": float(losses.mean()),
            "accuracy": float(correct.sum() / (len(losses) * batch_size)),
            "seconds": seconds,
        }
        if test is not None:
            epoch |= {"test_loss": measured.loss, "test_accuracy": measured.accuracy}
        history.append(epoch)
        on_epoch(state, epoch)
        if target_error is not None and epoch["loss"] <= target_error:
            break
    return state, history


def _test(network, params, test):
    """The images and labels to evaluate; a sentence about them says so."""
    if not isinstance(test, tuple | list) or len(test) != 2:
        raise InputError(f"fit: test is of type {type(test).__name__} but must be a pair, (images, labels)")
    try:
        images, labels = check_samples(network, test[0], in_host_memory(test[1]))
        images = cast(params, images)
        jax.eval_shape(network.apply, params, images[:1])
    except InputError as error:
        raise InputError(f"fit: test: {error}") from None
    return images, labels
