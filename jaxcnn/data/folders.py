"""Folders of images: a folder for each class. What lies where is listed first, and decoded after."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import AnyPath
from .dataset import Dataset, check_classes
from .decoding import decoding
from .images import read_image, resized, stacked
from .limits import in_memory
from .splits import fifth_held_out
from .stream import Streamed

SUFFIXES = (".png", ".jpg", ".jpeg")
SAMPLE = 1000  # images of a large folder that are looked at before the others are streamed


@dataclass(frozen=True)
class Listing:
    """The files of labelled images in two splits, none of them decoded.

    Labels are int32 (N,), indices into `classes`, one for each path.
    """

    name: str
    train_paths: tuple[str, ...]
    train_labels: np.ndarray
    test_paths: tuple[str, ...]
    test_labels: np.ndarray
    classes: tuple[str, ...]


def list_images(folder: AnyPath) -> Listing:
    """The images in `train/CLASS/` and `test/CLASS/`, or in `CLASS/` alone.

    Images are the files that end on `.png`, `.jpg` or `.jpeg` (or `.PNG` ...); other files, and what begins with a
    dot, are left out. The classes are the folders' names, sorted. Without `test`, a fifth of each class, drawn with the
    seed 0 (`splits.held_out`), is the test split.

    Raises:
        InputError: a folder of a class holds no image, `test` has a class that `train` has not, there are fewer than
            two classes, or a folder cannot be read.
    """
    folder = Path(folder)
    divided = bool(_folders(folder / "train"))
    train = _paths_by_class(folder / "train" if divided else folder)
    classes = tuple(train)
    check_classes(folder, classes)
    train_paths, train_labels = _flat(train, classes)
    name = folder.resolve().name
    if divided and (folder / "test").is_dir():
        test = _paths_by_class(folder / "test")
        for other in test:
            if other not in train:
                raise InputError(f"{folder}: test has the class {other!r} but its classes must be among those of train")
        if not test:
            raise InputError(f"{folder / 'test'}: holds no folder but must hold one for each class")
        return Listing(name, train_paths, train_labels, *_flat(test, classes), classes)
    others = [other for other in _folders(folder) if other != "train"]
    if divided and others:
        raise InputError(f"{folder}: holds train and {', '.join(map(repr, others))} but must hold train and test")
    kept, held = fifth_held_out(train_labels)
    kept_paths, held_paths = (tuple(train_paths[i] for i in index) for index in (kept, held))
    return Listing(name, kept_paths, train_labels[kept], held_paths, train_labels[held], classes)


def load_images(folder: AnyPath, resize: tuple[int, int] | None = None) -> Dataset:
    """The data set of the images that `list_images` finds.

    Images are gray where every one is, and RGB otherwise (`images.read_image`). At most the pixels as bytes, after
    `resize`, and the float32 images are held, 1.25 times the latter, with a kilobyte for each file, and one image as
    it is decoded. Images that would take more than `limits.in_memory()` stay in their files: `Streamed`, gray where a
    thousand of them are.

    Args:
        folder: of the images.
        resize: None, or the height and width that every image gets (`images.resized`).

    Raises:
        InputError: the folder cannot be listed, an image cannot be read, they have several sizes without `resize`, or
            they take more than `limits.MAX_BYTES`.
    """
    listing = list_images(folder)
    paths = (*listing.train_paths, *listing.test_paths)
    first = _read_all(paths[:1], resize)[0]
    if 4 * len(paths) * first.size > in_memory():
        sample = _read_all([paths[i] for i in np.linspace(0, len(paths) - 1, SAMPLE, dtype=int)], resize)
        size = (*first.shape[:2], max(image.shape[2] for image in sample))
        streamed: Any = partial(Streamed, size=size, resize=resize is not None)
        train, test = streamed(listing.train_paths), streamed(listing.test_paths)
        return Dataset(listing.name, train, listing.train_labels, test, listing.test_labels, listing.classes)
    images = _read_all(paths, resize)
    shape = (*first.shape[:2], max(image.shape[2] for image in images))
    count = len(listing.train_paths)
    return Dataset(
        listing.name, stacked(images[:count], shape), listing.train_labels, stacked(images[count:], shape),
        listing.test_labels, listing.classes,
    )  # fmt: skip


def _read_all(paths, resize) -> list[np.ndarray]:
    """The images, of one size."""
    images: list[np.ndarray] = []
    for path in paths:
        image = read_image(path)
        if resize is not None:
            image = resized(image, resize, path)
        if images and image.shape[:2] != images[0].shape[:2]:
            (high, wide), (height, width) = images[0].shape[:2], image.shape[:2]
            raise InputError(
                f"{paths[0]} is {high} pixels high and {wide} wide but {path} is {height} high and {width} wide; they "
                "must have one size, or be resized to one (--resize)"
            )
        images.append(image)
    return images


def holds_images(folder: Path) -> bool:
    """Whether there is an image in a folder of `folder`, or in one of those of its `train` or `test`."""
    inside = [folder / name for name in _folders(folder)]
    inside += [folder / split / name for split in ("train", "test") for name in _folders(folder / split)]
    return any(_is_image(entry) for path in inside for entry in _entries(path))


def _entries(folder):
    with decoding(folder, "a folder that can be read"), os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _folders(folder) -> list[str]:
    """The names of the folders in `folder`, sorted; none where it is no folder."""
    entries = _entries(folder) if folder.is_dir() else []
    return [entry.name for entry in entries if entry.is_dir() and entry.name != "__MACOSX"]  # of macOS's zip files


def _is_image(entry) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and entry.is_file()


def _paths_by_class(folder) -> dict[str, list[str]]:
    found = {}
    for name in _folders(folder):
        found[name] = [entry.path for entry in _entries(folder / name) if _is_image(entry)]
        if not found[name]:
            raise InputError(f"{folder / name}: holds no PNG or JPEG image but every class must have at least one")
    return found


def _flat(by_class, classes) -> tuple[tuple[str, ...], np.ndarray]:
    """All paths and their labels, class by class."""
    paths = tuple(path for paths in by_class.values() for path in paths)
    numbers = {name: i for i, name in enumerate(classes)}
    labels = [numbers[name] for name, paths in by_class.items() for _ in paths]
    return paths, np.array(labels, np.int32)
