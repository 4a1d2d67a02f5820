"""NumPy in, NumPy out: data sets of labelled images, checked, and their normalisation."""

from pathlib import Path

from ..errors import InputError
from ..files import AnyPath
from .dataset import Dataset, Normalization, mirrored
from .digits import load_digits
from .idx import load_idx

__all__ = ["Dataset", "Normalization", "load_dataset", "load_digits", "load_idx", "mirrored"]


def load_dataset(source: AnyPath) -> Dataset:
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
