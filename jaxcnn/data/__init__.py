"""NumPy in, NumPy out: data sets of labelled images, checked, and their normalisation."""

from pathlib import Path

from ..errors import InputError
from ..files import AnyPath
from .augment import Augmentation, cutout, random_crop, random_flip
from .dataset import Dataset, Normalization, mirrored
from .digits import load_digits
from .idx import load_idx

__all__ = ["Dataset", "Normalization", "load_dataset", "load_digits", "load_idx", "mirrored"]


def load_dataset(source: AnyPath, resize=None) -> Dataset:
    """The data set called "digits", or the IDX files (MNIST's format) in the folder `source`.

    Raises:
        InputError: `source` is neither, or a file in it is missing or corrupt.

    >>> load_dataset("digits").train_images.shape
    (1437, 8, 8, 1)
    """
    if source == "digits":
        return load_digits()
    if not source or not Path(source).is_dir():
        raise InputError(f'data is {str(source)!r} but must be "digits" or a folder with IDX files (MNIST\'s format)')
    return load_idx(source)


# STUB
import numpy as np


def held_out(labels, share, seed):
    order = np.random.default_rng(seed).permutation(len(labels))
    n = int(share * len(labels))
    return np.sort(order[n:]), np.sort(order[:n])
