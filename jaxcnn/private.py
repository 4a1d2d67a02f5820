r"""Training that tells little of any single sample: clipped gradients of batches drawn by chance, and noise: DP-SGD.

N samples, of which B are expected in a batch, at most M; g_n the gradient of sample n's own loss, see
`measure.samples`; C the limit of its norm; sigma the noise; u_n drawn evenly from 0 to 1 for each sample and step.

(1)  batch     n is in it  <=>  u_n < q  and  u_n is one of the M smallest,   q = B / N
(2)  gradient  g = (sum_n c_n g_n + sigma C z) / B,   c_n = min(1, C / |g_n|),   z ~ N(0, I)
(3)  update    w <- update(w, g + the penalty's gradient)
(4)  M is the smallest for which exp(-N (a ln(a / q) + (1 - a) ln((1 - a) / (1 - q)))) <= 1e-9,   a = M / N

One sample more or less changes the sum in (2) by C at most, whatever it is: so `steps` of (3) are (epsilon, delta)-
differentially private for data sets that differ in one sample (Abadi et al. 2016, *Deep Learning with Differential
Privacy*, algorithm 1), with B in the place of the number drawn, which is no secret then. By (4), Chernoff's bound, a
batch is cut to M with a probability of at most 1e-9; any M may be chosen, since epsilon is that of batches cut to a
random part (Ganesh 2025, arXiv 2508.15089). (3) uses g alone: momentum, weight decay, averages and penalties of the
parameters are free.

What epsilon does not cover: the choice of arguments by trying them on the same data, or on images held out; N; images
that were normalised by their own mean. The noise is of floating-point numbers, the theorem of real ones (Mironov 2012,
*On Significance of the Least Significant Bits*). It is drawn from the state's key: who knows that, takes it away.
Tests: tests/test_private.py.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .errors import InputError, check_count, check_key, check_shape, is_int, is_number, shown
from .fit import validation_pair
from .layers.base import Layer, Params
from .losses import Loss
from .measure.samples import clipped_gradient
from .progress import Progress
from .recovery import NonFiniteLoss
from .sgd import Optimizer
from .training import (
    TrainState,
    added,
    cast,
    check_samples,
    check_specs,
    checked_batch,
    evaluate,
    in_host_memory,
    refuse_traced,
    run_compiled,
)

__all__ = ["PoissonSampling", "epsilon", "noise_for", "private_fit", "private_gradient"]


@dataclass(frozen=True)
class PoissonSampling:
    """How batches are drawn (1): each of `count` samples by itself, with probability `expected / count`.

    Args:
        count: N, of all samples.
        expected: B, from 1 to N.
        size: M, from B to N: the rows of a batch. What is drawn fills the first of them. `of` chooses it.

    Raises:
        InputError: a number is out of range.

    >>> PoissonSampling.of(60_000, expected=1024)
    PoissonSampling(count=60000, expected=1024, size=1235)
    """

    count: int
    expected: int
    size: int

    def __post_init__(self):
        check_count("PoissonSampling", "count", self.count)
        for name, least in (("expected", 1), ("size", self.expected)):
            value = getattr(self, name)
            if not (is_int(value) and least <= value <= self.count):
                raise InputError(
                    f"PoissonSampling: {name} is {shown(value)} but must be an int from {least} to {self.count}"
                )

    @classmethod
    def of(cls, count: int, expected: int) -> "PoissonSampling":
        """With the size of (4)."""
        N, q = count, cls(count, expected, count).probability
        sizes = (M for M in range(expected, N) if _tail(N, q, M / N) <= 1e-9)
        return cls(count, expected, next(sizes, N))

    @property
    def probability(self) -> float:
        """q."""
        return self.expected / self.count

    def draw(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(1): the indices of a batch, int32 (size,), in order, and which rows are of it (size,); the others are 0.

        >>> rows, mask = PoissonSampling(count=10, expected=4, size=6).draw(jax.random.key(0))
        >>> print(rows, mask)
        [2 5 6 9 0 0] [ True  True  True  True False False]
        """
        u = jax.random.bits(key, (self.count,), jnp.uint32)  # in units of 2^-32
        below = min(math.floor(self.probability * 2**32), 2**32 - 1)  # so that no sample is drawn too often
        chosen = (u < np.uint32(below)) & (u <= jnp.sort(u)[self.size - 1])
        (rows,) = jnp.nonzero(chosen, size=self.size, fill_value=0)
        return rows.astype(jnp.int32), jnp.arange(self.size) < chosen.sum()


def _tail(N, q, a):
    """The bound of (4)."""
    return math.exp(-N * (a * math.log(a / q) + (1 - a) * math.log((1 - a) / (1 - q))))


def private_gradient(
    network: Layer,
    loss: Loss,
    params: Params,
    x,
    labels,
    *,
    limit: float,
    noise: float,
    expected: int,
    key: jax.Array,
    mask=None,
) -> Params:
    """(2): a tree like the parameters.

    Args:
        network, loss: specs; a sample's loss must be its own.
        params: the parameters, float32 or float64.
        x, labels: a batch; x is cast to the parameters' dtype.
        limit: C, above 0.
        noise: sigma, at least 0: the noise's deviation in units of C.
        expected: B, by which is divided whatever the mask says.
        key: of the noise, and of dropout and the like.
        mask: (N,), which rows are of the batch; what stands in the others does not matter. None: all.

    Raises:
        InputError: an argument is out of range; samples meet in a batch norm, or in the loss's divisor.

    >>> from jaxcnn import Dense, SquaredError
    >>> params = {"weight": jnp.array([[1.0]]), "bias": jnp.array([0.0])}
    >>> x, labels = jnp.array([[2.0], [3.0]]), jnp.array([0, 0])
    >>> how = {"limit": 1.0, "expected": 4, "key": jax.random.key(0)}
    >>> for noise in (0.0, 2.0):
    ...     g = private_gradient(Dense(1), SquaredError(), params, x, labels, noise=noise, **how)
    ...     print(f"{g['weight'].item():.3f}")
    0.461
    -0.168
    """
    x, labels = checked_batch(network, loss, params, x, labels)
    _check_numbers("private_gradient", limit, noise)
    check_count("private_gradient", "expected", expected)
    check_key("private_gradient", key)
    _check_alone("private_gradient", network, loss, params, x, labels)
    mask = jnp.ones(len(x), bool) if mask is None else mask
    check_shape("private_gradient", "mask", mask, (len(x),))
    return run_compiled(
        _gradient, (0, 1), network, loss, params, x, jnp.asarray(labels), limit, noise, expected, key, mask
    )


def _gradient(network, loss, params, x, labels, limit, noise, expected, key, mask):
    drawing, own = jax.random.split(key)
    mask = mask != 0
    x, labels = (jnp.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, jnp.zeros_like(a)) for a in (x, labels))
    summed, _ = clipped_gradient(network, loss, params, x, labels, limit, weights=mask.astype(x.dtype), key=own)
    leaves, tree = jax.tree.flatten(summed)
    keys = jax.random.split(drawing, len(leaves))
    noisy = [g + noise * limit * jax.random.normal(k, g.shape, g.dtype) for g, k in zip(leaves, keys, strict=True)]
    return tree.unflatten([g / expected for g in noisy])  # (2)


def private_fit(
    network: Layer,
    loss: Loss,
    optimizer: Optimizer,
    state: TrainState,
    images,
    labels,
    *,
    sampling: PoissonSampling,
    steps: int,
    limit: float,
    noise: float,
    validation: tuple[Any, Any] | None = None,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
) -> tuple[TrainState, list[dict]]:
    """Train until the state has made `steps` updates (3); `epsilon` tells what they give away.

    An epoch is about N / B updates, and one compiled program. The history tells nothing of the training images, since
    their loss, how many were classified right and how many were drawn are not covered by epsilon.

    Args:
        network, loss, optimizer: specs.
        state: from `init_state`, or from an earlier call, which goes on; its parameters may be trained on other data.
            Its key is the secret: keep it, and give away `state.averaged` alone. A seed is guessed, and
            `jax.random.key` has 2^32 of them: `jax.random.wrap_key_data(np.frombuffer(os.urandom(8), np.uint32))`.
        images: (N, ...); they are cast to the parameters' dtype, and lie on the device.
        labels: (N,) integers, or a map of them for each image.
        sampling: how batches are drawn, of N samples.
        steps: updates in all, at least 1.
        limit: C, above 0, of the norm of a sample's gradient.
        noise: sigma, at least 0: `noise_for` finds that of an epsilon.
        validation: images and labels, others than those, to evaluate after every epoch; what is measured is of them.
        on_epoch: called with the progress after every epoch; it may add to the dict `progress.history[-1]`.

    Returns:
        `(state, history)`: one dict for each epoch with "epoch", "step", "seconds" (of training alone) and, with
        `validation`, "validation_loss" and "validation_accuracy", of `state.averaged`.

    Raises:
        InputError: an argument is out of range or does not fit; samples meet, see `private_gradient`; this runs inside
            of `jit`, `scan`, `grad` or `vmap`.
        NonFiniteLoss: a parameter became NaN or infinite.

    >>> from jaxcnn import SGD, Dense, SoftmaxCrossEntropy, init_state
    >>> x, labels = jnp.tile(jnp.eye(2), (200, 1)), jnp.tile(jnp.arange(2), 200)
    >>> network, loss, optimizer = Dense(2), SoftmaxCrossEntropy(), SGD(1.0)
    >>> state = init_state(network, optimizer, jax.random.key(0), (2,))
    >>> sampling = PoissonSampling.of(400, expected=40)
    >>> state, history = private_fit(network, loss, optimizer, state, x, labels, sampling=sampling, steps=40,
    ...                              limit=1.0, noise=2.0, validation=(x[:2], labels[:2]))
    >>> [epoch["step"] for epoch in history], history[-1]["validation_accuracy"]
    ([10, 20, 30, 40], 1.0)
    """
    refuse_traced("private_fit", state, images, labels, validation)
    check_specs(network, loss, optimizer, state)
    images, labels = check_samples(network, loss, images, in_host_memory(labels))
    if not isinstance(sampling, PoissonSampling):
        raise InputError(
            f"private_fit: sampling is {shown(sampling)} but must be a PoissonSampling, such as "
            f"PoissonSampling.of({len(images)}, expected=...)"
        )
    if sampling.count != len(images):
        raise InputError(f"private_fit: sampling.count is {sampling.count} but must be {len(images)}, as of the images")
    check_count("private_fit", "steps", steps)
    _check_numbers("private_fit", limit, noise)
    x, t = cast(state.params, images), jnp.asarray(labels)
    _check_alone("private_fit", network, loss, state.params, x[:1], t[:1])
    if validation is not None:
        validation = validation_pair("private_fit", network, loss, state.averaged, validation)
    each, history = max(1, round(1 / sampling.probability)), []
    while (done := int(state.step)) < steps:
        before, started = state, time.perf_counter()
        count = min(each - done % each, steps - done)
        specs = network, loss, optimizer, sampling
        state = run_compiled(_steps, (0, 1, 2, 3), *specs, state, x, t, limit, noise, np.int32(count))
        finite = all(bool(jnp.isfinite(w).all()) for w in jax.tree.leaves(state.averaged))
        seconds = time.perf_counter() - started
        step = int(state.step)
        if not finite:
            raise NonFiniteLoss(f"a parameter is not finite after step {step}", step, Progress(before), list(history))
        state = replace(state, epoch=jnp.full_like(state.epoch, -(-step // each)))
        history.append({"epoch": int(state.epoch), "step": step, "seconds": seconds})
        if validation is not None:
            measured = evaluate(network, loss, state.averaged, *validation)
            history[-1] |= {"validation_loss": measured.loss, "validation_accuracy": measured.accuracy}
        on_epoch(Progress(state, tuple(history)))
    return state, history


def _steps(network, loss, optimizer, sampling, state, images, labels, limit, noise, count):
    def step(_, state):
        _, drawing = jax.random.split(state.key)
        choosing, key = jax.random.split(jax.random.fold_in(drawing, state.step))
        rows, mask = sampling.draw(choosing)
        batch = images[rows], labels[rows]
        g = _gradient(network, loss, state.params, *batch, limit, noise, sampling.expected, key, mask)
        g = added(g, network.penalty(state.params)[1])
        params, optimizer_state = optimizer.update(g, state.optimizer, state.params)  # (3)
        return replace(state, params=params, optimizer=optimizer_state, step=state.step + 1)

    return jax.lax.fori_loop(0, count, step, state)


def epsilon(sampling: PoissonSampling, noise: float, steps: int, delta: float) -> float:
    """What `steps` updates of `private_fit` give away: they are (epsilon, delta)-private, one sample added or removed.

    By `dp_accounting`, whose sums over privacy losses bound epsilon from above, closely (Koskela et al. 2020;
    Doroshenko et al. 2022, *Connect the Dots*).

    Args:
        sampling: how batches are drawn.
        noise: sigma, at least 0; without noise epsilon is infinite.
        steps: at least 1.
        delta: between 0 and 1; below 1 / N, or it allows to give away a sample.

    Raises:
        InputError: an argument is out of range; dp-accounting is not installed.

    >>> round(epsilon(PoissonSampling.of(60_000, expected=600), noise=4.0, steps=10_000, delta=1e-5), 2)
    0.95
    """
    _check_accounted("epsilon", sampling, steps, delta)
    _check_numbers("epsilon", 1.0, noise)
    dp_accounting, pld = _accounting()
    return float(pld.PLDAccountant().compose(_event(dp_accounting, sampling, noise), steps).get_epsilon(delta))


def noise_for(target: float, sampling: PoissonSampling, steps: int, delta: float) -> float:
    """The smallest sigma, to 0.001, for which `epsilon` is at most `target`: it takes some seconds.

    Raises:
        InputError: an argument is out of range; dp-accounting is not installed; it would be below 0.3.

    >>> round(noise_for(2.0, PoissonSampling.of(10_000, expected=10_000), steps=1, delta=1e-5), 2)
    1.99
    """
    _check_accounted("noise_for", sampling, steps, delta)
    if not (is_number(target) and 0 < target < math.inf):
        raise InputError(f"noise_for: target is {shown(target)} but must be a finite number above 0")
    dp_accounting, pld = _accounting()

    def accountant():
        return pld.PLDAccountant(value_discretization_interval=1e-3)  # ten times as quick; a little above `epsilon`

    def event(noise):
        return dp_accounting.SelfComposedDpEvent(_event(dp_accounting, sampling, noise), steps)

    bracket = dp_accounting.LowerEndpointAndGuess(0.3, 1.0)
    try:
        return float(dp_accounting.calibrate_dp_mechanism(accountant, event, target, delta, bracket, tol=1e-3))
    except dp_accounting.mechanism_calibration.NoBracketIntervalFoundError:
        raise InputError(
            f"noise_for: target is {shown(target)} but must be an epsilon of a noise of at least 0.3"
        ) from None


def _event(dp_accounting, sampling, noise):
    """One step, as the accountant knows it."""
    return dp_accounting.TruncatedSubsampledGaussianDpEvent(
        sampling.count, sampling.probability, sampling.size, float(noise)
    )


def _accounting():
    try:
        import dp_accounting
        from dp_accounting import pld
    except ImportError:
        raise InputError("epsilon needs dp-accounting: pip install '.[privacy]' in a checkout") from None
    return dp_accounting, pld


def _check_accounted(name, sampling, steps, delta):
    if not isinstance(sampling, PoissonSampling):
        raise InputError(f"{name}: sampling is {shown(sampling)} but must be a PoissonSampling")
    check_count(name, "steps", steps)
    if not (is_number(delta) and 0 < delta < 1):
        raise InputError(f"{name}: delta is {shown(delta)} but must be a number between 0 and 1")


def _check_numbers(name, limit, noise):
    for what, value, least in (("limit", limit, "above 0"), ("noise", noise, "of at least 0")):
        if isinstance(value, jax.Array):  # of a program that is compiled
            continue
        if not (is_number(value) and 0 <= value < math.inf) or (what == "limit" and not value):
            raise InputError(f"{name}: {what} is {shown(value)} but must be a finite number {least}")


def _check_alone(name, network, loss, params, x, labels):
    """Refuse what is not of each sample alone, and parameters too coarse to clip and to add noise to."""
    for leaf in jax.tree.leaves(params):
        if leaf.dtype not in (jnp.float32, jnp.float64):
            raise InputError(f"{name}: params are of type {leaf.dtype} but must be float32 or float64")
    outputs = jnp.zeros((len(x), *network.output_shape(x.shape[1:])), x.dtype)
    if loss.reduction == "mean" and not is_int(loss.count(outputs, labels)):
        raise InputError(
            f"{name}: loss is {shown(loss)}, a mean whose divisor all labels decide, but must be of each sample alone: "
            'reduction="sum"'
        )
