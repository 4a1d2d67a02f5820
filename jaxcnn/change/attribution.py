r"""Attribution: how much each entry of an image counts for one output, by the rules that say what "counts" means.

(1)  dy = e_k, 1 for the class k and 0 elsewhere; dx is what the network's backward makes of it under the rules

Without rules dx is the gradient of the output y_k. The rules of saliency.py change it, those of relevance.py make it
y_k's division among the entries. Tests: tests/change/test_attribution.py.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp

from ..errors import InputError, check_shape
from ..layers.base import Layer, Params
from ..layers.rules import Rule, Selector, with_rules
from ..training import cast, check_layer, is_traced

__all__ = ["attribute"]


def attribute(
    network: Layer, params: Params, x, rules: Mapping[Selector, Rule] | None = None, labels=None
) -> jax.Array:
    """The attribution (1) of each sample's entries, as the network is evaluated.

    Args:
        network: a layer with outputs (N, K), of which the last is no softmax: its logits.
        params: its parameters, with the statistics of batch norms.
        x: (N, ...); it is cast to the parameters' dtype.
        rules: of `with_rules`, such as `{is_rectifier: guided}` or `epsilon_plus(network)`; None: the gradient.
        labels: (N,) integers, the class of each sample; unless given, the one with the largest output.

    Returns:
        An array of x's shape.

    Raises:
        InputError: x or the labels do not fit the network, or the rules do not.

    >>> from jaxcnn import Dense, ReLU, Sequential
    >>> from jaxcnn.change import epsilon_plus
    >>> network = Sequential((Dense(2, bias=False), ReLU()))
    >>> params, x = {"dense1": {"weight": jnp.array([[3.0, 1.0], [1.0, 0.0]])}}, jnp.array([[2.0, -1.0]])
    >>> for rules in None, epsilon_plus(network):
    ...     print(np.asarray(attribute(network, params, x, rules)).round(3))
    [[3. 1.]]
    [[ 6. -1.]]
    """
    check_layer(network)
    x = cast(params, x)
    shape = network.output_shape(x.shape[1:])
    if len(shape) != 1:
        raise InputError(f"attribute: the network's output has shape {shape} but must have shape (classes,)")
    if labels is not None:
        labels = jnp.asarray(labels)
        check_shape("attribute", "labels", labels, x.shape[:1])
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise InputError(f"attribute: labels is of type {labels.dtype} but must be integers")
        if not is_traced(labels) and ((labels < 0) | (labels >= shape[0])).any():
            raise InputError(
                f"attribute: labels go from {labels.min()} to {labels.max()} but the network has {shape[0]} outputs"
            )
    return _attributed(with_rules(network, rules or {}), params, x, labels)


@partial(jax.jit, static_argnums=0)
def _attributed(network, params, x, labels):
    y, residuals = network.forward(params, x)
    k = y.argmax(axis=1) if labels is None else labels
    return network.backward(residuals, jax.nn.one_hot(k, y.shape[1], dtype=y.dtype))[0]  # (1)
