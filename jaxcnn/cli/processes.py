"""Several processes that train together, by `jax.distributed`: how one joins, and what it says when another is gone."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax

from ..errors import InputError, T
from . import say

HEARTBEAT = 20  # seconds without a sign of life after which a process counts as gone


def join(coordinator: str | None, processes: int | None, process: int | None) -> bool:
    """Wait for the others; whether this process is the one that writes and prints.

    Args:
        coordinator: HOST:PORT of process 0; "auto": JAX finds everything by itself; None: there are no others.
        processes, process: how many they are and the number of this one, given with HOST:PORT alone.

    Raises:
        InputError: the options do not fit each other, or the others were not found.
    """
    numbers = {"processes": processes, "process": process}
    if coordinator in (None, "auto"):
        for name, value in numbers.items():
            if value is not None:
                raise InputError(f"{name} is {value} but coordinator is {coordinator}; it must be HOST:PORT")
        if coordinator is None:
            return True
        given = {}
    else:
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
            raise InputError(f"coordinator is {coordinator!r} but must be HOST:PORT, the address of process 0, or auto")
        if processes is None or process is None:
            name = "processes" if processes is None else "process"
            raise InputError(f"coordinator is {coordinator!r} but {name} is missing; it must be given, too")
        if processes < 1 or not 0 <= process < processes:
            raise InputError(f"process is {process} but must be from 0 to {processes - 1}, one less than processes")
        given = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
        given |= {"cluster_detection_method": "deactivate"}  # else under SLURM a process has one GPU of its machine
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=HEARTBEAT)
        return jax.process_index() == 0
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"coordinator is {coordinator!r}, by which the other processes were not found "
            f"({str(error).splitlines()[0]}); it must be that of all processes"
        ) from None


def together(work: Callable[[], T], folder: Callable[[], Path | None]) -> T:
    """`work()`; where another process is gone, or memory, this one says so and ends with status 1.

    Args:
        work: of this process.
        folder: the run folder, None for a process that has none.
    """
    try:
        return work()
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        kept = folder()
        go_on = "" if kept is None else f"; what was kept is whole, go on with: jaxcnn train --resume {kept}"
        reason = " ".join(str(error).split())[:100]
        what = "out of memory" if reason.startswith("RESOURCE_EXHAUSTED") else "another process is gone"
        say(f"process {jax.process_index()} of {jax.process_count()}: {what} ({reason}){go_on}")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # the end of a process waits for the others
