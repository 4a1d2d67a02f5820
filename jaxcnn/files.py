"""Files written so that nothing half-written is ever seen."""

import os
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

AnyPath = str | os.PathLike[str]


def write(path: AnyPath, content: bytes) -> None:
    """Write `content` to `path` by way of a temporary file beside it: flushed, then renamed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder) / "a.txt", b"whole")
    ...     [(file.name, file.read_bytes()) for file in Path(folder).iterdir()]
    [('a.txt', b'whole')]
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with naming(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


_locks: dict[Path, int] = {}  # the folders that this process keeps for itself, and what it opened for that


def lock(folder: AnyPath) -> None:
    """Keep other processes from this folder, until `unlock` or the end of this one; where a system has such locks.

    Raises:
        InputError: another process has it, or there is no such folder.
    """
    try:
        import fcntl
    except ImportError:
        return
    path = Path(folder).resolve()
    if path in _locks:
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"run is {str(folder)!r} but must be a folder ({error.strerror})") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"run is {str(folder)!r}, in which another process trains; that must end before") from None
    except OSError:  # of a file system without such locks
        os.close(descriptor)
        return
    _locks[path] = descriptor


def unlock(folder: AnyPath) -> None:
    """Let other processes have this folder."""
    descriptor = _locks.pop(Path(folder).resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


@contextmanager
def naming(path: Path):
    """An OSError inside names `path`: one of a full disk names no file."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
