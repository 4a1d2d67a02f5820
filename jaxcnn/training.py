r"""Training as the documents describe it: forward, error, backward, update; one step, one epoch, and evaluation.

(1)  one step: y = network(w, x) ; E = loss(y, t) ; delta^L = dE/dy ; dE/dw by the chain rule ; w <- update(w, dE/dw)

Nothing here differentiates automatically: `train_step` calls the hand-written backward functions.
Tests: tests/test_training.py.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .errors import InputError
from .kernels import compiler_options
from .layers.activation import softmax
from .layers.base import Layer, Params, Shape
from .layers.rewrite import relu_after_pool
from .losses import Loss
from .sgd import Optimizer

__all__ = ["Evaluation", "TrainState", "evaluate", "gradients", "init_state", "predict", "train_epoch", "train_step"]


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
    check_labels(network, images, labels)
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


def predict(network: Layer, params: Params, x) -> tuple[jax.Array, jax.Array]:
    """The class of greatest probability and that probability, for each sample [A4].

    Args:
        network: a layer whose outputs are (N, K) logits.
        params: its parameters.
        x: (N, ...), a batch.

    Returns:
        Classes (N,), int32, and probabilities (N,) of the outputs' dtype, by softmax of the outputs.

    Raises:
        InputError: x does not fit the network.

    >>> from jaxcnn import Dense, Sequential
    >>> network = Sequential((Dense(3, bias=False),))
    >>> classes, probabilities = predict(network, {"dense1": {"weight": jnp.eye(3)}}, jnp.array([[2.0, 3.0, 4.0]]))
    >>> print(classes, probabilities.round(4))
    [2] [0.6652]
    """
    probabilities = softmax(network.apply(params, x))
    return probabilities.argmax(axis=-1).astype(jnp.int32), probabilities.max(axis=-1)


def check_labels(network, images, labels):
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
