r"""Training as the documents describe it: forward, error, backward, update; one step, one epoch, and evaluation.

(1)  one step: y = network(w, x) ; E = loss(y, t) ; delta^L = dE/dy ; dE/dw by the chain rule ; w <- update(w, dE/dw)

Nothing here differentiates automatically: `train_step` calls the hand-written backward functions.
Tests: tests/test_training.py.
"""

from dataclasses import dataclass, field, replace
from functools import cache, partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from .data.stream import Streamed
from .errors import InputError, check_count, check_key, is_int, shown
from .kernels import compiler_options
from .layers.activation import softmax
from .layers.base import Layer, Params, Shape
from .layers.rewrite import relu_after_pool, spread_over
from .layers.rules import with_rules
from .layers.statistics import Statistics, init_statistics, merged, moving_statistics, pooled_statistics
from .losses import Loss
from .plan import Plan, plan_of
from .sgd import Optimizer, check_optimizer
from .spread import parts, total

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
        statistics: of batch norms, the moving mean of `moving_statistics`; {} where there are none.
    """

    params: Params
    optimizer: Any
    key: jax.Array
    step: jax.Array
    epoch: jax.Array
    statistics: Statistics = field(default_factory=dict)

    @property
    def averaged(self) -> Params:
        """The tree to predict with: the parameters, or their moving average where one is kept, and the statistics."""
        return merged(getattr(self.optimizer, "average", self.params), self.statistics)


def init_state(network: Layer, optimizer: Optimizer, key: jax.Array, in_shape: Shape, *, dtype=None) -> TrainState:
    """The state before the first step: random parameters of `dtype`, JAX's default float unless given.

    Raises:
        InputError: the layers do not fit the input shape, naming the layer; the key is none of `jax.random`.
    """
    check_layer(network)
    check_optimizer(optimizer)
    check_key("init_state", key)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)  # an old key draws the same; a state has one kind
    init_key, train_key = jax.random.split(key)

    def init(key):
        return network.init(key, in_shape)

    if not is_traced(key):  # it runs once: LLVM's optimizations would take longer than they save
        init = jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})
    params = init(init_key)
    if dtype is not None:
        params = jax.tree.map(lambda w: w.astype(dtype), params)
    zero = jnp.zeros((), jnp.int32)
    statistics = init_statistics(network, params, in_shape)
    return TrainState(params, optimizer.init(params), train_key, zero, zero, statistics)


def gradients(
    network: Layer,
    loss: Loss,
    params: Params,
    x,
    labels,
    *,
    key=None,
    batch_axis: str | None = None,
    accumulate: int = 1,
    dtype=None,
):
    """`(grads, E, outputs, statistics)` of one batch by the hand-written chain, `train=True`, `relu_after_pool`.

    E is the loss and the network's penalty, which is added once for each batch; grads are the gradients of E;
    statistics are those of the batch, for `moving_statistics`.

    Args:
        network, loss: specs.
        params: the parameters.
        x, labels: a batch; x is cast to the parameters' dtype.
        key: from which dropout and the like draw.
        batch_axis: inside of `jax.shard_map`, the mesh axis over which the batch is spread: x and labels are this
            device's rows, and grads, E and statistics are those of the whole batch, summed over the axis once.
        accumulate: the number of parts in which the rows are computed one after another, in less memory: part k has
            the rows k, k + accumulate, ... A batch norm normalises each part by itself.
        dtype: of forward and backward, such as bfloat16; None: that of the parameters. The loss and the sums over the
            parts and devices are computed in the parameters' dtype, in which the gradients are.

    >>> from jaxcnn import Dense, SoftmaxCrossEntropy
    >>> params = {"weight": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}
    >>> grads, E, outputs, _ = gradients(Dense(2), SoftmaxCrossEntropy(), params, jnp.ones((1, 1)), jnp.array([1]))
    >>> print(grads["bias"])
    [ 0.5 -0.5]
    """
    network = relu_after_pool(network)
    if batch_axis is not None:
        network = spread_over(network, batch_axis)
    x, used = cast(params, x), params if dtype is None else jax.tree.map(lambda w: w.astype(dtype), params)
    share = _share(network, loss, x, labels, batch_axis, accumulate)

    def of_part(x, labels, key):
        y, residuals = network.forward(used, x if dtype is None else x.astype(dtype), train=True, key=key)
        outputs = y.astype(x.dtype)
        E, loss_residuals = loss.forward(outputs, labels)
        own = share(outputs, labels)
        _, grads = network.backward(residuals, loss.backward(loss_residuals, own).astype(y.dtype))
        grads = jax.tree.map(lambda g, w: g.astype(w.dtype), grads, params)
        return (grads, own * E), outputs, network.statistics(residuals)

    if accumulate == 1:
        summed, outputs, statistics = of_part(x, labels, key)
    else:
        summed, outputs, statistics = _one_after_another(of_part, x, labels, key, accumulate)
    grads, E = total(summed, batch_axis)
    penalty, of_penalty = network.penalty(params)
    return added(grads, of_penalty), E + penalty, outputs, statistics


def _share(network, loss, x, labels, batch_axis, accumulate):
    """The function that weighs a part's E in that of the whole batch: by its count, if the loss is a mean."""
    divided = parts(batch_axis) * accumulate
    if divided == 1 or loss.reduction == "sum":
        return lambda outputs, labels: 1.0
    count = loss.count(jnp.zeros((len(x), *_output_shape(network, x.shape[1:])), x.dtype), labels)
    if isinstance(count, int):
        return lambda outputs, labels: 1 / divided
    whole = total(count, batch_axis)
    return lambda outputs, labels: loss.count(outputs, labels) / jnp.where(whole == 0, 1, whole)


def _one_after_another(of_part, x, labels, key, count):
    """The sums over `count` parts of a batch, the outputs of all its rows, and its statistics."""

    def divided(array):
        return array.reshape(len(array) // count, count, *array.shape[1:]).swapaxes(0, 1)

    def joined(array):
        return array.swapaxes(0, 1).reshape(-1, *array.shape[2:])

    def body(summed, given):
        i, x, labels = given
        new, outputs, statistics = of_part(x, labels, None if key is None else jax.random.fold_in(key, i))
        return jax.tree.map(jnp.add, summed, new), (outputs, statistics)

    given = jnp.arange(count), divided(x), divided(labels)
    (first, *_) = jax.eval_shape(of_part, *(array[0] for array in given[1:]), key)
    zeros = jax.tree.map(lambda found: jnp.zeros(found.shape, found.dtype), first)
    summed, (outputs, statistics) = lax.scan(body, zeros, given)
    each = [jax.tree.map(lambda found, i=i: found[i], statistics) for i in range(count)]
    return summed, joined(outputs), reduce(pooled_statistics, each)


def added(grads, others):
    """grads with those of `others`, which has some of its entries, added."""
    if not isinstance(grads, dict):
        return grads + others
    return {name: added(grad, others[name]) if name in others else grad for name, grad in grads.items()}


def _step(network, loss, optimizer, plan, state, x, labels, augment=None):
    _, drawing = jax.random.split(state.key)
    key = jax.random.fold_in(drawing, state.step)
    if augment is not None:
        augmenting, key = jax.random.split(key)
        x = augment(augmenting, x)
    of_batch = plan.over_devices(partial(_of_batch, network, loss, plan), False, True, True, False)
    grads, metrics, batch = of_batch(state.params, x, labels, key)
    params, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
    statistics = moving_statistics(state.statistics, batch)
    changed = replace(state, params=params, optimizer=optimizer_state, step=state.step + 1, statistics=statistics)
    return plan.kept(changed), metrics


def _of_batch(network, loss, plan, params, x, labels, key):
    """The gradients, metrics and statistics of a batch, each device having its rows of it."""
    how = {"batch_axis": plan.batch_axis, "accumulate": plan.accumulate, "dtype": plan.dtype}
    grads, E, outputs, batch = gradients(network, loss, params, x, labels, key=key, **how)
    found = (outputs.argmax(axis=-1) == labels).sum(dtype=jnp.int32)
    # a float like the gradients, so that XLA sums it with them in one exchange
    correct = total(found.astype(jnp.promote_types(E.dtype, jnp.float32)), plan.batch_axis).astype(found.dtype)
    count = total(loss.count(outputs, labels), plan.batch_axis)
    return grads, {"loss": loss.mean(E, count), "correct": correct}, batch


@cache
def _compiled(function, static_argnums):
    # not at import: finding the options compiles a trivial function
    return jax.jit(function, static_argnums=static_argnums, compiler_options=compiler_options())


def run_compiled(function, static_argnums, *args):
    """`function` compiled and kept; inside of another program, where options are refused, a part of that."""
    return (function if is_traced(args) else _compiled(function, static_argnums))(*args)


def is_traced(*trees) -> bool:
    """Whether an array is traced, or any would be that is computed here: inside of jit, scan, grad or vmap."""
    return any(isinstance(leaf, Tracer) for leaf in (*jax.tree.leaves(trees), _zero()))


_zero = jax.jit(lambda: 0)


def refuse_traced(name: str, *trees) -> None:
    """Refuse to be called where no number is known yet."""
    if is_traced(trees):
        raise InputError(f"{name}: is called inside of jit, scan, grad or vmap but must be called outside of them")


def train_step(network: Layer, loss: Loss, optimizer: Optimizer, state: TrainState, x, labels, *, rules=None):
    """One update (1), compiled with `compiler_options()`; inside of `jit`, `scan`, `grad` or `vmap` a part of that.

    Args:
        network, loss, optimizer: specs; static: another value is compiled anew, so let a schedule change the rate.
        state: from `init_state` or an earlier step.
        x: (B, ...), a batch; it is cast to the parameters' dtype, not scaled.
        labels: (B,) integers below the number of outputs; (B, H, W) where the outputs are maps (B, H, W, K). Where they
            are traced, or on another device than a CPU, and out of range, the loss is NaN.
        rules: of `with_rules`: another way back of some layers.

    Returns:
        `(state, metrics)`: "loss" is the batch's mean loss and the network's penalty, before the update, "correct" how
        many labels it found.

    Raises:
        InputError: an argument does not fit the others.
    """
    check_specs(network, loss, optimizer, state)
    network = with_rules(network, rules or {})
    x, labels = check_samples(network, loss, x, labels, "x")
    return run_compiled(_step, (0, 1, 2, 3), network, loss, optimizer, Plan(), state, cast(state.params, x), labels)


def train_epoch(
    network: Layer, loss: Loss, optimizer: Optimizer, state: TrainState, images, labels, batch_size: int, *, rules=None
):
    """One epoch as one compiled scan over shuffled batches, with the data on the device.

    The remainder of len(images) / batch_size is left out, other samples in every epoch. Inside of `jit`, `scan`, `grad`
    or `vmap` it is a part of that.

    Args:
        network, loss, optimizer: specs; static.
        state: from `init_state` or an earlier epoch.
        images: (N, ...); they are cast to the parameters' dtype.
        labels: (N,) integers below the number of outputs, or a map of them for each image, see `train_step`.
        batch_size: samples per update; static.
        rules: of `with_rules`: another way back of some layers.

    Returns:
        `(state, metrics)`: the metrics of every step, arrays (N // batch_size,).

    Raises:
        InputError: an argument does not fit the others; the batch size is not between 1 and N.
    """
    check_specs(network, loss, optimizer, state)
    network = with_rules(network, rules or {})
    images, labels = check_samples(network, loss, images, labels)
    check_batch_size(batch_size, len(images))
    arrays = cast(state.params, images), jnp.asarray(labels)
    return run_compiled(_epoch, (0, 1, 2, 6), network, loss, optimizer, state, *arrays, int(batch_size))


def _epoch(network, loss, optimizer, state, images, labels, batch_size):
    state = replace(state, epoch=state.epoch + 1)
    order = epoch_order(state.key, state.epoch, len(images), batch_size)

    def body(state, chosen):
        return _step(network, loss, optimizer, Plan(), state, images[chosen], labels[chosen])

    return lax.scan(body, state, order)


def train_steps(
    network, loss, optimizer, plan, augment, state: TrainState, images, labels, order, first: int, count: int
):
    """`count` updates of an epoch, with the batches `images[order[first]]`, `images[order[first + 1]]`, ...

    One compiled program serves any `first` and `count`, so that it changes no bit of an epoch where it is cut.

    Args:
        network, loss, optimizer, plan: specs; static.
        augment: static, None or a function `(key, images) -> images` of a batch.
        state: the training state.
        images, labels: of the whole epoch, checked and cast; or batches of them.
        order: (steps, batch size), from `epoch_order`; or the numbers of batches.
        first: the number of batches used before.
        count: of updates, at least 1.

    Returns:
        `(state, losses, correct)`: NumPy arrays (count,), what `train_step` calls "loss" and "correct".
    """
    run = _compiled(_steps, (0, 1, 2, 3, 4))
    # NumPy's, which are no constants of the program
    state, metrics = run(
        network, loss, optimizer, plan, augment, state, images, labels, order, np.int32(first), np.int32(count)
    )
    return state, np.asarray(metrics["loss"], float)[:count], np.asarray(metrics["correct"])[:count]


def _steps(network, loss, optimizer, plan, augment, state, images, labels, order, first, count):
    def body(i, carried):
        state, seen = carried
        chosen = order[first + i]
        state, metrics = step(state, images[chosen], labels[chosen])
        return state, {name: seen[name].at[i].set(value) for name, value in metrics.items()}

    step = partial(_step, network, loss, optimizer, plan, augment=augment)
    _, metrics = jax.eval_shape(step, state, images[order[0]], labels[order[0]])
    seen = {name: jnp.zeros(len(order), value.dtype) for name, value in metrics.items()}
    return lax.fori_loop(0, count, body, (state, seen))


def epoch_order(key: jax.Array, epoch, count: int, batch_size: int) -> jax.Array:
    """Indices of the samples in each batch of an epoch: (count // batch_size, batch_size), no index twice.

    Raises:
        InputError: the batch size is not between 1 and `count`.
    """
    check_batch_size(batch_size, count)
    shuffling, _ = jax.random.split(key)
    order = jax.random.permutation(jax.random.fold_in(shuffling, epoch), count)
    return order[: count // batch_size * batch_size].reshape(-1, batch_size)


def check_batch_size(batch_size: int, count: int) -> None:
    """Refuse what is no int from 1 to the number of samples."""
    if not is_int(batch_size) or not 1 <= batch_size <= count:
        raise InputError(f"batch_size is {batch_size!r} but must be from 1 to {count}, the number of training samples")


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measures: mean loss, accuracy as a fraction, confusion[true, predicted] and the predictions.

    A label that the loss ignores counts in none of them.
    """

    loss: float
    accuracy: float
    confusion: np.ndarray
    predictions: np.ndarray


def evaluate(network: Layer, loss: Loss, params: Params, images, labels, *, batch_size: int = 512) -> Evaluation:
    """Loss and accuracy over all samples, in batches, without dropout.

    Args:
        network, loss: specs.
        params: the parameters, with statistics where there are batch norms: `state.averaged`.
        images: (N, ...); they are cast to the parameters' dtype.
        labels: (N,) integers below the number of outputs, or a map of them for each image, see `train_step`.
        batch_size: samples computed at a time.

    Raises:
        InputError: the images do not fit the network, the labels are not one output for each image, or it is called
            inside of `jit`, `scan`, `grad` or `vmap`.
    """
    refuse_traced("evaluate", params, images, labels)
    check_layer(network)
    check_loss(loss)
    check_count("evaluate", "batch_size", batch_size)
    images, labels = check_samples(network, loss, images, in_host_memory(labels))
    *_, classes = _output_shape(network, images.shape[1:])
    plan = plan_of(params)
    summed, counted, predictions = 0.0, 0.0, []
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        x, t = np.asarray(cast(params, images[rows])) if plan.mesh else cast(params, images[rows]), labels[rows]
        alone = Plan() if len(x) % plan.devices else plan
        measured = _compiled(_measured, (0, 1, 2))(network, loss, alone, params, x, t)
        predictions.append(np.asarray(measured["predictions"]))
        summed += float(measured["loss"]) * float(measured["count"])
        counted += float(measured["count"])
    predicted, known = np.concatenate(predictions), is_label(loss, labels)
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels[known], predicted[known]), 1)
    right = int(confusion.trace())
    return Evaluation(summed / max(counted, 1), right / max(int(known.sum()), 1), confusion, predicted)


def _measured(network, loss, plan, params, images, labels):
    forward = plan.over_devices(
        lambda params, x: relu_after_pool(network).forward(params, x)[0], False, True, back=True
    )
    outputs = plan.whole(forward(params, images))
    count = loss.count(outputs, labels)
    mean = loss.mean(loss.forward(outputs, labels)[0], count)
    return {"predictions": outputs.argmax(axis=-1), "loss": mean, "count": count}


def is_label(loss: Loss, labels) -> np.ndarray:
    """Which labels name a class: all but those that the loss ignores."""
    return np.asarray(labels) != getattr(loss, "ignore", None)


def predict(network: Layer, params: Params, x) -> tuple[jax.Array, jax.Array]:
    """The class of greatest probability and that probability, for each sample [A4].

    Args:
        network: a layer whose outputs are logits (N, K), or of every pixel (N, H, W, K).
        params: its parameters.
        x: (N, ...), a batch; it is cast to the parameters' dtype.

    Returns:
        Classes (N,) or (N, H, W), int32, and as many probabilities of the outputs' dtype, by softmax of the outputs.

    Raises:
        InputError: x does not fit the network.

    >>> from jaxcnn import Dense, Sequential
    >>> network = Sequential((Dense(3, bias=False),))
    >>> classes, probabilities = predict(network, {"dense1": {"weight": jnp.eye(3)}}, jnp.array([[2.0, 3.0, 4.0]]))
    >>> print(classes, probabilities.round(4))
    [2] [0.6652]
    """
    probabilities = softmax(network.apply(params, cast(params, x)))
    return probabilities.argmax(axis=-1).astype(jnp.int32), probabilities.max(axis=-1)


def cast(params: Params, x) -> jax.Array:
    """Numbers (N, ...), lists too, as an array of the parameters' dtype; where there are none of JAX's default float.

    >>> cast({"weight": jnp.ones(3, jnp.bfloat16)}, np.arange(2)).dtype
    dtype(bfloat16)
    """
    leaves = jax.tree.leaves(params)
    return jnp.asarray(_numbers(x, "x"), leaves[0].dtype if leaves else float)


def _array(value) -> Any:
    if isinstance(value, jax.Array | np.ndarray | Streamed):
        return value
    try:
        return np.asarray(value)
    except ValueError:  # lists of several lengths
        return np.asarray(value, object)


def _numbers(value, name):
    array = _array(value)
    numbers = any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))
    if not numbers or array.ndim < 1:
        raise InputError(f"{name} has shape {array.shape} and type {array.dtype} but must be numbers, (samples, ...)")
    return array


def checked_batch(network: Layer, loss: Loss, params: Params, x, labels) -> tuple[jax.Array, Any]:
    """A batch x, of the parameters' dtype, and its labels; refused unless they fit the network."""
    check_layer(network)
    check_loss(loss)
    x, labels = check_samples(network, loss, x, labels, "x")
    return cast(params, x), labels


def check_samples(network: Layer, loss: Loss, images, labels, name: str = "images"):
    """Images and labels as arrays; refused unless the labels are one output of the network for each image.

    Where its outputs are maps (N, H, W, K) there is a label for each position, (N, H, W).

    Only labels that lie in the host's memory are looked at: those of another device would be waited for. `evaluate` and
    `fit`, which take long, bring them there: `in_host_memory`.
    """
    images, labels = _numbers(images, name), _array(labels)
    integers = jnp.issubdtype(labels.dtype, jnp.integer)
    *places, classes = shape = _output_shape(network, images.shape[1:])
    if places and labels.shape == images.shape[:1]:
        raise InputError(
            f"network: the output for an image of shape {images.shape[1:]} has shape {shape} but must have shape "
            "(classes,), since labels has one for each image; add Flatten() and Dense(classes)"
        )
    if labels.shape != (len(images), *places) or not integers or not len(labels):
        each = f" at each of {' x '.join(map(str, places))} places" if places else ""
        raise InputError(
            f"labels has shape {labels.shape} and type {labels.dtype} but must be an integer for each of the "
            f"{len(images)} images{each}, at least one"
        )
    if isinstance(labels, np.ndarray) or (not isinstance(labels, Tracer) and _at_hand(labels)):
        values = np.asarray(labels)
        values = values[is_label(loss, values)]
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise InputError(f"labels go from {values.min()} to {values.max()} but the network has {classes} outputs")
    return images, labels


def in_host_memory(labels):
    """Labels of any device as NumPy's; what is no array of JAX's as it is."""
    return np.asarray(labels) if isinstance(labels, jax.Array) else labels


def _at_hand(array):
    return array.is_fully_addressable and all(device.platform == "cpu" for device in array.devices())


@cache
def _output_shape(network, in_shape):
    """(K,) of a network that classifies images, (H, W, K) of one that classifies their pixels."""
    shape = network.output_shape(in_shape)
    if not shape:
        raise InputError(f"network: the output for an image of shape {in_shape} has shape () but must have (classes,)")
    return shape


def check_specs(network: Layer, loss: Loss, optimizer: Optimizer, state: TrainState) -> None:
    """Refuse what a training function cannot use."""
    check_layer(network)
    check_loss(loss)
    check_optimizer(optimizer)
    check_state(state)


def check_state(state: TrainState) -> None:
    """Refuse what is no training state."""
    if not isinstance(state, TrainState):
        raise InputError(f"state is of type {type(state).__name__} but must be a TrainState, from init_state")


def check_layer(network: Layer) -> None:
    """Refuse what is no layer."""
    if not isinstance(network, Layer):
        raise InputError(f"network is {shown(network)} but must be a layer, such as Sequential((a, b))")


def check_loss(loss: Loss) -> None:
    """Refuse what is no loss."""
    if isinstance(loss, type) or not all(hasattr(loss, name) for name in ("forward", "backward", "mean", "count")):
        raise InputError(f"loss is {shown(loss)} but must be a loss, such as SoftmaxCrossEntropy()")
