"""A batch that is spread over the devices of a mesh axis, as a function inside of `jax.shard_map` sees it.

`batch_axis` is the name of that axis; None: the whole batch is here, and nothing is exchanged.
Tests: tests/test_parallel.py.
"""

from typing import Any

import jax
from jax import lax

__all__: list[str] = []


def parts(batch_axis: str | None) -> int:
    """The number of devices over which the batch is spread."""
    return 1 if batch_axis is None else lax.axis_size(batch_axis)


def total(tree: Any, batch_axis: str | None) -> Any:
    """The sum over the devices, of each array of a tree."""
    return tree if parts(batch_axis) == 1 else lax.psum(tree, batch_axis)


def own_rows(draw, shape: tuple[int, ...], batch_axis: str | None) -> jax.Array:
    """This device's rows of `draw(shape of the whole batch)`: what is drawn does not depend on the number of devices.

    Args:
        draw: a function of a shape.
        shape: that of this device's rows.
        batch_axis: of the mesh, or None.
    """
    if parts(batch_axis) == 1:
        return draw(shape)
    rows, *others = shape
    whole = draw((rows * parts(batch_axis), *others))
    return lax.dynamic_slice_in_dim(whole, lax.axis_index(batch_axis) * rows, rows)
