r"""The update by hand: gradient descent with momentum, schedules for its learning rate, clipping, averaging.

(1)  w <- w - eta dE/dw                               eta may differ for every parameter or single weight   [T3]
(2)  g = dE/dw + weight_decay w ;  v <- momentum v + g ;  w <- w - eta v                                    [T6]
(3)  Nesterov:                                            w <- w - eta (g + momentum v)                     [T6]
(4)  clipping:  g <- g min(1, limit / ||g||), ||g||^2 the sum of the squares of all entries of the gradient
(5)  moving average:  a <- a + (1 - decay) (w - a) after each update; a is w at first

Weight decay, momentum and Nesterov are those of torch.optim.SGD. An optimizer is a frozen dataclass with
`init(params) -> state` and `update(grads, state, params) -> (params, state)`; state and params are pytrees.
Tests: tests/test_sgd.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from .errors import InputError, check_count, is_number, shown

__all__ = ["SGD", "Averaged", "AveragedState", "Clipped", "Constant", "Cosine", "Optax", "SGDState", "Step", "WarmUp"]

Schedule = Callable[[Any], Any]  # from the number of updates already made to the learning rate of the next


@dataclass(frozen=True)
class Constant:
    """eta = learning_rate."""

    learning_rate: float

    def __post_init__(self):
        _check_numbers(self, "learning_rate")

    def __call__(self, step):
        return jnp.asarray(self.learning_rate, float)


@dataclass(frozen=True)
class Cosine:
    """eta = final + (initial - final) (1 + cos(pi step / steps)) / 2, and `final` after `steps` updates.

    Loshchilov & Hutter, *SGDR* (2017), eq. 5, without restarts.

    >>> [round(float(Cosine(1.0, steps=4)(step)), 6) for step in (0, 2, 4, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """

    initial: float
    steps: int
    final: float = 0.0

    def __post_init__(self):
        _check_numbers(self, "initial", "final")
        check_count("Cosine", "steps", self.steps)

    def __call__(self, step):
        share = jnp.clip(jnp.asarray(step, float) / self.steps, 0, 1)
        return self.final + (self.initial - self.final) * (1 + jnp.cos(jnp.pi * share)) / 2


@dataclass(frozen=True)
class Step:
    """eta = initial factor^floor(step / every).

    >>> [round(float(Step(1.0, every=2, factor=0.1)(step)), 6) for step in (0, 1, 2, 4)]
    [1.0, 1.0, 0.1, 0.01]
    """

    initial: float
    every: int
    factor: float = 0.1

    def __post_init__(self):
        _check_numbers(self, "initial", "factor")
        check_count("Step", "every", self.every)

    def __call__(self, step):
        return self.initial * jnp.asarray(self.factor, float) ** (step // self.every)


@dataclass(frozen=True)
class WarmUp:
    """eta rises linearly over the first `steps` updates, (step + 1) / steps of `then`'s start, then follows `then`.

    Goyal et al., *Accurate, large minibatch SGD* (2017), section 2.2.

    >>> schedule = WarmUp(2, then=Cosine(1.0, steps=4))
    >>> [round(float(schedule(step)), 6) for step in (0, 1, 2, 4, 6)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    steps: int
    then: Schedule

    def __post_init__(self):
        check_count("WarmUp", "steps", self.steps)

    def __call__(self, step):
        rising = self.then(0) * (step + 1) / self.steps
        return jnp.where(step < self.steps, rising, self.then(jnp.maximum(step - self.steps, 0)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SGDState:
    """State of `SGD`: updates made, the velocity v (None without momentum), the factors of the learning rate."""

    step: jax.Array
    velocity: Any
    rates: Any


@dataclass(frozen=True)
class SGD:
    """Gradient descent (1)-(3).

    Args:
        learning_rate: eta, a number >= 0 or a schedule, a hashable function of the number of updates made.
        momentum: 0 <= momentum < 1.
        nesterov: (3) instead of (2).
        weight_decay: >= 0.

    Raises:
        InputError: a number is out of range.

    >>> optimizer = SGD(0.1)
    >>> params = {"weight": jnp.array([1.0, 2.0])}
    >>> params, state = optimizer.update({"weight": jnp.array([10.0, 0.0])}, optimizer.init(params), params)
    >>> print(params["weight"])
    [0. 2.]
    """

    learning_rate: float | Schedule
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self):
        if not callable(self.learning_rate):
            _check_numbers(self, "learning_rate")
        _check_numbers(self, "momentum", below=1)
        _check_numbers(self, "weight_decay")
        if self.nesterov and not self.momentum:
            raise InputError("SGD: nesterov is True but momentum is 0; it must be above 0")

    def init(self, params, rates=None) -> SGDState:
        """The state before the first update.

        Args:
            params: the parameters.
            rates: factors of the learning rate, a tree that is a prefix of `params`: a number for a whole subtree or
                parameter, or an array of a parameter's shape with one factor for each weight [T3].

        Raises:
            InputError: `rates` does not fit `params`.

        >>> params = {"weight": jnp.array([1.0, 1.0]), "bias": jnp.array(1.0)}
        >>> optimizer = SGD(1.0)
        >>> state = optimizer.init(params, rates={"weight": jnp.array([0.5, 0.0]), "bias": 0.25})
        >>> optimizer.update(params, state, params)[0]
        {'bias': Array(0.75, dtype=float32), 'weight': Array([0.5, 1. ], dtype=float32)}
        """
        if rates is not None:
            try:
                whole = jax.tree.map(lambda rate, part: jax.tree.map(lambda _: rate, part), rates, params)
                rates = jax.tree.map(lambda w, rate: jnp.asarray(rate, w.dtype), params, whole)
                jax.tree.map(lambda w, rate: jnp.broadcast_to(rate, w.shape), params, rates)
            except (ValueError, TypeError) as error:
                raise InputError(
                    "SGD: rates does not fit params; it must be a prefix of that tree, of numbers or like arrays"
                ) from error
        velocity = jax.tree.map(jnp.zeros_like, params) if self.momentum else None
        return SGDState(jnp.zeros((), jnp.int32), velocity, rates)

    def update(self, grads, state: SGDState, params):
        """`(params, state)` after one update.

        Raises:
            InputError: the state is of another optimizer or of other parameters.
        """
        if not isinstance(state, SGDState) or not _alike(state.velocity, params if self.momentum else None):
            raise _foreign(self)
        eta = self.learning_rate(state.step) if callable(self.learning_rate) else self.learning_rate
        change = jax.tree.map(lambda g, w: g + self.weight_decay * w, grads, params) if self.weight_decay else grads
        velocity = state.velocity
        if self.momentum:
            g = change
            velocity = jax.tree.map(lambda v, g: self.momentum * v + g, velocity, g)  # (2)
            change = jax.tree.map(lambda g, v: g + self.momentum * v, g, velocity) if self.nesterov else velocity  # (3)
        if state.rates is not None:
            change = jax.tree.map(lambda rate, d: rate * d, state.rates, change)
        params = jax.tree.map(lambda w, d: w - jnp.asarray(eta, w.dtype) * d, params, change)  # (1)
        return params, SGDState(state.step + 1, velocity, state.rates)


@dataclass(frozen=True)
class Optax:
    """Adapter: any optax gradient transformation as an optimizer of this library.

    >>> import optax
    >>> optimizer = Optax(optax.sgd(0.1))
    >>> params = {"weight": jnp.array([1.0, 2.0])}
    >>> params, state = optimizer.update({"weight": jnp.array([10.0, 0.0])}, optimizer.init(params), params)
    >>> print(params["weight"])
    [0. 2.]
    """

    transformation: Any

    def __post_init__(self):
        if not _has_functions(self.transformation):
            raise InputError(
                f"Optax: transformation is {shown(self.transformation)} but must be one of optax, such as "
                "optax.adam(1e-3)"
            )

    def init(self, params):
        """The transformation's state."""
        return self.transformation.init(params)

    def update(self, grads, state, params):
        """`(params, state)` after one update.

        Raises:
            InputError: the state is of another optimizer or of other parameters.
        """
        if not _alike(state, jax.eval_shape(self.transformation.init, params)):
            raise _foreign(self)
        changes, state = self.transformation.update(grads, state, params)
        return jax.tree.map(lambda w, change: w + change.astype(w.dtype), params, changes), state


@dataclass(frozen=True)
class Clipped:
    """An optimizer that sees no gradient longer than a limit (4).

    Pascanu, Mikolov & Bengio, *On the difficulty of training recurrent neural networks* (2013), algorithm 1.

    Args:
        optimizer: which makes the update.
        limit: above 0, of the norm over all parameters together.

    Raises:
        InputError: the limit is not above 0.

    >>> optimizer = Clipped(SGD(1.0), limit=1.0)
    >>> params = {"weight": jnp.zeros(2)}
    >>> params, state = optimizer.update({"weight": jnp.array([3.0, 4.0])}, optimizer.init(params), params)
    >>> print(params["weight"])
    [-0.6 -0.8]
    """

    optimizer: "Optimizer"
    limit: float

    def __post_init__(self):
        check_optimizer(self.optimizer)
        _check_numbers(self, "limit")
        if not self.limit:
            raise InputError("Clipped: limit is 0.0 but must be above 0")

    def init(self, params):
        """The optimizer's state."""
        return self.optimizer.init(params)

    def update(self, grads, state, params):
        """`(params, state)` after one update; a gradient with a NaN makes all parameters NaN."""
        leaves = [g.astype(jnp.promote_types(g.dtype, jnp.float32)) for g in jax.tree.leaves(grads)]
        largest = jnp.stack([jnp.abs(g).max(initial=0) for g in leaves]).max()
        scale = jnp.where(largest > 0, largest, 1)  # the square of a large entry is infinite
        norm = scale * jnp.sqrt(sum(jnp.square(g / scale).sum() for g in leaves))
        factor = self.limit / jnp.maximum(norm, self.limit)
        return self.optimizer.update(jax.tree.map(lambda g: g * factor.astype(g.dtype), grads), state, params)  # (4)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AveragedState:
    """State of `Averaged`: updates made, the optimizer's state, and the average, float32 for parameters of less."""

    step: jax.Array
    inner: Any
    average: Any


@dataclass(frozen=True)
class Averaged:
    """An optimizer beside which a moving average of the weights is kept (5): `state.averaged` of a `TrainState`.

    Polyak & Juditsky, *Acceleration of stochastic approximation by averaging* (1992); with a decay, Tarvainen &
    Valpola, *Mean teachers* (2017). The average forgets the first weights quickly: after n updates the decay is at most
    (1 + n) / (10 + n), as in `tf.train.ExponentialMovingAverage`.

    Args:
        optimizer: which makes the update.
        decay: 0 <= decay < 1; 0.999 remembers about the last thousand updates.

    Raises:
        InputError: the decay is out of range.

    >>> optimizer = Averaged(SGD(1.0), decay=0.5)
    >>> params = {"weight": jnp.zeros(2)}
    >>> params, state = optimizer.update({"weight": jnp.array([10.0, 0.0])}, optimizer.init(params), params)
    >>> print(params["weight"], state.average["weight"])
    [-10.   0.] [-9.  0.]
    """

    optimizer: "Optimizer"
    decay: float

    def __post_init__(self):
        check_optimizer(self.optimizer)
        _check_numbers(self, "decay", below=1)

    def init(self, params) -> AveragedState:
        """The state before the first update."""
        average = jax.tree.map(lambda w: w.astype(jnp.promote_types(w.dtype, jnp.float32)), params)
        return AveragedState(jnp.zeros((), jnp.int32), self.optimizer.init(params), average)

    def update(self, grads, state: AveragedState, params):
        """`(params, state)` after one update.

        Raises:
            InputError: the state is of another optimizer or of other parameters.
        """
        if not isinstance(state, AveragedState) or not _alike(state.average, params):
            raise _foreign(self)
        params, inner = self.optimizer.update(grads, state.inner, params)
        decay = jnp.minimum(self.decay, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(lambda a, w: a + (1 - decay).astype(a.dtype) * (w - a), state.average, params)  # (5)
        return params, AveragedState(state.step + 1, inner, average)


Optimizer = SGD | Optax | Clipped | Averaged


def check_optimizer(optimizer: Any) -> None:
    """Refuse what is no optimizer, a transformation of optax too: its `update` has another meaning.

    >>> check_optimizer("adam")
    Traceback (most recent call last):
    jaxcnn.errors.InputError: optimizer is 'adam' but must be one, such as SGD(0.1) or Optax(optax.adam(1e-3))
    """
    if isinstance(optimizer, tuple):
        raise InputError(
            f"optimizer is a bare {type(optimizer).__name__} of optax but must be wrapped, as in "
            "Optax(optax.adam(1e-3))"
        )
    if not _has_functions(optimizer):
        raise InputError(
            f"optimizer is {shown(optimizer)} but must be one, such as SGD(0.1) or Optax(optax.adam(1e-3))"
        )


def _has_functions(optimizer):
    return not isinstance(optimizer, type) and hasattr(optimizer, "init") and hasattr(optimizer, "update")


def _alike(tree, other):
    """Whether two trees are of one structure, their arrays of the same shapes."""
    if jax.tree.structure(tree) != jax.tree.structure(other):
        return False
    return all(jnp.shape(a) == jnp.shape(b) for a, b in zip(*map(jax.tree.leaves, (tree, other)), strict=True))


def _foreign(optimizer):
    name = type(optimizer).__name__
    return InputError(f"{name}: state is of another optimizer or other parameters but must be from its own init")


def _check_numbers(spec, *names, below=math.inf):
    """Refuse a field that is not a number from 0 to below `below`, and make it a Python float.

    A NumPy float would carry its dtype into the parameters.
    """
    for name in names:
        value = getattr(spec, name)
        if not (is_number(value) and 0 <= float(value) < below):
            limit = "finite" if below == math.inf else f"below {below}"
            raise InputError(
                f"{type(spec).__name__}: {name} is {shown(value)} but must be a number at least 0 and {limit}"
            )
        object.__setattr__(spec, name, float(value))
