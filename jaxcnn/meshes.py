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


def in_mesh(what: str, f: Callable, first: Any, *others: Any) -> Any:
    """`f(first, *others)` of trees of arrays made alike, under Auto axes where a mesh with Explicit ones divides any.

    There y, the first array that f returns, is divided as `first` is, axis by axis, and what else it returns is not.

    Args:
        what: the name of `first` for a message, such as "conv2d: x".
        f: a function of arrays.
        first: an array.
        others: trees of arrays.

    Raises:
        InputError: `first` is divided along an axis that y has not, or has in another size, unless y is a scalar.
    """
    arrays = alike((first, *others))
    mesh = _explicit_mesh(arrays)
    if mesh is None:
        return f(*arrays)
    (y, *rest), structure = jax.tree.flatten(jax.eval_shape(f, *jax.tree.map(_undivided, arrays)))
    specs = [_spec_of_y(what, jax.typeof(first), y.shape), *(PartitionSpec() for _ in rest)]
    shardings = jax.tree.unflatten(structure, [NamedSharding(mesh, spec) for spec in specs])
    axes = zip(mesh.axis_names, mesh.axis_types, strict=True)
    explicit = tuple(name for name, kind in axes if kind == AxisType.Explicit)
    return jax.sharding.auto_axes(f, axes=explicit, out_sharding=shardings)(*arrays)


def refuse_explicit(op: str, *trees: Any) -> None:
    """Refuse arrays that Explicit axes divide: how the residuals of `forward` are divided nothing says."""
    for leaf in jax.tree.leaves(trees):
        if _is_divided(leaf):
            raise InputError(
                f"{op}: an array is {_shown(jax.typeof(leaf))} but must not be divided by Explicit axes where "
                "residuals are given or returned; within jax.sharding.auto_axes, around forward and backward, it may be"
            )


def _varying(leaf) -> frozenset[str]:
    return jax.typeof(leaf).manual_axis_type.varying


def _is_divided(leaf) -> bool:
    """Whether its type says so: Explicit axes alone are part of it."""
    return any(jax.typeof(leaf).sharding.spec)


def _explicit_mesh(tree):
    return next((jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree) if _is_divided(leaf)), None)


def _undivided(leaf):
    return jax.ShapeDtypeStruct(jax.typeof(leaf).shape, jax.typeof(leaf).dtype)


def _spec_of_y(what, x, shape):
    if not shape:
        return PartitionSpec()
    for axis, parts in enumerate(x.sharding.spec):
        if parts is not None and x.shape[axis : axis + 1] != shape[axis : axis + 1]:
            raise InputError(
                f"{what} is {_shown(x)} but must be divided by Explicit axes only where the result, {shape}, has the "
                "same size; within jax.sharding.auto_axes, or in a mesh with Auto axes, it may be"
            )
    return PartitionSpec(*x.sharding.spec[: len(shape)])


def _shown(array) -> str:
    return f"{array.dtype} of shape {array.shape}, divided as {array.sharding.spec},"
