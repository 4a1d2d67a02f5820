"""How a training step is computed: on which devices, in how many parts, in which precision. Not what it computes.

Tests: tests/test_parallel.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .errors import InputError, is_int, shown

__all__: list[str] = []

PRECISIONS = ("full", "mixed")
EVERYWHERE = PartitionSpec()


@dataclass(frozen=True)
class Plan:
    """How a step is computed; `fit` describes the fields.

    Raises:
        InputError: a field is out of range.

    >>> Plan(accumulate=0)
    Traceback (most recent call last):
    jaxcnn.errors.InputError: accumulate is 0 but must be an int of at least 1
    """

    mesh: Mesh | None = None
    sharded: bool = False
    accumulate: int = 1
    precision: str = "full"

    def __post_init__(self):
        if not is_int(self.accumulate) or self.accumulate < 1:
            raise InputError(f"accumulate is {shown(self.accumulate)} but must be an int of at least 1")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {shown(self.precision)} but must be one of {', '.join(PRECISIONS)}")
        if not isinstance(self.sharded, bool):
            raise InputError(f"sharded is {shown(self.sharded)} but must be True or False")
        if self.mesh is None:
            if self.sharded:
                raise InputError(
                    "sharded is True but mesh is None; it must be a mesh of several devices, as of --devices"
                )
            return
        if not isinstance(self.mesh, Mesh) or len(self.mesh.axis_names) != 1:
            raise InputError(
                f"mesh is {shown(self.mesh)} but must be a mesh of one axis, as of jax.make_mesh((8,), ('batch',))"
            )
        # what is computed outside of shard_map XLA may divide as it likes
        auto = Mesh(self.mesh.devices, self.mesh.axis_names, axis_types=(AxisType.Auto,))
        object.__setattr__(self, "mesh", auto)

    @property
    def batch_axis(self) -> str | None:
        """The mesh axis over which a batch is spread."""
        return None if self.mesh is None else self.mesh.axis_names[0]

    @property
    def devices(self) -> int:
        """Over which a batch is spread."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def dtype(self) -> Any:
        """Of forward and backward; None: that of the parameters."""
        return {"full": None, "mixed": jax.numpy.bfloat16}[self.precision]

    @property
    def processes(self) -> int:
        """That have some of the devices."""
        return 1 if self.mesh is None else len({device.process_index for device in self.mesh.devices.flat})

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse a batch that is not divided evenly."""
        each = self.devices * self.accumulate
        if batch_size % each:
            raise InputError(
                f"batch_size is {batch_size} but must be a multiple of {each}: {self.devices} devices times "
                f"{self.accumulate} parts"
            )

    def over_devices(self, function: Callable, *spread: bool, back: bool = False) -> Callable:
        """`function` computed by each device with its rows of the arguments that are spread, and all of the others.

        Its results are the same on every device, or with `back` each device's rows.
        """
        if self.mesh is None:
            return function
        rows = PartitionSpec(self.batch_axis)
        specs = tuple(rows if by_rows else EVERYWHERE for by_rows in spread)
        out = rows if back else EVERYWHERE
        # unchecked: that a batch norm's gathered statistics are the same on every device JAX does not see
        return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=out, check_vma=False)

    def whole(self, array: jax.Array) -> jax.Array:
        """An array in a compiled program, all of it on every device."""
        if self.mesh is None:
            return array
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, EVERYWHERE))

    def everywhere(self, tree: Any) -> Any:
        """The arrays, whole, on all devices; those of the host as they are where there is no mesh."""
        return tree if self.mesh is None else jax.device_put(tree, NamedSharding(self.mesh, EVERYWHERE))

    def of_state(self, state: Any) -> Any:
        """The sharding of each array of a training state: on all devices, or divided among them (ZeRO, FSDP).

        Rajbhandari et al., *ZeRO* (2020), stage 3. An array is divided along its longest axis of a multiple of the
        number of devices; one that has none is whole on each.
        """
        mesh = self.mesh
        assert mesh is not None

        def sharding(leaf):
            fitting = [n if n and n % self.devices == 0 else 0 for n in leaf.shape] if self.sharded else []
            spec: list[str | None] = [None] * len(leaf.shape)
            if any(fitting):
                spec[int(np.argmax(fitting))] = self.batch_axis
            return NamedSharding(mesh, PartitionSpec(*spec))

        return jax.tree.map(sharding, state)

    def placed(self, state: Any) -> Any:
        """The training state on its devices."""
        return state if self.mesh is None else jax.tree.map(_put, state, self.of_state(state))

    def kept(self, state: Any) -> Any:
        """The training state in a compiled program, where `placed` has it."""
        return state if self.mesh is None else jax.lax.with_sharding_constraint(state, self.of_state(state))

    def agreed(self, number: int) -> int:
        """The number of the first process, on all."""
        return number if self.processes == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(number)))

    def own(self, batch_size: int) -> slice:
        """The rows of a batch that the devices of this process have."""
        if self.mesh is None or self.processes == 1:
            return slice(0, batch_size)
        each = batch_size // self.devices
        own = [i for i, device in enumerate(self.mesh.devices.flat) if device.process_index == jax.process_index()]
        if own != list(range(own[0], own[0] + len(own))):
            raise InputError("mesh has the devices of a process apart but must have them one after another")
        return slice(own[0] * each, (own[-1] + 1) * each)

    def batches(self, chunk: np.ndarray, batch_size: int) -> Any:
        """Batches (count, this process's rows, ...) as one array (count, batch size, ...) of all devices."""
        if self.mesh is None:
            return chunk
        sharding = NamedSharding(self.mesh, PartitionSpec(None, self.batch_axis))
        shape = (chunk.shape[0], batch_size, *chunk.shape[2:])
        return jax.make_array_from_process_local_data(sharding, chunk, shape)


def _put(leaf, sharding):
    if sharding.is_fully_addressable or getattr(leaf, "sharding", None) == sharding:
        return jax.device_put(leaf, sharding)
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jax.random.key_data(leaf)
        return jax.random.wrap_key_data(_put(data, sharding), impl=jax.random.key_impl(leaf))
    return jax.make_array_from_callback(leaf.shape, sharding, np.asarray(leaf).__getitem__)


def plan_of(params: Any) -> Plan:
    """That of parameters that `fit` has placed, to evaluate them with the same devices."""
    for leaf in jax.tree.leaves(params):
        sharding = getattr(leaf, "sharding", None)
        mesh = getattr(sharding, "mesh", None)
        if isinstance(mesh, Mesh) and mesh.axis_types == (AxisType.Auto,):
            return Plan(mesh)
    return Plan()


def at_hand(tree: Any) -> Any:
    """The arrays as one device of this process can compute with them, gathered from all that have a part of one."""

    def own(leaf):
        if not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1:
            return leaf
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(own(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        if not leaf.is_fully_replicated and isinstance(leaf.sharding, NamedSharding):
            leaf = jax.jit(lambda a: a, out_shardings=NamedSharding(leaf.sharding.mesh, EVERYWHERE))(leaf)
        return jax.numpy.asarray(leaf.addressable_data(0))

    return jax.tree.map(own, tree)
