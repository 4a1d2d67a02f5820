"""What a data set is, and how its images are normalised."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .stream import Streamed


@dataclass(frozen=True)
class Dataset:
    """Labelled images in two splits.

    Images are float32 (N, H, W, C) with values from 0 to 1, C = 3 for the matrices R, G, B of colour [I2]. Labels are
    int32 (N,), indices into `classes`. Images that do not fit in memory are `Streamed`.

    Raises:
        InputError: the arrays do not belong together.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self):
        for split in ("train", "test"):
            check_lengths(self.name, split, getattr(self, f"{split}_images"), getattr(self, f"{split}_labels"))
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise InputError(
                f"{self.name}: training images are {self.train_images.shape[1:]} but test images "
                f"{self.test_images.shape[1:]}; they must have one shape"
            )

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of one image, (H, W, C)."""
        return self.train_images.shape[1:]

    @property
    def fingerprint(self) -> str:
        """What tells these images from others: how many, and a checksum of all labels and of a few images."""
        some = [
            images[np.unique(np.linspace(0, len(images) - 1, 16, dtype=int))]
            for images in (self.train_images, self.test_images)
        ]
        check = 0
        for part in (self.train_labels, self.test_labels, *some):
            check = zlib.crc32(np.ascontiguousarray(part).tobytes(), check)
        return f"{len(self.train_labels)} {len(self.test_labels)} {check:08x}"


@dataclass(frozen=True)
class Normalization:
    """To zero mean and unit variance over all pixels of the training images [I3].

    `padding` rows and columns of zeros, the background, are first put around each image on every side.

    >>> images = np.array([0.0, 1.0, 0.0, 1.0], np.float32)
    >>> normalization = Normalization.of(images)
    >>> normalization
    Normalization(mean=0.5, std=0.5, padding=0)
    >>> print(normalization(images))
    [-1.  1. -1.  1.]
    """

    mean: float
    std: float
    padding: int = 0

    @classmethod
    def of(cls, images: np.ndarray, padding: int = 0) -> "Normalization":
        """The mean and standard deviation of `images`, padded; a constant image set keeps its scale.

        Of `Streamed` images those of at most 10,000, evenly apart.
        """
        if isinstance(images, Streamed):
            return _of_streamed(images, padding)
        images = _padded(images, padding)
        return cls(float(images.mean(dtype=np.float64)), float(images.std(dtype=np.float64)) or 1.0, padding)

    def __call__(self, images: Any) -> Any:
        """`images`, padded and normalised, in their dtype; `Streamed` when they are read."""
        if isinstance(images, Streamed):
            return images.through(self)
        return ((_padded(images, self.padding) - self.mean) / self.std).astype(images.dtype)


def mirrored(images: Any, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images (N, H, W, C), then their mirror images, left and right exchanged; the labels (N,) of both.

    >>> images, labels = mirrored(np.array([1, 2]).reshape(1, 1, 2, 1), np.array([7]))
    >>> print(images[:, 0, :, 0], labels)
    [[1 2]
     [2 1]] [7 7]
    """
    if isinstance(images, Streamed):
        raise InputError("mirror is True but the images do not fit in memory; it must be False, or --augment flip used")
    return np.concatenate([images, images[:, :, ::-1]]), np.concatenate([labels, labels])


def _of_streamed(images, padding):
    """`Normalization.of` some of the images, of which a few at a time are in memory."""
    chosen = np.unique(np.linspace(0, len(images) - 1, 10_000, dtype=int))
    count, total, squares = 0, 0.0, 0.0
    for start in range(0, len(chosen), 64):
        part = _padded(images[chosen[start : start + 64]], padding)
        for image in part:
            wide = image.astype(np.float64)
            count, total, squares = count + wide.size, total + wide.sum(), squares + np.square(wide).sum()
    mean = total / count
    return Normalization(float(mean), float(np.sqrt(max(squares / count - mean**2, 0.0))) or 1.0, padding)


def check_lengths(name, split: str, images, labels) -> None:
    """Refuse images and labels of other numbers."""
    if len(images) != len(labels):
        raise InputError(f"{name}: the {split} split has {len(images)} images but {len(labels)} labels")


def check_classes(name, classes: Sequence[str]) -> None:
    """Refuse fewer than two classes, and a name that cannot be written in UTF-8."""
    if len(classes) < 2:
        raise InputError(f"{name}: has {len(classes)} class but must have at least 2")
    for each in classes:
        if each.encode(errors="replace").decode() != each:
            raise InputError(f"{name}: a class is called {each!r} but must have a name in UTF-8")


def _padded(images, padding):
    """(N, H, W, C) with zeros around each image."""
    if not padding:
        return images
    return np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
