"""IDX files, the format of MNIST, Fashion-MNIST and KMNIST.

A file is: two zero bytes, a byte for the type (8: unsigned byte), a byte for the number of dimensions, each dimension
as a big-endian 32-bit integer, then the entries in row-major order. Compressed files are known by their content.
LeCun, Cortes & Burges, *The MNIST database of handwritten digits* (1998).
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import AnyPath
from .dataset import Dataset


def load_idx(folder: AnyPath) -> Dataset:
    """The data set whose four IDX files lie in `folder`.

    They are called `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    `t10k-labels-idx1-ubyte`, each with or without `.gz`.

    Raises:
        InputError: a file is missing, truncated, of another type, or does not belong to the others.
    """
    folder, arrays = Path(folder), {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(find_idx(folder, f"{prefix}-images-idx3-ubyte"), ndim=3)
        arrays[f"{split}_images"] = (images[..., None] / np.float32(255)).astype(np.float32)
        arrays[f"{split}_labels"] = read_idx(find_idx(folder, f"{prefix}-labels-idx1-ubyte"), ndim=1).astype(np.int32)
    count = int(arrays["train_labels"].max(initial=0)) + 1
    if arrays["test_labels"].max(initial=0) >= count:
        raise InputError(
            f"{folder}: a test label is {arrays['test_labels'].max()} but the training labels end at {count - 1}"
        )
    return Dataset(folder.resolve().name, **arrays, classes=tuple(map(str, range(count))))


def read_idx(path: AnyPath, ndim: int) -> np.ndarray:
    """The array of unsigned bytes in an IDX file of `ndim` dimensions.

    Raises:
        InputError: the file cannot be read or is not such a file.
    """
    try:
        raw = Path(path).read_bytes()
        content = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error or 'it ends too early'}); it must be a whole file") from None
    magic = bytes((0, 0, 8, ndim))
    header = 4 + 4 * ndim
    if content[:4] != magic or len(content) < header:
        raise InputError(
            f"{path}: starts with the bytes {content[:4].hex(' ') or 'of an empty file'} but an IDX file of {ndim} "
            f"dimensions must start with {magic.hex(' ')}"
        )
    shape = tuple(int(n) for n in np.frombuffer(content[4:header], ">u4"))
    if len(content) - header != math.prod(shape):
        raise InputError(
            f"{path}: holds {len(content) - header} entries but its header says {'x'.join(map(str, shape))}, "
            f"which must be {math.prod(shape)}"
        )
    if not math.prod(shape):
        raise InputError(f"{path}: is of shape {'x'.join(map(str, shape))} but must hold at least one entry")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def find_idx(folder: AnyPath, name: str) -> Path:
    """The file of this name in `folder`, or with `.gz` after it.

    Raises:
        InputError: there is neither.
    """
    for path in (Path(folder) / name, Path(folder) / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(f"{Path(folder) / name}: is missing, with and without .gz")
