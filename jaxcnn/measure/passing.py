r"""What passes each layer, forwards and backwards, handed to a function.

(1)  found^l = function(layer, w^l, residuals, delta^l, context),   context.x = x^{l-1}, context.y = x^l

delta^l = dE/dx^l as in jaxcnn/layers/sequential.py. Tests: tests/measure/test_passing.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..layers.base import Layer, Params, walk
from ..layers.rules import with_rules
from ..losses import Loss
from ..training import checked_batch, run_compiled

__all__ = ["each_layer", "norms_and_zeros"]


@dataclass(frozen=True)
class _Handing:
    """The rule that hands on dx, and `function`'s result in the place of the gradients."""

    function: Callable

    def __call__(self, layer, params, residuals, dy, context):
        return layer.backward(residuals, dy)[0], {"found": self.function(layer, params, residuals, dy, context)}


def each_layer(
    network: Layer,
    loss: Loss,
    params: Params,
    x,
    labels,
    function: Callable,
    *,
    key: jax.Array | None = None,
    train: bool = True,
) -> dict[str, Any]:
    """What `function` finds of every layer that holds no other, by the layers' names, in one pass.

    Args:
        network, loss: specs.
        params: the parameters; with statistics, from `merged`, where there are batch norms and `train` is False.
        x, labels: a batch; x is cast to the parameters' dtype.
        function: `function(layer, params, residuals, dy, context)`, what a rule of `with_rules` is called with. It runs
            in a compiled program: its result is a pytree of arrays.
        key: for dropout and the like.
        train: whether layers behave as in training.

    >>> from jaxcnn import Dense, ReLU, Sequential, SoftmaxCrossEntropy
    >>> network = Sequential((Dense(3), ReLU()))
    >>> params = network.init(jax.random.key(0), (2,))
    >>> def largest(layer, params, residuals, dy, context):
    ...     return jnp.abs(dy).max()
    >>> found = each_layer(network, SoftmaxCrossEntropy(), params, jnp.ones((1, 2)), jnp.array([1]), largest)
    >>> list(found)
    ['dense1', 'relu1']
    """
    batch = checked_batch(network, loss, params, x, labels)
    found = run_compiled(_found, (0, 1, 6, 7), network, loss, params, *batch, key, train, function)
    return {path: of_layer["found"] for path, _, of_layer in walk(network, found)}


def _found(network, loss, params, x, labels, key, train, function):
    network = with_rules(network, {lambda name, layer: not layer.children(): _Handing(function)})
    y, residuals = network.forward(params, x, train=train, key=key)
    _, of_loss = loss.forward(y, labels)
    return network.backward(residuals, loss.backward(of_loss))[1]


def norms_and_zeros(layer, params, residuals, dy, context) -> dict[str, jax.Array]:
    """For `each_layer`: the norms of delta and of the layer's gradient, and the shares of zeros in y and delta.

    >>> from jaxcnn import ReLU, SquaredError
    >>> found = each_layer(ReLU(), SquaredError(), {}, jnp.array([[-1.0, 4.0]]), jnp.array([1]), norms_and_zeros)
    >>> print({name: value.item() for name, value in found[""].items()})
    {'delta': 3.0, 'delta_zeros': 0.5, 'gradient': 0.0, 'zeros': 0.5}
    """
    _, grads = layer.backward(residuals, dy)
    return {
        "delta": _norm([dy]),
        "gradient": _norm(jax.tree.leaves(grads)),
        "zeros": (context.y == 0).mean(),
        "delta_zeros": (dy == 0).mean(),
    }


def _norm(arrays):
    wide = [array.astype(jnp.promote_types(array.dtype, jnp.float32)) for array in arrays]
    return jnp.sqrt(sum((jnp.vdot(array, array) for array in wide), jnp.float32(0)))
