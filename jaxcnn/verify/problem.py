"""One gradient to check: a function, its arguments, and the floating-point leaves that it is differentiated by."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError


@dataclass(frozen=True, eq=False)
class Problem:
    """f and its arguments. `values` are lists of arrays, one for each differentiated leaf of `args`, in order.

    Functions of a Problem take and return such lists, never the arguments' trees: f of `values` is the list of its
    floating-point outputs, and `dys` has a cotangent for each of them.
    """

    f: Callable
    args: tuple
    plain: Callable | None
    names: tuple[str, ...]  # of the differentiated leaves
    places: tuple[int, ...]  # where they stand among all leaves of args

    @staticmethod
    def of(f: Callable, args: Sequence, plain: Callable | None, argnums, names: Sequence[str] | None) -> "Problem":
        """Find the leaves to differentiate by: every floating-point one of the arguments `argnums`, None for all.

        Raises:
            InputError: a leaf is no real array, argnums is out of range, or there is nothing to differentiate by.
        """
        chosen = range(len(args)) if argnums is None else (argnums,) if isinstance(argnums, int) else tuple(argnums)
        for i in chosen:
            if not isinstance(i, int) or not 0 <= i < len(args):
                raise InputError(f"check_rule: argnums has {i!r} but must have positions of the {len(args)} arguments")
        names = names or _parameters(plain or f, len(args))
        found, place = [], 0
        for i, arg in enumerate(args):
            for path, leaf in jax.tree_util.tree_leaves_with_path(arg):
                name = names[i] + jax.tree_util.keystr(path)
                if not hasattr(leaf, "dtype") and not isinstance(leaf, int | float):
                    raise InputError(
                        f"check_rule: {name} is of type {type(leaf).__name__} but must be an array; bind what is "
                        "static with functools.partial"
                    )
                dtype = getattr(leaf, "dtype", type(leaf))
                if jnp.issubdtype(dtype, jnp.complexfloating):
                    raise InputError(f"check_rule: {name} is complex but must be real; split it into two arrays")
                if i in chosen and is_floating(leaf):
                    if not np.size(leaf):
                        raise InputError(f"check_rule: {name} has shape {np.shape(leaf)} but must have an entry")
                    found.append((name, place))
                place += 1
        if not found:
            raise InputError("check_rule: no argument is floating point; there must be one to differentiate by")
        leaf_names, places = zip(*found, strict=True)
        return Problem(f, tuple(args), plain, leaf_names, places)

    def rebuild(self, values: Sequence) -> tuple:
        """The arguments with `values` in their places."""
        leaves, tree = jax.tree.flatten(self.args)
        # float leaves that are not differentiated follow the dtype of those that are
        leaves = [jnp.asarray(leaf, values[0].dtype) if is_floating(leaf) else leaf for leaf in leaves]
        for place, value in zip(self.places, values, strict=True):
            leaves[place] = value
        return jax.tree.unflatten(tree, leaves)

    def values(self, dtype, seed: int | None = None, away: bool = False) -> list[jax.Array]:
        """The differentiated leaves in `dtype`; with a seed moved at random by about 5 % of themselves.

        Zeros stay, since a function's domain may end there, unless `away`: then they move up, off their kink.
        """
        leaves = jax.tree.leaves(self.args)
        found = [np.asarray(leaves[place], np.float64) for place in self.places]
        if seed is not None:
            rng = np.random.default_rng(seed)
            found = [v * (1 + 0.05 * rng.standard_normal(v.shape)) for v in found]
            if away:
                found = [np.where(v == 0, rng.uniform(0.05, 0.15, v.shape), v) for v in found]
        return [jax.device_put(np.asarray(value).astype(dtype)) for value in found]

    def value(self, values: Sequence, f: Callable | None = None) -> list[jax.Array]:
        """f (or another function of the same arguments) of `values`: its floating-point outputs."""
        return [y for y in jax.tree.leaves((f or self.f)(*self.rebuild(values))) if is_floating(y)]

    def pullback(self, f: Callable) -> Callable:
        """`(values, dys) -> (outputs, gradients)` by `jax.vjp` of f."""

        def gradients(values, dys):
            outputs, pull = jax.vjp(lambda *v: self.value(v, f), *values)
            return outputs, list(pull([jnp.asarray(dy, y.dtype) for dy, y in zip(dys, outputs, strict=True)]))

        return gradients


def is_floating(leaf) -> bool:
    """Whether an array or a number is real floating point."""
    return leaf is not None and jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating)


def _parameters(f, count) -> list[str]:
    """The names of the first parameters of f; arg0, arg1, ... where it has none to tell."""
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [*named[:count], *(f"arg{i}" for i in range(len(named[:count]), count))]


def described(args: Sequence) -> str:
    """The arguments' types and shapes, as the command line writes them.

    >>> described((jnp.ones((2, 3)), None, jnp.arange(4)))
    'float32[2,3], None, int32[4]'
    """

    def one(arg: Any):
        if arg is None or not jax.tree_util.all_leaves([arg]):
            return "None" if arg is None else "{" + ", ".join(map(one, jax.tree.leaves(arg))) + "}"
        return f"{getattr(arg, 'dtype', type(arg).__name__)}[{','.join(map(str, np.shape(arg)))}]"

    return ", ".join(map(one, args))
