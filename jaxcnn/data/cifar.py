"""CIFAR-10 and CIFAR-100 in their binary version.

A file is a row of records: a byte for the label, for CIFAR-100 one for the superclass before it, then 3072 bytes,
the matrices R, G and B [I2], each 32x32 in row-major order.
Krizhevsky, *Learning multiple layers of features from tiny images* (2009).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import AnyPath
from .assemble import assemble
from .dataset import Dataset
from .decoding import decoding
from .limits import check_size

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """The files of one of the two, how many classes it has and how many bytes a record has before its image."""

    train: tuple[str, ...]
    test: str
    names: str
    count: int
    head: int


LAYOUTS = (
    Layout(tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt", 10, 1),
    Layout(("train.bin",), "test.bin", "fine_label_names.txt", 100, 2),
)
PICKLED = ({"data_batch_1"}, {"test_batch"}, {"train", "meta"})


def load_cifar(folder: AnyPath, resize: tuple[int, int] | None = None) -> Dataset:
    """The data set whose binary CIFAR files lie in `folder`.

    CIFAR-10 is `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`, CIFAR-100 is `train.bin` and `test.bin`,
    of which the fine labels are read. The classes are named by `batches.meta.txt` or `fine_label_names.txt`, a name in
    each line, or by their numbers where that file is missing. At most the bytes of all files and the
    float32 images are held: 1.3 times the latter without `resize`.

    Args:
        folder: of the files.
        resize: None, or the height and width that every image gets (`images.resized`).

    Raises:
        InputError: a file is missing, truncated or holds a label out of range, or the images take more than
            `limits.MAX_BYTES`.
    """
    folder = Path(folder)
    layout = LAYOUTS[0] if any((folder / name).is_file() for name in _files(LAYOUTS[0])) else LAYOUTS[1]
    sizes = [_count(folder / name, layout) for name in _files(layout)]
    check_size(folder, sum(sizes), (32, 32, 3), resize)
    classes = _names(folder / layout.names, layout.count)
    train, test = (_read(folder, names, layout) for names in (layout.train, (layout.test,)))
    return assemble(folder.resolve().name, train, test, classes, resize, folder)


def is_cifar(names: set[str]) -> bool:
    """Whether a folder with files of these names holds one of the two in its binary version."""
    return any(name in names for layout in LAYOUTS for name in _files(layout))


def is_pickled(names: set[str]) -> bool:
    """Whether a folder with files of these names holds one of the two in its Python version."""
    return any(some <= names for some in PICKLED)


def _files(layout):
    return (*layout.train, layout.test)


def _count(path, layout) -> int:
    """How many records a file has, by its size."""
    if not path.is_file():
        raise InputError(f"{path}: is missing")
    record, size = layout.head + PIXELS, path.stat().st_size
    if not size or size % record:
        raise InputError(
            f"{path}: has {size} bytes but must have a multiple of {record}, those of an image and its label"
        )
    return size // record


def _read(folder, names, layout):
    """Images (N, 32, 32, 3) and labels (N,), uint8, of some files."""
    records = []
    for name in names:
        with decoding(folder / name, "a whole CIFAR file"):
            records.append(np.fromfile(folder / name, np.uint8).reshape(-1, layout.head + PIXELS))
        labels = records[-1][:, layout.head - 1]
        if labels.max() >= layout.count:
            raise InputError(f"{folder / name}: a label is {labels.max()} but must be below {layout.count}")
    records = np.concatenate(records)
    images = records[:, layout.head :].reshape(-1, 3, 32, 32)
    return images.transpose(0, 2, 3, 1), records[:, layout.head - 1]


def _names(path, count):
    """The classes named in a file, or their numbers where there is none."""
    if not path.is_file():
        return tuple(map(str, range(count)))
    with decoding(path, "a text file in UTF-8"), path.open(encoding="utf-8") as file:
        lines = file.read(2**16).split("\n")
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != count:
        raise InputError(f"{path}: has {len(names)} lines with a name but must have {count}, one for each class")
    return names
