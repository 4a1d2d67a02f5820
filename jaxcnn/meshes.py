"""Arrays in the meshes of others: what a rule of `jax.custom_vjp` needs there and JAX's own functions do by themselves.

In `jax.shard_map` an array varies over axes of the mesh, or is the same along them. A rule must return gradients that
vary as their arrays do, but that of a weight varies as x does. So the arrays are made alike before the rule, by a cast
whose transpose is the sum over the devices: the gradient of a weight is that of the sum of their losses.

In a mesh with Explicit axes, types say how arrays are divided, and JAX must know it of every array inside a formula. So
a formula is computed as under Auto axes, where XLA finds this out. What comes in and goes out keeps its type, and so
do the gradients, by the transposes of `jax.sharding.auto_axes`.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from .errors import InputError


def alike(tree: Any) -> Any:
    """The arrays of a tree, all varying over the axes of `jax.shard_map` that any of them varies over."""
    axes = frozenset[str]().union(*(_varying(leaf) for leaf in jax.tree.leaves(tree)))
    if not axes:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, tuple(axes - _varying(leaf)), to="varying"), tree)


def in_mesh(name: str, f: Callable, first: Any, *others: Any) -> Any:
    """`f(first, *others)`, trees of arrays, made alike; under Auto axes where the mesh has Explicit ones.

    There y, the first array that f returns, is divided as `first`, axis by axis; others it returns are not.

    Raises:
        InputError: `first` is divided along an axis that y has in another size; a scalar y has none of them.
    """
    arrays = alike((first, *others))
    mesh = _explicit_mesh(arrays)
    if mesh is None:
        return f(*arrays)
    out, structure = jax.tree.flatten(jax.eval_shape(f, *jax.tree.map(_undivided, arrays)))
    specs = [_spec(name, jax.typeof(first), out[0].shape), *(PartitionSpec() for _ in out[1:])]
    shardings = jax.tree.unflatten(structure, [NamedSharding(mesh, spec) for spec in specs])
    return jax.sharding.auto_axes(f, axes=_explicit_axes(mesh), out_sharding=shardings)(*arrays)


def refuse_explicit(name: str, *trees: Any) -> None:
    """Refuse arrays that are divided along Explicit axes, where nothing says how residuals are.

    Raises:
        InputError: one is.
    """
    if _explicit_mesh(trees) is not None:
        divided = next(jax.typeof(leaf) for leaf in jax.tree.leaves(trees) if _divided(leaf))
        raise InputError(
            f"{name}: an array is {_shown(divided)} but must not be divided along Explicit axes where residuals go in "
            "or out; jax.sharding.auto_axes around both forward and backward lets it be"
        )


def _varying(leaf) -> frozenset[str]:
    return jax.typeof(leaf).manual_axis_type.varying


def _divided(leaf) -> bool:
    return any(jax.typeof(leaf).sharding.spec)


def _explicit_mesh(tree):
    """The mesh that an array is divided in along Explicit axes, which are what a type names; None if none is."""
    return next((jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree) if _divided(leaf)), None)


def _explicit_axes(mesh):
    pairs = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in pairs if kind == AxisType.Explicit)


def _undivided(leaf):
    return jax.ShapeDtypeStruct(jax.typeof(leaf).shape, jax.typeof(leaf).dtype)


def _spec(name, x, shape):
    """How y of this shape is divided."""
    spec = PartitionSpec(*x.sharding.spec[: len(shape)])
    kept = not shape or all(
        parts is None or x.shape[i : i + 1] == shape[i : i + 1] for i, parts in enumerate(x.sharding.spec)
    )
    if not kept:
        raise InputError(
            f"{name}: the first array is {_shown(x)} but must be divided, along Explicit axes, only where the result, "
            f"{shape}, has the same size; jax.sharding.auto_axes around the call, or an Auto mesh, lets it be"
        )
    return spec


def _shown(array) -> str:
    return f"{array.dtype} {tuple(array.shape)} by {array.sharding.spec}"
