r"""Training as the documents describe it: forward, error, backward, update, until a stopping rule holds.

(1)  one step: y = network(w, x) ; E = loss(y, t) ; delta^L = dE/dy ; dE/dw by the chain rule ; w <- update(w, dE/dw)
(2)  stop at the largest number of epochs, or when an epoch's mean training loss is at or below the expected value [T1]

Nothing here differentiates automatically: `train_step` calls the hand-written backward functions.
Tests: tests/test_training.py.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .errors import InputError, check_count
from .layers.base import Layer, Params, Shape
from .losses import Loss
from .lowering import compiler_options
from .network import relu_after_pool
from .sgd import Optimizer

__all__ = [
    "Evaluation",
    "NonFiniteLoss",
    "TrainState",
    "evaluate",
    "fit",
    "gradients",
    "init_state",
    "train_epoch",
    "train_step",
]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a training run changes: a pytree.

    Attributes:
        params: the parameters.
        optimizer: the optimizer's state.
        key: the key from which shuffling and dropout draw; it stays the same; step and epoch tell draws apart.
        step: updates made so far.
        epoch: epochs begun so far.
    """

    params: Params
    optimizer: Any
    key: jax.Array
    step: jax.Array
    epoch: jax.Array


def init_state(network: Layer, optimizer: Optimizer, key: jax.Array, in_shape: Shape, *, dtype=None) -> TrainState:
    """The state before the first step: random parameters of `dtype`, JAX's default float unless given.

    Raises:
        InputError: the layers do not fit the input shape, naming the layer.
    """
    init_key, train_key = jax.random.split(key)
    # it runs once: LLVM's optimizations would take longer than they save
    params = jax.jit(lambda key: network.init(key, in_shape), compiler_options={"xla_backend_optimization_level": 0})(
        init_key
    )
    if dtype is not None:
        params = jax.tree.map(lambda w: w.astype(dtype), params)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(params, optimizer.init(params), train_key, zero, zero)


def gradients(network: Layer, loss: Loss, params: Params, x, labels, *, key=None):
    """`(grads, E, outputs)` of one batch by the hand-written chain, with `train=True` and `relu_after_pool`.

    E is the loss and the network's penalty, which is added once for each batch; grads are the gradients of E.

    >>> from jaxcnn import Dense, SoftmaxCrossEntropy
    >>> params = {"weight": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}
    >>> grads, E, outputs = gradients(Dense(2), SoftmaxCrossEntropy(), params, jnp.ones((1, 1)), jnp.array([1]))
    >>> print(grads["bias"])
    [ 0.5 -0.5]
    """
    network = relu_after_pool(network)
    outputs, residuals = network.forward(params, x, train=True, key=key)
    E, loss_residuals = loss.forward(outputs, labels)
    _, grads = network.backward(residuals, loss.backward(loss_residuals))
    penalty, of_penalty = network.penalty(params)
    return _added(grads, of_penalty), E + penalty, outputs


def _added(grads, others):
    """grads with those of `others`, which has some of its entries, added."""
    if not isinstance(grads, dict):
        return grads + others
    return {name: _added(grad, others[name]) if name in others else grad for name, grad in grads.items()}


def _step(network, loss, optimizer, state, x, labels):
    _, drawing = jax.random.split(state.key)
    key = jax.random.fold_in(drawing, state.step)
    grads, E, outputs = gradients(network, loss, state.params, x, labels, key=key)
    params, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
    metrics = {"loss": loss.mean(E, len(x)), "correct": (outputs.argmax(axis=-1) == labels).sum()}
    return replace(state, params=params, optimizer=optimizer_state, step=state.step + 1), metrics


@cache
def _compiled(function, static_argnums):
    # not at import: finding the options compiles a trivial function
    return jax.jit(function, static_argnums=static_argnums, compiler_options=compiler_options())


def train_step(network: Layer, loss: Loss, optimizer: Optimizer, state: TrainState, x, labels):
    """One update (1), compiled with `compiler_options()`; inside a `jit` of your own call `gradients` instead.

    Args:
        network, loss, optimizer: specs; static.
        state: from `init_state` or an earlier step.
        x: (B, ...), a batch of the parameters' dtype.
        labels: (B,) integers.

    Returns:
        `(state, metrics)`: "loss" is the batch's mean loss and the network's penalty, before the update, "correct" how
        many samples it classified right.
    """
    return _compiled(_step, (0, 1, 2))(network, loss, optimizer, state, x, labels)


def train_epoch(network: Layer, loss: Loss, optimizer: Optimizer, state: TrainState, images, labels, batch_size: int):
    """One epoch as one compiled scan over shuffled batches, with the data on the device.

    The remainder of len(images) / batch_size is left out, other samples in every epoch.

    Args:
        network, loss, optimizer: specs; static.
        state: from `init_state` or an earlier epoch.
        images: (N, ...) of the parameters' dtype.
        labels: (N,) integers.
        batch_size: samples per update; static.

    Returns:
        `(state, metrics)`: the metrics of every step, arrays (N // batch_size,).

    Raises:
        InputError: the batch size is not between 1 and N.
    """
    return _compiled(_epoch, (0, 1, 2, 6))(network, loss, optimizer, state, images, labels, batch_size)


def _epoch(network, loss, optimizer, state, images, labels, batch_size):
    state = replace(state, epoch=state.epoch + 1)
    order = epoch_order(state.key, state.epoch, len(images), batch_size)

    def body(state, chosen):
        return _step(network, loss, optimizer, state, images[chosen], labels[chosen])

    return lax.scan(body, state, order)


def epoch_order(key: jax.Array, epoch, count: int, batch_size: int) -> jax.Array:
    """Indices of the samples in each batch of an epoch: (count // batch_size, batch_size), no index twice.

    Raises:
        InputError: the batch size is not between 1 and `count`.
    """
    if not isinstance(batch_size, int) or not 1 <= batch_size <= count:
        raise InputError(f"batch_size is {batch_size!r} but must be from 1 to {count}, the number of training samples")
    shuffling, _ = jax.random.split(key)
    order = jax.random.permutation(jax.random.fold_in(shuffling, epoch), count)
    return order[: count // batch_size * batch_size].reshape(-1, batch_size)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measures: mean loss, accuracy as a fraction, confusion[true, predicted] and the predictions."""

    loss: float
    accuracy: float
    confusion: np.ndarray
    predictions: np.ndarray


def evaluate(network: Layer, loss: Loss, params: Params, images, labels, *, batch_size: int = 512) -> Evaluation:
    """Loss and accuracy over all samples, in batches, without dropout.

    Args:
        network, loss: specs.
        params: the parameters.
        images: (N, ...) of the parameters' dtype.
        labels: (N,) integers below the number of outputs.
        batch_size: samples computed at a time.

    Raises:
        InputError: the images do not fit the network, or the labels are not one output for each image.
    """
    _check_labels(network, images, labels)
    labels = np.asarray(labels)
    (classes,) = network.output_shape(images.shape[1:])
    total, predictions = 0.0, []
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        outputs, E = _compiled(_outputs, (0, 1))(network, loss, params, images[batch], labels[batch])
        total += float(loss.mean(E, len(outputs))) * len(outputs)
        predictions.append(np.asarray(outputs.argmax(axis=-1)))
    predicted = np.concatenate(predictions)
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    return Evaluation(total / len(labels), float((predicted == labels).mean()), confusion, predicted)


def _outputs(network, loss, params, images, labels):
    outputs, _ = relu_after_pool(network).forward(params, images)
    return outputs, loss.forward(outputs, labels)[0]


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; `state` holds the last parameters whose loss was finite.

    Attributes:
        step: the number of updates, one of which spoiled the parameters, at which this was seen.
        state: the state before the update that spoiled the parameters (the given one if they were never good).
        history: the epochs that were finished.
    """

    def __init__(self, what: str, step: int, state: TrainState, history: list[dict]):
        super().__init__(
            f"{what}; the parameters after step {int(state.step)} were kept: a smaller learning rate may help"
        )
        self.step, self.state, self.history = step, state, history


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
    """Train until a stopping rule of [T1] holds (2).

    Args:
        network, loss, optimizer: specs.
        state: from `init_state`.
        images: (N, ...); they are cast to the parameters' dtype.
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
        InputError: an argument is out of range or does not fit.
        NonFiniteLoss: the loss became NaN or infinite.

    >>> from jaxcnn import SGD, Dense, SoftmaxCrossEntropy
    >>> x, labels = jnp.eye(4), jnp.arange(4)
    >>> optimizer = SGD(1.0)
    >>> state = init_state(Dense(4), optimizer, jax.random.key(0), (4,))
    >>> state, history = fit(Dense(4), SoftmaxCrossEntropy(), optimizer, state, x, labels,
    ...                      batch_size=2, epochs=100, target_error=0.1)
    >>> history[-1]["loss"] <= 0.1 < history[-2]["loss"], history[-1]["accuracy"]
    (True, 1.0)
    """
    check_count("fit", "epochs", epochs)
    if target_error is not None and not 0 <= target_error < math.inf:
        raise InputError(f"fit: target_error is {target_error!r} but must be a finite number of at least 0")
    _check_labels(network, images, labels)
    dtype = jax.tree.leaves(state.params)[0].dtype if state.params else None
    images, labels = jnp.asarray(images, dtype), jnp.asarray(labels)
    probe = (images[:batch_size], labels[:batch_size]) if test is None else (jnp.asarray(test[0], dtype), test[1])

    def replayed(start, until):
        """The state after step `until` of the epoch that began with `start`."""
        order = epoch_order(start.key, start.epoch + 1, len(images), batch_size)
        for chosen in order[: until - int(start.step)]:
            start, _ = train_step(network, loss, optimizer, start, images[chosen], labels[chosen])
        return start

    history, previous = [], state
    for _ in range(epochs):
        begin, started = state, time.perf_counter()
        state, metrics = train_epoch(network, loss, optimizer, begin, images, labels, batch_size)
        losses, correct = np.asarray(metrics["loss"], float), np.asarray(metrics["correct"])
        seconds = time.perf_counter() - started
        measured = evaluate(network, loss, state.params, *probe)
        bad = np.flatnonzero(~np.isfinite(losses))
        if bad.size or not math.isfinite(measured.loss):
            if bad.size:  # the loss of a step is that of the parameters before its update
                step = int(begin.step) + int(bad[0]) + 1
                what, good = f"the loss became {losses[bad[0]]} at step {step}", max(step - 2, int(previous.step))
            else:
                step = int(state.step)
                what, good = f"the loss is {measured.loss} after step {step}", step - 1
            state = replayed(begin if good >= int(begin.step) else previous, good)
            raise NonFiniteLoss(what, step, state, history)
        previous = begin
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


def _check_labels(network, images, labels):
    """Refuse labels that are not one integer for each image, each below the number of outputs."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) != len(images) or not len(labels):
        raise InputError(
            f"labels has shape {labels.shape} and type {labels.dtype} but must be an integer for each of the "
            f"{len(images)} images, at least one"
        )
    (classes,) = network.output_shape(images.shape[1:])
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"labels go from {labels.min()} to {labels.max()} but the network has {classes} outputs")
