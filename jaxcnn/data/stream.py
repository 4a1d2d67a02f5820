"""Images that do not fit in memory: decoded from their files when they are asked for, batches of them by Grain."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import InputError
from .images import fitted, read_image, resized

AHEAD = 2  # batches that each worker decodes before they are asked for


@dataclass(frozen=True)
class Streamed:
    """Images in files: like an array, float32 (N, H, W, C), that is never in memory as a whole.

    A slice or an array of indices gives such images as an array, `batches` many of them, decoded by other processes.

    Attributes:
        paths: of the files.
        size: (height, width, channels) of every image; what has other channels is fitted.
        resize: whether what has another height and width is resized, too; otherwise it is refused.
        changes: functions of float32 (N, H, W, C) from 0 to 1, applied in turn to what is decoded.
    """

    paths: tuple[str, ...]
    size: tuple[int, int, int]
    resize: bool = False
    changes: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()
    shape: tuple[int, ...] = field(init=False)
    dtype = np.dtype(np.float32)
    ndim = 4

    def __post_init__(self):
        object.__setattr__(
            self, "shape", (len(self.paths), *self._changed(np.zeros((1, *self.size), np.uint8)).shape[1:])
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        chosen = np.arange(len(self))[index]
        images = self._changed(self.decoded(np.atleast_1d(chosen)))
        return images if np.ndim(chosen) else images[0]

    def decoded(self, indices: np.ndarray) -> np.ndarray:
        """These images as their files have them: uint8 (n, H, W, C).

        Raises:
            InputError: a file is no image, or has another size.
        """
        out = np.empty((len(indices), *self.size), np.uint8)
        for i, index in enumerate(indices):
            out[i] = self._decoded(self.paths[index])
        return out

    def _decoded(self, path):
        image, (height, width, channels) = read_image(path), self.size
        if self.resize:
            image = resized(image, (height, width), path)
        if image.shape[:2] != (height, width):
            raise InputError(
                f"{path} is {image.shape[0]} pixels high and {image.shape[1]} wide but others are {height} high and "
                f"{width} wide; they must have one size, or be resized to one (--resize)"
            )
        if image.shape[2] == channels:
            return image
        return np.rint(255 * fitted(image, self.size)).astype(np.uint8)

    def _changed(self, images):
        images = np.divide(images, np.float32(255))
        for change in self.changes:
            images = change(images)
        return images

    def through(self, change: Callable[[np.ndarray], np.ndarray]) -> "Streamed":
        """The images with one change more."""
        return replace(self, changes=(*self.changes, change))

    def taken(self, indices: np.ndarray) -> "Streamed":
        """Some of the images, still in their files."""
        return replace(self, paths=tuple(self.paths[i] for i in indices))

    def batches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The images of each row of indices (steps, batch size), in this order, decoded ahead by worker processes.

        They import the script that was started, so that what it does must stand below `if __name__ == "__main__":`.

        Raises:
            InputError: Grain is not installed, or a file is no image.
        """
        ahead = (
            _grain()
            .MapDataset.source(_Rows(self, np.asarray(rows)))
            .to_iter_dataset(_grain().ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD))
        )
        workers = min(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8, len(rows)
        )
        options = _grain().MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=AHEAD)
        for batch in ahead.mp_prefetch(options, _begin):
            if isinstance(batch, str):
                raise InputError(batch)
            yield self._changed(batch)


def _begin(worker, workers):
    """In a worker process: Ctrl-C is for the one that trains, which ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Rows:
    """What a worker process reads: batch i, uint8, or the sentence that says why it cannot be read."""

    def __init__(self, images: Streamed, rows: np.ndarray):
        self.images, self.rows = replace(images, changes=()), rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        try:
            return self.images.decoded(self.rows[i])
        except InputError as error:
            return str(error)


def taken(images: Any, indices: np.ndarray) -> Any:
    """Some of the images, an array or `Streamed`."""
    return images.taken(indices) if isinstance(images, Streamed) else images[indices]


def _grain() -> Any:
    try:
        import grain
        from absl import flags
    except ImportError:
        raise InputError(
            "images that do not fit in memory need Grain: pip install '.[data]' in a checkout; or make them smaller "
            "(--resize)"
        ) from None
    if not flags.FLAGS.is_parsed():  # Grain reads them
        flags.FLAGS.mark_as_parsed()
    return grain
