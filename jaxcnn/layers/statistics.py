r"""Statistics of a network's batch norms: a tree beside the parameters, which no optimizer sees.

A batch gives its mean m_b, its biased variance v_b and the count n_b of entries for each channel: `Layer.statistics`
reads them out of the residuals. What evaluation uses is a function of them.

(1)  moving   mean <- (1 - a) mean + a m_b ,   variance <- (1 - a) variance + a v_b n_b / (n_b - 1)        [N5]
(2)  pooled   n = n_1 + n_2 ,  mean = (n_1 m_1 + n_2 m_2) / n ,
              variance = (n_1 v_1 + n_2 v_2) / n + n_1 n_2 (m_1 - m_2)^2 / n^2                            [N6]

(1) is PyTorch's: the momentum a is the weight of the new batch (Keras and Flax call 1 - a the momentum), and the
variance is the unbiased one; where n_b = 1 it is 0. It begins with mean 0 and variance 1. (2), over a pass of images,
is the mean and the variance of all their entries (Chan, Golub & LeVeque 1979; Wu & Johnson, *Rethinking "batch" in
BatchNorm*, 2021).
Tests: tests/layers/test_statistics.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ..errors import InputError, check_count, is_number, shown
from ..meshes import in_mesh
from .base import Layer, Params, Shape

__all__ = ["apply_with_statistics", "exact_statistics", "init_statistics", "merged", "moving_statistics"]

Statistics = Any  # a tree like params with {"mean": (C,), "variance": (C,)} for each batch norm; {} where there is none

MOMENTUM = 0.1  # PyTorch's


def init_statistics(network: Layer, params: Params, in_shape: Shape) -> Statistics:
    """Statistics before the first batch, mean 0 and variance 1; {} for a network without batch norm.

    Args:
        network: a layer.
        params: its parameters, or their shapes and dtypes.
        in_shape: of one sample.

    >>> from jaxcnn import BatchNorm, Conv2d, Sequential
    >>> network = Sequential((Conv2d(3, 3), BatchNorm()))
    >>> params = network.init(jax.random.key(0), (8, 8, 1))
    >>> print(init_statistics(network, params, (8, 8, 1))["batchnorm1"])
    {'mean': Array([0., 0., 0.], dtype=float32), 'variance': Array([1., 1., 1.], dtype=float32)}
    """

    def of_a_batch(params, key):
        dtype = jnp.result_type(*jax.tree.leaves(params), jnp.bfloat16)
        return network.statistics(network.forward(params, jnp.zeros((1, *in_shape), dtype), train=True, key=key)[1])

    def initial(batch):
        shape, dtype = batch["mean"].shape, batch["mean"].dtype
        return {"mean": jnp.zeros(shape, dtype), "variance": jnp.ones(shape, dtype)}

    return _each(initial, jax.eval_shape(of_a_batch, params, jax.random.key(0)))


def moving_statistics(statistics: Statistics, batch: Statistics, momentum: float = MOMENTUM) -> Statistics:
    """(1): the statistics after one more batch.

    Args:
        statistics: from `init_statistics` or an earlier batch.
        batch: `network.statistics(residuals)`, or from `apply_with_statistics`.
        momentum: the weight of the batch, from 0 to 1.

    Raises:
        InputError: the momentum is out of range.

    >>> batch = {"mean": jnp.array([1.0]), "variance": jnp.array([2.0]), "count": jnp.array(3.0)}
    >>> print(moving_statistics({"mean": jnp.zeros(1), "variance": jnp.ones(1)}, batch))
    {'mean': Array([0.1], dtype=float32), 'variance': Array([1.2], dtype=float32)}
    """
    if not (is_number(momentum) and 0 <= momentum <= 1):
        raise InputError(f"moving_statistics: momentum is {shown(momentum)} but must be from 0 to 1")

    def moved(batch, old):
        n = batch["count"]
        new = {"mean": batch["mean"], "variance": batch["variance"] * n / jnp.maximum(n - 1, 1)}
        return {name: (1 - momentum) * old[name] + momentum * new[name] for name in new}

    return _each(moved, batch, statistics)


def exact_statistics(network: Layer, params: Params, images, *, batch_size: int = 512, key=None) -> Statistics:
    """(2): mean and variance over all the images, each normalised with its batch on the way, as in training.

    The choice for weights that were not those of the last steps, such as their moving average.

    Args:
        network: a layer.
        params: its parameters, without statistics.
        images: (N, ...) of the parameters' dtype.
        batch_size: images at a time.
        key: for dropout and the like.

    Returns:
        The statistics, {} for a network without batch norm.

    Raises:
        InputError: the images do not fit the network.

    >>> from jaxcnn import BatchNorm
    >>> norm, x = BatchNorm(), jnp.arange(5.0)[:, None]
    >>> print(exact_statistics(norm, norm.init(jax.random.key(0), (1,)), x, batch_size=2))
    {'mean': Array([2.], dtype=float32), 'variance': Array([2.], dtype=float32)}
    """
    check_count("exact_statistics", "batch_size", batch_size)
    total = None
    for start in range(0, len(images), batch_size):
        batch = _of_batch(network, params, jnp.asarray(images[start : start + batch_size]), key)
        total = batch if total is None else pooled_statistics(total, batch)
    return _each(lambda each: {name: each[name] for name in ("mean", "variance")}, total or {})


@partial(jax.jit, static_argnums=0)
def _of_batch(network, params, x, key):
    return network.statistics(network.forward(params, x, train=True, key=key)[1])


def pooled_statistics(first: Statistics, second: Statistics) -> Statistics:
    """(2): those of two batches together."""
    return _each(_pooled, first, second)


def _pooled(first, second):
    n = first["count"] + second["count"]
    share = second["count"] / n
    apart = second["mean"] - first["mean"]
    variance = first["variance"] + share * (second["variance"] - first["variance"]) + share * (1 - share) * apart**2
    return {"mean": first["mean"] + share * apart, "variance": variance, "count": n}  # (2)


def merged(params: Params, statistics: Statistics) -> Params:
    """Parameters and statistics in one tree, as a network is evaluated: `network.apply(merged(params, statistics), x)`.

    >>> merged({"dense1": 1, "batchnorm1": {"scale": 2}}, {"batchnorm1": {"mean": 3}})
    {'dense1': 1, 'batchnorm1': {'scale': 2, 'mean': 3}}
    """
    if not statistics:
        return params
    return params | {
        name: merged(params.get(name, {}), part) if isinstance(part, dict) else part
        for name, part in statistics.items()
    }


def apply_with_statistics(network: Layer, params: Params, x, *, key=None) -> tuple[jax.Array, Statistics]:
    """The output as in training and the batch's statistics, for `jax.grad(..., has_aux=True)`.

    The derivative of the output is `network.backward`; the statistics are constants.

    >>> from jaxcnn import BatchNorm
    >>> norm, x = BatchNorm(), jnp.array([[1.0], [3.0]])
    >>> def E(params):
    ...     y, statistics = apply_with_statistics(norm, params, x)
    ...     return (y**2).sum(), statistics
    >>> grads, statistics = jax.grad(E, has_aux=True)(norm.init(jax.random.key(0), (1,)))
    >>> print(grads["scale"].round(3), statistics["mean"], statistics["variance"])
    [4.] [2.] [1.]
    """

    def forward(x, params, key):
        y, residuals = network.forward(params, x, train=True, key=key)
        return (y, network.statistics(residuals)), residuals

    def backward(residuals, cotangents):
        dx, grads = network.backward(residuals, cotangents[0])
        return dx, grads, None

    def output(x, params, key):
        return forward(x, params, key)[0]

    rule = jax.custom_vjp(output)
    rule.defvjp(forward, backward)
    return in_mesh("apply_with_statistics: x", rule, x, params, key)


def _each(function: Callable, batch: Statistics, *others: Statistics) -> Statistics:
    """`function` of the statistics of every batch norm: those of a batch, by which they are told apart, and others."""
    if "count" in batch:
        return function(batch, *others)
    return {name: _each(function, part, *(other[name] for other in others)) for name, part in batch.items()}
