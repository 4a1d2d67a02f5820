"""Data sets of labelled images, read and checked, their normalisation, and what changes a batch at random."""

import re
from pathlib import Path
from typing import Any

from ..errors import InputError, shown
from ..files import AnyPath
from .assemble import assemble
from .augment import Augmentation, cutout, random_crop, random_flip
from .cifar import is_cifar, is_pickled, load_cifar
from .dataset import Dataset, Normalization, mirrored
from .decoding import decoding
from .digits import load_digits
from .folders import Listing, holds_images, list_images, load_images
from .idx import load_idx
from .images import fitted, read_image
from .limits import check_resize
from .npz import load_npz
from .splits import held_out
from .stream import Streamed, taken

__all__ = [
    "Augmentation",
    "Dataset",
    "Listing",
    "Normalization",
    "Streamed",
    "cutout",
    "fitted",
    "held_out",
    "list_images",
    "load_cifar",
    "load_dataset",
    "load_digits",
    "load_idx",
    "load_images",
    "load_npz",
    "mirrored",
    "random_crop",
    "random_flip",
    "read_image",
    "taken",
]

READ = (
    "\"digits\" or a folder with IDX files (MNIST's format), with CIFAR's binary files or with a folder of PNG or JPEG "
    "images for each class, alone or in train and test, or an .npz file with images and labels"
)


def load_dataset(source: AnyPath, resize: tuple[int, int] | None = None) -> Dataset:
    """The data set called "digits", or the one in a folder or file.

    A folder with MNIST's IDX files is read by `load_idx`, with CIFAR's binary files by `load_cifar`, with a folder of
    images for each class by `load_images`; a file that ends on `.npz` by `load_npz`.

    Args:
        source: "digits" or a path.
        resize: None, or the height and width that every image gets: bilinear, with antialiasing.

    Raises:
        InputError: `source` is none of these, a file in it is missing or corrupt, or the images take more than
            `limits.MAX_BYTES`.

    >>> load_dataset("digits").train_images.shape
    (1437, 8, 8, 1)
    """
    check_resize(resize)
    size = None if resize is None else (int(resize[0]), int(resize[1]))
    if source == "digits":
        return _resized_digits(size) if size else load_digits()
    return _reader(source)(source, size)


def _resized_digits(size):
    digits = load_digits()
    train, test = ((digits.train_images, digits.train_labels), (digits.test_images, digits.test_labels))
    return assemble(digits.name, train, test, digits.classes, size)


def _reader(source) -> Any:
    """The function that reads what lies at `source`."""
    path, looks = Path(source), ""
    if source and path.is_file():
        if path.suffix.lower() == ".npz":
            return load_npz
        _refuse_pickled(path, {path.name})
        looks = ", a file,"
    elif source and path.is_dir():
        with decoding(path, "a folder that can be read"):
            entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
            files = {entry.name for entry in entries if entry.is_file()}
        if any(re.search(r"idx\d-ubyte(\.gz)?$", name) for name in files):
            return load_idx
        if is_cifar(files):
            return load_cifar
        _refuse_pickled(path, files)
        if holds_images(path):
            return load_images
        looks = f", a folder with {_number(len(entries) - len(files), 'folder')} and {_number(len(files), 'file')}"
        looks += f", such as {shown(entries[0].name)[1:-1]}," if entries else ","
    elif source:
        looks = ", which does not exist,"
    raise InputError(f"data is {str(source)!r}{looks} but must be {READ}")


def _refuse_pickled(path, names):
    if is_pickled(names):
        raise InputError(
            f"data is {str(path)!r}, CIFAR's Python version, which needs pickle, and pickle is not read; it must be "
            "the binary version, *.bin"
        )


def _number(count, noun):
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
