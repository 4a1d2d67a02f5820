r"""A body whose inner values are computed a second time on the way back, and not kept between.

Chen et al., *Training deep nets with sublinear memory cost* (2016).

(1)  forward   y = body(w, x), of which x, w and the key are kept alone, not the body's residuals r          [N33]
(2)  backward  r from x, w and the key once more, the same draws with them; then the body's own backward of (r, dy)

Under `jit` both forwards stand in one program, and XLA, which sees that they are equal, would merge them and keep r
after all. `jax.checkpoint` puts `jax.lax.optimization_barrier` between, but XLA for CPU takes that away before it
merges: there a checkpoint saves nothing (jax 0.10). So what the second forward gets is chosen by a condition on dy that
always holds, which no compiler knows: it is another value than x, and not there before dy is.
Tests: tests/layers/test_recompute.py.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ..errors import InputError, shown
from ..operation import Static
from .base import Layer, Residuals, differentiated_by_rule, parameters_of, without_empty

__all__ = ["Recompute"]


@dataclass(frozen=True)
class Recompute(Layer):
    """Spec of a layer that computes what `body` does, with its gradients, and keeps its input alone between.

    Memory for time: in training the body's forward pass runs twice. In a chain of L such bodies of L layers each, the
    most that is kept at once grows like L, not like L^2. Parameters are a dict with "body".

    >>> from jaxcnn import Conv2d, ReLU, Sequential, summary
    >>> body = Sequential((Conv2d(8, 3, padding=1), ReLU(), Conv2d(8, 3, padding=1), ReLU()))
    >>> for network in (Sequential((ReLU(), body)), Sequential((ReLU(), Recompute(body)))):
    ...     print(summary(network, (8, 8, 8)).rows[1].residual_bytes)
    4096
    8
    """

    body: Layer

    def __post_init__(self):
        if not isinstance(self.body, Layer):
            raise InputError(f"Recompute: body is {shown(self.body)} but must be a layer")

    def init(self, key, in_shape):
        return without_empty({"body": self.body.init(key, in_shape)})

    def apply(self, params, x, *, train=False, key=None):
        return differentiated_by_rule(self, params, x, train=train, key=key)

    def forward(self, params, x, *, train=False, key=None):
        residuals = {"params": parameters_of("body", params), "x": x, "key": key, "train": Static(train)}
        y, inner = self._again(residuals)  # (1)
        return y, residuals | {"statistics": self.body.statistics(inner)}

    def backward_with_deltas(self, residuals, dy):
        _, inner = self._again(residuals | _after(dy, {name: residuals[name] for name in ("x", "key")}))
        dx, grads, deltas = self.body.backward_with_deltas(inner, dy)  # (2)
        return dx, without_empty({"body": grads}), {"body": dy} | {f"body/{name}": d for name, d in deltas.items()}

    def statistics(self, residuals):
        """Those of the body: a batch norm's are kept beside x."""
        return without_empty({"body": residuals["statistics"]})

    def _again(self, kept):
        params, x, key, train = (kept[name] for name in ("params", "x", "key", "train"))
        return self.body.forward(params, x, train=train.value, key=key)

    def output_shape(self, in_shape):
        return self.body.output_shape(in_shape)


def recomputed(layer: Layer, residuals: Residuals) -> Residuals:
    """Residuals of a network in which those of every `Recompute` are its body's, computed again: for `walk`."""
    if isinstance(layer, Recompute):
        residuals = {"body": layer._again(residuals)[1]}
    if not layer.children() or not isinstance(residuals, dict):
        return residuals
    return {name: recomputed(child, residuals.get(name)) for name, child in layer.children().items()}


def _after(dy, tree):
    """The same arrays, as values that XLA does not know before dy is there."""
    entry = dy.ravel()[:1].sum()
    always = (entry == entry) | (entry != entry)  # at NaN too

    def chosen(array):
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(chosen(jax.random.key_data(array)), impl=jax.random.key_impl(array))
        return jnp.where(always, array, jnp.zeros_like(array))

    return jax.tree.map(chosen, tree)
