"""NumPy's `.npz` files: a zip archive with one `.npy` file for each array."""

import math
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, shown
from ..files import AnyPath
from .assemble import assemble
from .dataset import Dataset
from .decoding import decoding
from .limits import check_size

MAX_CLASSES = 2**16
MAX_NAME = 4 * 255  # bytes: four for a character
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load_npz(path: AnyPath, resize: tuple[int, int] | None = None) -> Dataset:
    """The data set in a `.npz` file, as `numpy.savez` writes it.

    `images` is (N, H, W), (N, H, W, 1) or (N, H, W, 3), uint8 or floating from 0 to 1; `labels` is (N,), whole numbers
    from 0. `test_images` and `test_labels` are likewise; where they are missing, a fifth of each class, drawn with the
    seed 0, is the test split. `classes` are the names of the classes; where they are missing, their numbers.

    No array is decompressed before its header is checked, and nothing is unpickled. At most the arrays as they are
    stored and the float32 images are held: of uint8 1.25 times the size of the latter, of float32 2 and of float64
    3 times.

    Args:
        path: of the file.
        resize: None, or the height and width that every image gets (`images.resized`).

    Raises:
        InputError: the file is no such file, is damaged, lacks an array or holds one of another kind, or the images
            take more than `limits.MAX_BYTES`.
    """
    path = Path(path)
    with _opened(path) as archive:
        members = archive.namelist()
        heads = {name: _head(archive, path, name) for name in NAMES if f"{name}.npy" in members}
    splits = _check(path, heads, resize, members)
    arrays: dict[str, Any] = {}
    with _opened(path) as archive:
        for name in heads:
            with archive.open(f"{name}.npy") as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
        names = tuple(map(str, arrays["classes"])) if "classes" in arrays else None
    for images in splits:
        low, high = arrays[images].min(), arrays[images].max()
        if arrays[images].dtype.kind == "f" and not 0 <= low <= high <= 1:
            raise InputError(f"{path}: {images} are from {low:g} to {high:g} but floating images must be from 0 to 1")
        if arrays[images].ndim == 3:
            arrays[images] = arrays[images][..., None]
    classes = names or tuple(map(str, range(min(max(int(arrays["labels"].max()) + 1, 0), MAX_CLASSES))))
    for labels in splits.values():
        low, high = arrays[labels].min(), arrays[labels].max()
        if not 0 <= low <= high < len(classes):
            raise InputError(
                f"{path}: {labels} are from {low} to {high} but must be from 0 to {max(len(classes), 2) - 1}"
            )
    train, *test = ((arrays[images], arrays[labels]) for images, labels in splits.items())
    return assemble(path.stem, train, test[0] if test else None, classes, resize, path)


NAMES = ("images", "labels", "test_images", "test_labels", "classes")


@contextmanager
def _opened(path):
    with decoding(path, "a whole .npz file"), zipfile.ZipFile(path) as archive:
        yield archive


def _head(archive, path, name) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and dtype."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise InputError(f"{path}: {name} is of version {version} but must be of version 1.0 or 2.0")
        shape, fortran, dtype = HEADERS[version](file)
        if dtype.hasobject:
            raise InputError(
                f"{path}: {name} holds Python objects, which need pickle, and pickle is not read; it must be an array "
                "of numbers, or of strings for classes"
            )
        held, size = archive.getinfo(f"{name}.npy").file_size - file.tell(), math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 1 or held != size:
        raise InputError(
            f"{path}: {name} holds {held} bytes but its header says {dtype} {shape}; it must hold at least one entry "
            "and as many as it says"
        )
    return shape, fortran, dtype


def _check(path, heads, resize, members) -> dict[str, str]:
    """The names of the labels by those of the images, for each split, when all headers are right."""
    splits = {"images": "labels"}
    if "test_images" in heads or "test_labels" in heads:
        splits["test_images"] = "test_labels"
    for name in (*splits, *splits.values()):
        if name not in heads:
            found = ", ".join(member.removesuffix(".npy") for member in members) or "nothing"
            raise InputError(f"{path}: holds {shown(found)} but must hold {name}")
    count = sum(heads[images][0][0] for images in splits if heads[images][0])
    for images, labels in splits.items():
        (shape, _, dtype), (labels_shape, _, labels_dtype) = heads[images], heads[labels]
        if not (dtype == np.uint8 or dtype.kind == "f"):
            raise InputError(f"{path}: {images} are {dtype} but must be uint8, or floating from 0 to 1")
        if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)):
            raise InputError(
                f"{path}: {images} are of shape {shape} but must be (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
            )
        if len(labels_shape) != 1 or labels_dtype.kind not in "iu":
            raise InputError(f"{path}: {labels} are {labels_dtype} {labels_shape} but must be whole numbers (N,)")
        if labels_shape[0] != shape[0]:
            raise InputError(f"{path}: has {shape[0]} {images} but {labels_shape[0]} {labels}; they must be as many")
        check_size(path, count, (*shape, 1)[1:4], resize, dtype.itemsize)
    if "classes" in heads:
        shape, _, dtype = heads["classes"]
        if len(shape) != 1 or dtype.kind != "U" or shape[0] > MAX_CLASSES or dtype.itemsize > MAX_NAME:
            raise InputError(
                f"{path}: classes are {dtype} {shape} but must be strings (K,), K at most {MAX_CLASSES}, of at most "
                f"{MAX_NAME // 4} characters"
            )
    return splits
