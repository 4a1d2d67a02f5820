r"""Losses over a batch of N samples: the only place that divides by N.

Shapes:  y, t (N,...)   u, t (...,K)   labels, e, w (...), most often (N,) or, for every pixel, (N,H,W)   E, dE: scalars

(1)  squared error          E  = 1/(2r) sum (t - y)^2,  r = N                                         [L1]
(2)                         dy = dE (y - t) / r             dt = -dy
(3)  softmax cross-entropy  E  = 1/r sum_m w[m] e[m],  e[m] = -sum_k t[m,k] ln p[m,k],  p = softmax(u) [L2, N17]
(4)                         du = dE w (p sum_k t[k] - t) / r        dt = -dE w ln p / r               [L2, N17]
(5)                         r  = sum_m w[m]                 dw = dE (e - E) / r                       [N17]

All this for reduction "mean". For the documents' "sum", r = 1 and dw = dE e [T2]. Without weights w = 1, and r is the
number of labels: N for labels (N,). Where r = 0, E and all gradients are 0.
With f'(u) from the layer before, (2) is the delta of the output layer. In (4) sum_k t = 1 for a label, so du = p - t.
Loops: reference/losses.py. Tests: tests/test_losses.py.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from .errors import InputError, check_floating, check_shape, is_int, is_number, shown
from .operation import Operation, operation, operation_of

__all__ = ["Loss", "SoftmaxCrossEntropy", "SquaredError", "one_hot", "softmax_cross_entropy", "squared_error"]


@operation
def squared_error(outputs, targets, *, reduction: str = "mean"):
    """Half the squared distance between outputs and targets [L1].

    Args:
        outputs: (N, ...), floating point, of at least 2 dimensions.
        targets: of the same shape and dtype; `one_hot` makes them from labels.
        reduction: "mean" over the N samples, or "sum".

    Returns:
        A scalar of that dtype. Its derivative is `squared_error.backward`.

    Raises:
        InputError: a shape, a dtype or the reduction does not fit.

    >>> print(squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]])))
    2.5
    """
    check_floating("squared_error", outputs=outputs, targets=targets)
    _check_batch("squared_error", "outputs", outputs)
    check_shape("squared_error", "targets", targets, outputs.shape)
    difference = outputs - targets
    return (difference * difference).sum() / 2 / _divisor("squared_error", reduction, len(outputs)), difference


@squared_error.rule
def _(residuals, dy, *, reduction):
    """(2): `(doutputs, dtargets)` from `squared_error.forward`'s residuals and the scalar dy = dE."""
    doutputs = dy * residuals / _divisor("squared_error", reduction, len(residuals))
    return doutputs, -doutputs


@operation
def softmax_cross_entropy(logits, labels, weights=None, *, reduction: str = "mean"):
    """Cross-entropy between softmax(logits) and the labels [L2], by log-sum-exp: large logits are safe.

    Args:
        logits: (..., K), floating point, of at least 2 dimensions; softmax is part of the loss.
        labels: (...) integers in [0, K), as (N,) or, for every pixel, (N, H, W); or (..., K) of the logits' dtype:
            one-hot or any other targets. An integer out of range gives NaN, in the value and in the gradient.
        weights: (...) of the logits' dtype, by which each term is multiplied [N17]: 0 and 1 are a mask, `w[labels]`
            weights of the classes. None is 1 throughout.
        reduction: "mean" divides by the sum of the weights, that is by the number of labels without any, by N for
            logits (N, K); or "sum". A mean of weights whose sum is 0 is 0, and so are its gradients.

    A term of weight 0 that is not finite, as of a label out of range or of infinite logits, is left out of the value,
    and its gradients are 0, that of its weight, too. That of the weight 0 of any other term is as in (5).

    Returns:
        A scalar of the logits' dtype. Its derivative is `softmax_cross_entropy.backward`.

    Raises:
        InputError: a shape, a dtype or the reduction does not fit.

    >>> print(f"{softmax_cross_entropy(jnp.array([[2.0, 3.0, 4.0]]), jnp.array([1])):.4f}")
    1.4076

    The example of D3, dE/du = p - t:

    >>> _, residuals = softmax_cross_entropy.forward(jnp.array([[2.0, 3.0, 4.0]]), jnp.array([1]))
    >>> print(softmax_cross_entropy.backward(residuals, 1.0)[0].round(4))
    [[ 0.09   -0.7553  0.6652]]

    A mask over labels (1, 2, 2), one of which is no class:

    >>> labels, mask = jnp.array([[[0, 1], [255, 2]]]), jnp.array([[[1.0, 1.0], [0.0, 1.0]]])
    >>> print(f"{softmax_cross_entropy(jnp.zeros((1, 2, 2, 3)), labels, mask):.4f}")  # ln 3
    1.0986
    """
    check_floating("softmax_cross_entropy", logits=logits, weights=weights)
    _check_batch("softmax_cross_entropy", "logits", logits)
    kept = None
    if weights is not None:
        check_shape("softmax_cross_entropy", "weights", weights, logits.shape[:-1])
        kept = (weights != 0) | jnp.isfinite(_terms(logits, labels)[1])
        # what goes in is replaced, not what comes out: 0 times a derivative that is not finite is NaN
        logits, labels, weights = (_where(kept, array) for array in (logits, labels, weights))
    logp, terms = _terms(logits, labels)
    total = (terms if weights is None else weights * terms).sum()
    divisor = _divisor("softmax_cross_entropy", reduction, terms.size, weights)
    return total / divisor, (logp, labels, weights, terms, kept)  # (3)


@softmax_cross_entropy.rule
def _(residuals, dy, *, reduction):
    """(4), (5): `(dlogits, dlabels, dweights)` from the residuals and the scalar dy = dE.

    Integer labels and weights that are None have no gradient: None.
    """
    logp, labels, weights, terms, kept = residuals
    divisor = _divisor("softmax_cross_entropy", reduction, terms.size, weights)
    scale, dweights = dy / divisor, None
    if weights is not None:
        E = (weights * terms).sum() / divisor if reduction == "mean" else 0
        dweights = _where(kept, scale * (terms - E))  # (5)
        scale = (scale * weights)[..., None]
    if _are_integers(labels):
        return scale * (jnp.exp(logp) - one_hot(labels, logp.shape[-1], logp.dtype)), None, dweights  # (4)
    dlogits = scale * (jnp.exp(logp) * labels.sum(axis=-1, keepdims=True) - labels)
    return dlogits, -scale * logp, dweights


def _terms(logits, labels):
    """ln p and e of (3)."""
    logp = jax.nn.log_softmax(logits, axis=-1)
    if _are_integers(labels):
        check_shape("softmax_cross_entropy", "labels", labels, logits.shape[:-1])
        chosen = jnp.take_along_axis(logp, jnp.asarray(labels)[..., None], axis=-1, mode="clip")[..., 0]
        return logp, -jnp.where(_in_range(labels, logits.shape[-1]), chosen, jnp.nan)
    check_floating("softmax_cross_entropy", logits=logits, labels=labels)
    check_shape("softmax_cross_entropy", "labels", labels, logits.shape)
    return logp, -(labels * logp).sum(axis=-1)


def _where(kept, array):
    """The array with zeros for what is not kept."""
    return jnp.where(kept.reshape(kept.shape + (1,) * (array.ndim - kept.ndim)), array, jnp.zeros_like(array))


def one_hot(labels, classes: int, dtype=None, *, low: float = 0.0) -> jax.Array:
    """Targets one-of-c from integer labels (...): (..., classes), 1 for the label's class, `low` for the others [I4].

    The documents take 0 for sigmoid outputs and -1 for tanh outputs.

    A label out of range gives a row of NaN, so that no loss of it is finite.

    >>> print(one_hot(jnp.array([2, 0]), 3))
    [[0. 0. 1.]
     [1. 0. 0.]]
    >>> print(one_hot(jnp.array([1]), 3, low=-1))
    [[-1.  1. -1.]]
    """
    own = jnp.asarray(labels)[..., None] == jnp.arange(classes)
    targets = jnp.where(own, 1, low).astype(dtype or float)
    return jnp.where(_in_range(labels, classes)[..., None], targets, jnp.nan)


def _are_integers(labels):
    return hasattr(labels, "dtype") and jnp.issubdtype(labels.dtype, jnp.integer)


def _in_range(labels, classes):
    labels = jnp.asarray(labels)
    last = classes - 1
    if _are_integers(labels):  # a number that their dtype cannot hold would wrap
        last = min(last, jnp.iinfo(labels.dtype).max)
    return (labels >= 0) & (labels <= last)


def _equal(labels, label):
    """Where labels are this one; a dtype that cannot hold it has none, but JAX takes -100 for 156 of uint8."""
    limits = jnp.iinfo(labels.dtype)
    return labels == label if limits.min <= label <= limits.max else jnp.zeros(labels.shape, bool)


def _divisor(op, reduction, count, weights=None):
    """r: `count`, or the sum of the weights."""
    if reduction not in ("mean", "sum"):
        raise InputError(f'{op}: reduction is {reduction!r} but must be "mean" or "sum"')
    if reduction == "sum":
        return 1
    return count if weights is None else _infinite_for_zero(weights.sum())


def _infinite_for_zero(divisor):
    """What divided by it is 0 in place of NaN, and has derivative 0."""
    return jnp.where(divisor == 0, jnp.inf, divisor)


def _check_batch(op, name, array):
    if array.ndim < 2:
        raise InputError(f"{op}: {name} has shape {array.shape} but must have at least 2 dimensions")


@dataclass(frozen=True)
class Loss:
    """A loss spec: static facts, for integer labels (N,), or of any shape (...), or the operation's own targets.

    Raises:
        InputError: when a class is defined whose `op` is no operation, unless it has functions of its own.
    """

    op: ClassVar[Operation]
    reduction: str = "mean"

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        if any(getattr(cls, name) is getattr(Loss, name) for name in ("apply", "forward", "backward")):
            operation_of(cls)

    def __post_init__(self):
        if type(self) is Loss:
            raise InputError("Loss: has no operation but must be one of its subclasses, such as SoftmaxCrossEntropy()")

    def count(self, outputs, labels) -> int | jax.Array:
        """What a mean over this batch is divided by: the number of samples N, unless the loss says otherwise."""
        return len(outputs)

    def mean(self, E, count):
        """E of a batch as the mean, whatever the reduction; `count` is that of the batch.

        The mean over several batches is the mean of theirs, each weighted by its count.
        """
        return E / _infinite_for_zero(count) if self.reduction == "sum" else E

    def apply(self, outputs, labels) -> jax.Array:
        """The loss; its derivative under `jax.grad` is the hand-written rule."""
        return self.op(outputs, *self._arrays(outputs, labels), reduction=self.reduction)

    def forward(self, outputs, labels):
        """The loss and what `backward` needs; plain JAX with no rule attached."""
        return self.op.forward(outputs, *self._arrays(outputs, labels), reduction=self.reduction)

    def backward(self, residuals, dy: Any = 1.0) -> jax.Array:
        """dE/d(outputs), from which the network's `backward` starts."""
        return self.op.backward(residuals, dy, reduction=self.reduction)[0]

    def _arrays(self, outputs, labels) -> tuple:
        """The operation's arrays after the outputs."""
        return (jnp.asarray(labels) if isinstance(labels, list | tuple) else labels,)


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """Spec of `softmax_cross_entropy`; integer labels become targets (1 - smoothing) one_hot + smoothing / K.

    Label smoothing: Szegedy et al., *Rethinking the Inception architecture* (2016), section 7.

    `class_weights` has a number of at least 0 for each class; a term is multiplied by that of its label. Labels that
    are `ignore` have weight 0 and may be any integer, such as 255. A mean is divided by the sum of these weights
    [N17]. Where labels are smoothed, the part smoothing / K of class k is multiplied by the weight of k. All is as in
    PyTorch's `CrossEntropyLoss` but for two cases: where all weights are 0 the mean is 0, not NaN; and a label of a
    class of weight 0 is left out altogether, whereas PyTorch keeps its smoothed part.

    Raises:
        InputError: a number is out of range; when called, if there is not one weight for each class, or labels are no
            integers although there are weights.

    >>> loss, logits, labels = SoftmaxCrossEntropy(smoothing=0.3), jnp.zeros((1, 3)), jnp.array([2])
    >>> print(loss.backward(loss.forward(logits, labels)[1]).round(4))  # p - t, with p = 1/3
    [[ 0.2333  0.2333 -0.4667]]
    >>> loss, labels = SoftmaxCrossEntropy(class_weights=(1.0, 1.0, 4.0), ignore=255), jnp.array([[[0, 255, 2]]])
    >>> logits = jnp.zeros((1, 1, 3, 3))
    >>> print(loss.count(logits, labels), f"{loss.apply(logits, labels):.4f}")  # ln 3
    5.0 1.0986
    """

    smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    ignore: int | None = None

    op = softmax_cross_entropy

    def __post_init__(self):
        if not (is_number(self.smoothing) and 0 <= self.smoothing < 1):
            raise InputError(
                f"SoftmaxCrossEntropy: smoothing is {self.smoothing!r} but must be a number of at least 0 and below 1"
            )
        weights = () if self.class_weights is None else self.class_weights
        if not (isinstance(weights, tuple) and all(is_number(w) and 0 <= w < math.inf for w in weights)):
            raise InputError(
                f"SoftmaxCrossEntropy: class_weights is {shown(weights)} but must be a tuple of finite numbers of at "
                "least 0"
            )
        if not (self.ignore is None or is_int(self.ignore)):
            raise InputError(f"SoftmaxCrossEntropy: ignore is {shown(self.ignore)} but must be an int or None")

    def count(self, outputs, labels) -> int | jax.Array:
        """The sum of the labels' weights; without class_weights and ignore their number."""
        *_, weights = self._arrays(outputs, labels)
        return math.prod(outputs.shape[:-1]) if weights is None else weights.sum()

    def _arrays(self, outputs, labels):
        (labels,) = super()._arrays(outputs, labels)
        weighted = self.class_weights is not None or self.ignore is not None
        if weighted and not _are_integers(labels):
            raise InputError(
                f"SoftmaxCrossEntropy: labels is of type {getattr(labels, 'dtype', type(labels).__name__)} but must be "
                "integers where class_weights or ignore is given"
            )
        if not (_are_integers(labels) and (weighted or self.smoothing)):
            return labels, None
        classes, dtype = outputs.shape[-1], outputs.dtype
        by_class = jnp.ones(classes, dtype) if self.class_weights is None else jnp.asarray(self.class_weights, dtype)
        if by_class.shape != (classes,):
            raise InputError(
                f"SoftmaxCrossEntropy: class_weights has {len(by_class)} weights but must have one for each of the "
                f"{classes} classes"
            )
        own = one_hot(labels, classes, dtype)
        weights = (own * by_class).sum(axis=-1)  # NaN for a label out of range
        if self.smoothing:
            of_others = self.smoothing / classes * by_class / weights[..., None]
            targets = (1 - self.smoothing) * own + of_others
        else:
            targets = labels
        if self.ignore is not None:
            weights = jnp.where(_equal(labels, self.ignore), jnp.zeros_like(weights), weights)
        return targets, weights if weighted else None


@dataclass(frozen=True)
class SquaredError(Loss):
    """Spec of `squared_error`; integer labels become one-of-c targets, `low` for the other classes [I4].

    `low` is 0 for sigmoid outputs; tanh and scaled tanh outputs want -1.
    """

    low: float = 0.0

    op = squared_error

    def __post_init__(self):
        if not (is_number(self.low) and -math.inf < self.low < 1):
            raise InputError(f"SquaredError: low is {self.low!r} but must be a finite number below 1")

    def _arrays(self, outputs, labels):
        (labels,) = super()._arrays(outputs, labels)
        return (one_hot(labels, outputs.shape[-1], outputs.dtype, low=self.low) if _are_integers(labels) else labels,)
