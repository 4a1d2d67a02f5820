"""The protocol that every layer follows, a composite one too."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ..errors import InputError
from ..operation import Operation

__all__ = ["FixedLayer", "Layer"]

Params = Any  # a dict of arrays, or of dicts
Residuals = Any  # whatever pytree of arrays `forward` hands to `backward`
Shape = tuple[int, ...]  # of one sample: the batch is left out


class Layer:
    """A layer spec: a frozen dataclass of static facts, with pure functions of the parameters.

    A subclass defines `apply`, `forward` and `backward`; one that holds other layers defines `backward_with_deltas` in
    place of `backward`, `penalty`, `parameter_count` and `multiply_adds`. The other methods have a default that suits a
    layer without parameters. Shapes leave the batch out.
    """

    def init(self, key: jax.Array, in_shape: Shape) -> Params:
        """Random parameters for inputs of shape `in_shape`; `{}` where there is nothing to learn."""
        del key, in_shape
        return {}

    def apply(self, params: Params, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        """The output; its derivative under `jax.grad` is the hand-written rule."""
        raise NotImplementedError

    def forward(
        self, params: Params, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, Residuals]:
        """The output and what `backward` needs; plain JAX with no rule attached."""
        raise NotImplementedError

    def backward(self, residuals: Residuals, dy: jax.Array) -> tuple[jax.Array, Params]:
        """From dy = dE/d(output) to dx = dE/d(input) and the gradients, a tree like `params`."""
        dx, grads, _ = self.backward_with_deltas(residuals, dy)
        return dx, grads

    def backward_with_deltas(
        self, residuals: Residuals, dy: jax.Array
    ) -> tuple[jax.Array, Params, dict[str, jax.Array]]:
        """`backward`, and the sensitivities of the layers inside this one by name: none unless it is a composite."""
        return *self.backward(residuals, dy), {}

    def penalty(self, params: Params) -> tuple[Any, Params]:
        """What training adds to the loss for these parameters, and its gradients of those that it depends on."""
        del params
        return 0.0, {}

    def output_shape(self, in_shape: Shape) -> Shape:
        """Shape of the output for inputs of shape `in_shape`, found by tracing `forward`."""

        def trace(x):
            return self.forward(self.init(jax.random.key(0), in_shape), x)[0]

        return jax.eval_shape(trace, jax.ShapeDtypeStruct((1, *in_shape), jnp.result_type(float))).shape[1:]

    def parameter_count(self, params: Params) -> int:
        """How many numbers in `params`, arrays or their shapes, are learned: all of them by default."""
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    def multiply_adds(self, in_shape: Shape) -> int:
        """Multiply-adds of the forward pass for one sample; only products with weights count."""
        del in_shape
        return 0


def parameter(layer: Layer, params: Params, name: str) -> jax.Array:
    """The parameter called `name`.

    Raises:
        InputError: there is none.
    """
    if name not in params:
        raise InputError(f"{type(layer).__name__}: params has {sorted(params)} but must have {name!r}")
    return params[name]


class FixedLayer(Layer):
    """A layer without parameters: its operation, the fields its keyword arguments."""

    op: ClassVar[Operation]

    def apply(self, params, x, *, train=False, key=None):
        return self.op(x, **vars(self))

    def forward(self, params, x, *, train=False, key=None):
        return self.op.forward(x, **vars(self))

    def backward(self, residuals, dy):
        (dx,) = self.op.backward(residuals, dy, **vars(self))
        return dx, {}
