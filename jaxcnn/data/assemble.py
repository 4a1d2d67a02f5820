"""From arrays as they are stored to a data set."""

from typing import Any

import numpy as np

from .dataset import Dataset, check_classes, check_lengths
from .images import stacked
from .limits import check_size
from .splits import fifth_held_out

Split = tuple[np.ndarray, np.ndarray]


def assemble(
    name: str,
    train: Split,
    test: Split | None,
    classes: tuple[str, ...],
    resize: tuple[int, int] | None = None,
    source: Any = None,
) -> Dataset:
    """The data set of these images and labels: float32 from 0 to 1, resized, split.

    At most the arrays as they are given and the float32 images are held at one time.

    Args:
        name: of the data set.
        train: images, uint8 or floating from 0 to 1, (N, H, W, C), and labels, whole numbers (N,).
        test: likewise, or None: a fifth of each class of `train` is taken (`splits.fifth_held_out`).
        classes: their names.
        resize: None, or height and width.
        source: what the messages name; None: `name`.

    Raises:
        InputError: images and labels do not belong together, the classes cannot be used, or the images take more than
            `limits.MAX_BYTES`.
    """
    source = name if source is None else source
    check_classes(source, classes)
    for split, (images, labels) in {"train": train, "test": test or train}.items():
        check_lengths(source, split, images, labels)
    if test is None:
        parts = [tuple([array[i] for i in index] for array in train) for index in fifth_held_out(train[1])]
    else:
        parts = [train, test]
    arrays = {}
    for split, (images, labels) in zip(("train", "test"), parts, strict=True):
        height, width, channels = images[0].shape
        check_size(source, sum(len(images) for images, _ in parts), images[0].shape, resize)
        arrays[f"{split}_images"] = stacked(images, (*(resize or (height, width)), channels))
        arrays[f"{split}_labels"] = np.asarray(labels).astype(np.int32)
    return Dataset(name, **arrays, classes=classes)
