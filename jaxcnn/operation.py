"""One operation, one object: called, it is the function with its rule; `forward` and `backward` are its two halves."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, update_wrapper, wraps
from typing import Any

import jax
from jax.core import Tracer

from .errors import InputError, check_array, shown
from .meshes import alike, in_mesh, refuse_explicit

__all__ = ["Operation", "Static", "operation"]


class Operation:
    """What `operation` makes of a forward function, once `rule` has given it its backward function.

    `op(*arguments)` is y; its derivative in reverse mode, under any transformation of JAX, is the rule.
    `op.forward(*arguments)` is `(y, residuals)` in plain JAX; `op.backward(residuals, dy, **static)` has one gradient
    for each array, None for what has none. The keyword-only parameters of the rule are the static arguments, which
    must be hashable; those that `backward` is not given have the defaults of the forward function.
    `op.static` has their names, `op.arguments` those of the arrays.
    Outside of `jit` each of the three is a compiled program, kept for the next call.

    What it is in `jax.shard_map` and in a mesh with Explicit axes `jaxcnn.meshes` tells. The gradients of `backward`
    are those of one device; where y is divided by Explicit axes only the call itself can be used.
    """

    def __init__(self, forward: Callable):
        update_wrapper(self, forward)
        self.name = forward.__name__
        self._signature = inspect.signature(forward)
        self._formula = forward
        self.static: tuple[str, ...] = ()
        self._value: Any = None  # until there is a rule
        self._refuse: Callable | None = None

    def rule(self, backward: Callable) -> Callable:
        """Decorator of the backward function, `backward(residuals, dy, *, static arguments)`."""
        self._require_callable(backward)
        parameters = inspect.signature(backward).parameters.values()
        static = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        if not set(static) <= set(self._signature.parameters):
            raise InputError(
                f"{self.name}: its rule has the static arguments {list(static)} but the forward function has only "
                f"{list(self._signature.parameters)}; they must be among them"
            )
        self._define(backward, static)
        return backward

    def with_rule(self, backward: Callable, forward: Callable | None = None) -> "Operation":
        """The same operation with another backward function, and another forward function of the same arguments.

        >>> from jaxcnn import relu
        >>> straight_through = relu.with_rule(lambda y, dy: (dy,))
        >>> print(jax.grad(straight_through)(-1.0))
        1.0
        """
        self._require_callable(backward)
        other = Operation(self._formula if forward is None else wraps(self._formula)(forward))
        other._define(backward, self.static)
        other._refuse = self._refuse
        return other

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the arrays."""
        return tuple(name for name in self._signature.parameters if name not in self.static)

    def _require_callable(self, backward):
        if not callable(backward):
            raise InputError(f"{self.name}: its rule is {shown(backward)} but must be a function of (residuals, dy)")

    def _define(self, backward, static):
        formula, self.static = self._formula, static
        compiled = partial(jax.jit, static_argnums=0, inline=True)  # inside of another jit no trace of it is left
        self._forward = compiled(lambda static, *arrays: formula(*arrays, **dict(static)))
        self._backward = compiled(
            lambda static, residuals, dy: alike((self._one_for_each(backward(residuals, dy, **dict(static))), dy))[0]
        )
        value = compiled(lambda static, *arrays: formula(*arrays, **dict(static))[0])
        under_rule = jax.custom_vjp(value, nondiff_argnums=(0,))
        under_rule.defvjp(self._forward, self._backward)
        self._value = under_rule

    def _one_for_each(self, gradients):
        """The gradients that a rule returned, refused unless they are one for each array."""
        several = isinstance(gradients, tuple | list)
        if not several or len(gradients) != len(self.arguments):
            found = f"{len(gradients)} gradients" if several else "no tuple"
            must = str(tuple(f"d{name}" for name in self.arguments)).replace("'", "")
            raise InputError(
                f"{self.name}: its rule returns {found} but must return a tuple with one gradient for each "
                f"array, {must}"
            )
        return gradients

    def refuse(self, check: Callable) -> Callable:
        """Decorator of a function of the same arguments that raises where it must; traced arrays do not reach it."""
        self._refuse = check
        return check

    def __call__(self, *args, **kwargs) -> jax.Array:
        static, arrays = self._split(args, kwargs)
        try:
            return in_mesh(f"{self.name}: {self.arguments[0]}", partial(self._value, static), *arrays)
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise TypeError(
                f"{self.name}: its derivative is a rule of reverse mode but forward mode (jvp, jacfwd) was asked for; "
                "it must be grad, vjp or jacrev"
            ) from None

    def forward(self, *args, **kwargs) -> tuple[Any, Any]:
        """`(y, residuals)` in plain JAX, without the rule: y and what `backward` needs."""
        static, arrays = self._split(args, kwargs)
        refuse_explicit(f"{self.name}.forward", arrays)
        return self._forward(static, *arrays)

    def backward(self, residuals, dy, **static) -> tuple:
        """The gradients of the arrays, one for each, from the residuals of `forward` and dy of y's shape."""
        defaults = {name: self._signature.parameters[name].default for name in self.static}
        given = {name: value for name, value in defaults.items() if value is not inspect.Parameter.empty} | static
        for name in given:
            if name not in defaults:
                raise InputError(
                    f"{self.name}.backward: {name} is given but must be among the static arguments {list(defaults)}"
                )
        for name in defaults:
            if name not in given:
                raise InputError(f"{self.name}.backward: {name} is missing but must be given, as to the forward pass")
        check_array(f"{self.name}.backward", "dy", dy)
        refuse_explicit(f"{self.name}.backward", residuals, dy)
        return self._backward(self._hashable(given), *alike((residuals, dy)))

    def require_rule(self) -> None:
        """Refuse to be used before `rule`."""
        if self._value is None:
            raise InputError(f"{self.name}: is an operation without a rule but must have one, by @{self.name}.rule")

    def _split(self, args, kwargs):
        """The static arguments as pairs, and the arrays in order."""
        self.require_rule()
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from None
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            parameter = self._signature.parameters[name]
            if name not in self.static and not (value is None and parameter.default is None):
                check_array(self.name, name, value)
        if self._refuse is not None and not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(bound.arguments)):
            self._refuse(**bound.arguments)
        static = self._hashable({name: bound.arguments.pop(name) for name in self.static})
        return static, tuple(bound.arguments.values())

    def _hashable(self, static):
        for name, value in static.items():
            try:
                hash(value)
            except TypeError:
                raise InputError(
                    f"{self.name}: {name} is {shown(value)} but must be hashable: a number, a string or a tuple of them"
                ) from None
        return tuple(static.items())

    def __repr__(self):
        return f"<operation {self.name}>"


def operation(forward: Callable) -> Operation:
    """Decorator of `forward(arguments) -> (y, residuals)`, plain JAX; residuals are a pytree of arrays.

    >>> @operation
    ... def power(x, n):
    ...     return x**n, x
    >>> @power.rule
    ... def _(x, dy, *, n):
    ...     return (n * x ** (n - 1) * dy,)
    >>> print(power(3.0, n=2), jax.grad(power)(3.0, n=2), power.backward(3.0, 1.0, n=2)[0])
    9.0 6.0 6.0
    """
    return Operation(forward)


def operation_of(cls: type) -> Operation:
    """The operation `op` of a class of specs, refused where there is none or it has no rule."""
    op = getattr(cls, "op", None)
    if not isinstance(op, Operation):
        raise InputError(f"{cls.__name__}: op is {shown(op)} but must be an operation, made by @operation")
    op.require_rule()
    return op


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """A hashable fact among the residuals, such as the input's shape: a pytree without leaves.

    >>> jax.tree.leaves(Static((2, 3)))
    []
    """

    value: Any
