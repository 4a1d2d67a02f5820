"""The UCI handwritten digits that scikit-learn carries: 1,797 real 8x8 images."""

from typing import Any

import numpy as np

from ..errors import InputError
from .dataset import Dataset


def load_digits() -> Dataset:
    """The digits in a fixed stratified split: 1,437 to train, 360 to test.

    Alpaydin & Kaynak, *Optical recognition of handwritten digits* (UCI Machine Learning Repository, 1998; the test
    part of it). The split is scikit-learn's with `random_state=0`, never chosen by result.

    Raises:
        InputError: scikit-learn is not installed.

    >>> dataset = load_digits()
    >>> dataset.test_images.shape, dataset.test_images.dtype, float(dataset.test_images.max())
    ((360, 8, 8, 1), dtype('float32'), 1.0)
    """
    try:
        from sklearn import datasets
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise InputError("the digits need scikit-learn: pip install '.[cli]' in a checkout") from None
    raw: Any = datasets.load_digits()
    images = (raw.images[..., None] / 16).astype(np.float32)
    labels = raw.target.astype(np.int32)
    split: Any = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    x_train, x_test, y_train, y_test = split
    return Dataset("digits", x_train, y_train, x_test, y_test, tuple("0123456789"))
