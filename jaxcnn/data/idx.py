"""IDX files, the format of MNIST, Fashion-MNIST and KMNIST.

A file is: two zero bytes, a byte for the type (8: unsigned byte), a byte for the number of dimensions, each dimension
as a big-endian 32-bit integer, then the entries in row-major order. Compressed files are known by their content.
LeCun, Cortes & Burges, *The MNIST database of handwritten digits* (1998).
"""

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import AnyPath
from .assemble import assemble
from .dataset import Dataset
from .decoding import decoding
from .limits import MAX_BYTES, check_size

MUST = "a whole file"
CHUNK = 2**20


def load_idx(folder: AnyPath, resize: tuple[int, int] | None = None) -> Dataset:
    """The data set whose four IDX files lie in `folder`.

    They are called `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    `t10k-labels-idx1-ubyte`, each with or without `.gz`. At most the entries of all files as
    bytes and the float32 images are held: 1.3 times the latter without `resize`.

    Args:
        folder: of the files.
        resize: None, or the height and width that every image gets (`images.resized`).

    Raises:
        InputError: a file is missing, truncated, of another type, or does not belong to the others, or the images
            take more than `limits.MAX_BYTES`.
    """
    folder = Path(folder)
    files = {
        split: [(find_idx(folder, f"{prefix}-{kind}"), ndim) for kind, ndim in KINDS]
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }
    shapes = [idx_shape(*images) for images, _ in files.values()]
    for _, height, width in shapes:
        check_size(folder, sum(count for count, *_ in shapes), (height, width, 1), resize)
    if resize is None and shapes[0][1:] != shapes[1][1:]:
        one, other = ("x".join(map(str, shape[1:])) for shape in shapes)
        raise InputError(f"{folder}: training images are {one} but test images {other}; they must have one shape")
    (train, train_labels), (test, test_labels) = ([read_idx(*file) for file in pair] for pair in files.values())
    count = int(train_labels.max()) + 1
    if test_labels.max() >= count:
        raise InputError(f"{folder}: a test label is {test_labels.max()} but the training labels end at {count - 1}")
    return assemble(
        folder.resolve().name, (train[..., None], train_labels), (test[..., None], test_labels),
        tuple(map(str, range(count))), resize, folder,
    )  # fmt: skip


KINDS = (("images-idx3-ubyte", 3), ("labels-idx1-ubyte", 1))


def read_idx(path: AnyPath, ndim: int) -> np.ndarray:
    """The array of unsigned bytes in an IDX file of `ndim` dimensions.

    Not more than what its header says, and one byte, is decompressed.

    Raises:
        InputError: the file cannot be read, is not such a file, or holds more than `limits.MAX_BYTES`.
    """
    with decoding(path, MUST), _opened(path) as file:
        shape = _read_shape(file, path, ndim)
        size = math.prod(shape)
        content = bytearray()
        while len(content) <= size and (part := file.read(min(CHUNK, size + 1 - len(content)))):
            content += part
    if len(content) != size:
        raise InputError(
            f"{path}: holds {len(content) if len(content) < size else f'more than {size}'} entries but its header says "
            f"{'x'.join(map(str, shape))}, which must be {size}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def idx_shape(path: AnyPath, ndim: int) -> tuple[int, ...]:
    """The shape that the header of an IDX file of `ndim` dimensions says; nothing else is read.

    Raises:
        InputError: as `read_idx`.
    """
    with decoding(path, MUST), _opened(path) as file:
        return _read_shape(file, path, ndim)


def find_idx(folder: AnyPath, name: str) -> Path:
    """The file of this name in `folder`, or with `.gz` after it.

    Raises:
        InputError: there is neither.
    """
    for path in (Path(folder) / name, Path(folder) / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(f"{Path(folder) / name}: is missing, with and without .gz")


def _opened(path: AnyPath) -> Any:
    with Path(path).open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else Path(path).open("rb")


def _read_shape(file, path, ndim) -> tuple[int, ...]:
    magic = bytes((0, 0, 8, ndim))
    header = file.read(4 + 4 * ndim)
    if header[:4] != magic or len(header) < 4 + 4 * ndim:
        raise InputError(
            f"{path}: starts with the bytes {header[:4].hex(' ') or 'of an empty file'} but an IDX file of {ndim} "
            f"dimensions must start with {magic.hex(' ')}"
        )
    shape = tuple(int(n) for n in np.frombuffer(header[4:], ">u4"))
    if not math.prod(shape):
        raise InputError(f"{path}: is of shape {'x'.join(map(str, shape))} but must hold at least one entry")
    if math.prod(shape) > MAX_BYTES:
        raise InputError(
            f"{path}: is of shape {'x'.join(map(str, shape))}, {math.prod(shape)} bytes, but must have at most "
            f"{MAX_BYTES}"
        )
    return shape
