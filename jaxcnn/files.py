"""Files written so that nothing half-written is ever seen."""

import os
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def naming(path: Path):
    """An OSError inside names `path`: one of a full disk names no file."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
