r"""Losses over a batch of N samples with K outputs: the only place that divides by N.

Shapes:  y, u, t (N,K)   labels (N,)   E and dE: scalars   r = N for reduction "mean", 1 for the documents' "sum" [T2]

(1)  squared error          E  = 1/(2r) sum_{n,k} (t[n,k] - y[n,k])^2                                 [L1]
(2)                         dy = dE (y - t) / r             dt = -dy
(3)  softmax cross-entropy  E  = -1/r sum_{n,k} t[n,k] ln p[n,k],    p = softmax(u)                   [L2]
(4)                         du = dE (p sum_k t[n,k] - t) / r        dt = -dE ln p / r

With f'(u) from the layer before, (2) is the delta of the output layer. In (4) sum_k t = 1 for a label, so du = p - t.
Loops: reference/losses.py. Tests: tests/test_losses.py.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from .errors import InputError, check_floating, check_shape, is_number
from .operation import Operation, operation, operation_of

__all__ = ["Loss", "SoftmaxCrossEntropy", "SquaredError", "one_hot", "softmax_cross_entropy", "squared_error"]


@operation
def squared_error(outputs, targets, *, reduction: str = "mean"):
    """Half the squared distance between outputs and targets [L1].

    Args:
        outputs: (N, K), floating point.
        targets: (N, K), the same dtype; `one_hot` makes them from labels.
        reduction: "mean" over the N samples, or "sum".

    Returns:
        A scalar of that dtype. Its derivative is `squared_error.backward`.

    Raises:
        InputError: a shape, a dtype or the reduction does not fit.

    >>> print(squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]])))
    2.5
    """
    check_floating("squared_error", 2, outputs=outputs, targets=targets)
    check_shape("squared_error", "targets", targets, outputs.shape)
    difference = outputs - targets
    return (difference * difference).sum() / 2 / _divisor("squared_error", reduction, outputs), difference


@squared_error.rule
def _(residuals, dy, *, reduction):
    """(2): `(doutputs, dtargets)` from `squared_error.forward`'s residuals and the scalar dy = dE."""
    doutputs = dy * residuals / _divisor("squared_error", reduction, residuals)
    return doutputs, -doutputs


@operation
def softmax_cross_entropy(logits, labels, *, reduction: str = "mean"):
    """Cross-entropy between softmax(logits) and the labels [L2], by log-sum-exp: large logits are safe.

    Args:
        logits: (N, K), floating point; softmax is part of the loss.
        labels: (N,) integers in [0, K), or (N, K) of the logits' dtype: one-hot or any other targets. An integer
            out of range gives NaN, in the value and in the gradient.
        reduction: "mean" over the N samples, or "sum".

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
    """
    check_floating("softmax_cross_entropy", 2, logits=logits)
    logp = jax.nn.log_softmax(logits, axis=-1)
    if _are_integers(labels):
        check_shape("softmax_cross_entropy", "labels", labels, logits.shape[:1])
        chosen = jnp.take_along_axis(logp, jnp.asarray(labels)[:, None], axis=1, mode="clip")[:, 0]
        total = -jnp.where(_in_range(labels, logits.shape[1]), chosen, jnp.nan).sum()
    else:
        check_floating("softmax_cross_entropy", logits=logits, labels=labels)
        check_shape("softmax_cross_entropy", "labels", labels, logits.shape)
        total = -(labels * logp).sum()
    return total / _divisor("softmax_cross_entropy", reduction, logits), (logp, labels)


@softmax_cross_entropy.rule
def _(residuals, dy, *, reduction):
    """(4): `(dlogits, dlabels)` from the residuals and the scalar dy = dE; integer labels have no gradient: None."""
    logp, labels = residuals
    scale = dy / _divisor("softmax_cross_entropy", reduction, logp)
    if _are_integers(labels):
        return scale * (jnp.exp(logp) - one_hot(labels, logp.shape[1], logp.dtype)), None
    dlogits = scale * (jnp.exp(logp) * labels.sum(axis=-1, keepdims=True) - labels)
    return dlogits, -scale * logp


def one_hot(labels, classes: int, dtype=None, *, low: float = 0.0) -> jax.Array:
    """Targets one-of-c from integer labels (N,): (N, classes), 1 for the label's class and `low` for the others [I4].

    The documents take 0 for sigmoid outputs and -1 for tanh outputs.

    A label out of range gives a row of NaN, so that no loss of it is finite.

    >>> print(one_hot(jnp.array([2, 0]), 3))
    [[0. 0. 1.]
     [1. 0. 0.]]
    >>> print(one_hot(jnp.array([1]), 3, low=-1))
    [[-1.  1. -1.]]
    """
    own = jnp.asarray(labels)[:, None] == jnp.arange(classes)
    targets = jnp.where(own, 1, low).astype(dtype or float)
    return jnp.where(_in_range(labels, classes)[:, None], targets, jnp.nan)


def _are_integers(labels):
    return hasattr(labels, "dtype") and jnp.issubdtype(labels.dtype, jnp.integer)


def _in_range(labels, classes):
    labels = jnp.asarray(labels)
    return (labels >= 0) & (labels < classes)


def _divisor(op, reduction, outputs):
    if reduction not in ("mean", "sum"):
        raise InputError(f'{op}: reduction is {reduction!r} but must be "mean" or "sum"')
    return outputs.shape[0] if reduction == "mean" else 1


@dataclass(frozen=True)
class Loss:
    """A loss spec: static facts, for integer labels (N,) or the operation's own targets.

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

    def mean(self, E, count: int):
        """E of a batch of `count` samples as the mean over them, whatever the reduction."""
        return E / count if self.reduction == "sum" else E

    def apply(self, outputs, labels) -> jax.Array:
        """The loss; its derivative under `jax.grad` is the hand-written rule."""
        return self.op(outputs, self._targets(outputs, labels), reduction=self.reduction)

    def forward(self, outputs, labels):
        """The loss and what `backward` needs; plain JAX with no rule attached."""
        return self.op.forward(outputs, self._targets(outputs, labels), reduction=self.reduction)

    def backward(self, residuals, dy=1.0) -> jax.Array:
        """dE/d(outputs), from which the network's `backward` starts."""
        return self.op.backward(residuals, dy, reduction=self.reduction)[0]

    def _targets(self, outputs, labels):
        return jnp.asarray(labels) if isinstance(labels, list | tuple) else labels


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """Spec of `softmax_cross_entropy`; integer labels become targets (1 - smoothing) one_hot + smoothing / K.

    Label smoothing: Szegedy et al., *Rethinking the Inception architecture* (2016), section 7.

    >>> loss, logits, labels = SoftmaxCrossEntropy(smoothing=0.3), jnp.zeros((1, 3)), jnp.array([2])
    >>> print(loss.backward(loss.forward(logits, labels)[1]).round(4))  # p - t, with p = 1/3
    [[ 0.2333  0.2333 -0.4667]]
    """

    smoothing: float = 0.0

    op = softmax_cross_entropy

    def __post_init__(self):
        if not (is_number(self.smoothing) and 0 <= self.smoothing < 1):
            raise InputError(
                f"SoftmaxCrossEntropy: smoothing is {self.smoothing!r} but must be a number of at least 0 and below 1"
            )

    def _targets(self, outputs, labels):
        labels = super()._targets(outputs, labels)
        if not (self.smoothing and _are_integers(labels)):
            return labels
        classes = outputs.shape[1]
        return (1 - self.smoothing) * one_hot(labels, classes, outputs.dtype) + self.smoothing / classes


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

    def _targets(self, outputs, labels):
        labels = super()._targets(outputs, labels)
        return one_hot(labels, outputs.shape[1], outputs.dtype, low=self.low) if _are_integers(labels) else labels
