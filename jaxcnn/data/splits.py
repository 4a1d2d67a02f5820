"""Which images of a data set are held out."""

import numpy as np

from ..errors import InputError, is_int, is_number


def held_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A share of each class, drawn by chance.

    Of a class of n samples round(share n) are held out, but at least one and at most n - 1; none where n is 1.

    Args:
        labels: whole numbers (N,).
        share: between 0 and 1.
        seed: of NumPy's `default_rng`. The draw depends on it and the labels alone.

    Returns:
        The indices kept and those held out, int64 and sorted; together they are 0 to N - 1.

    Raises:
        InputError: an argument is out of range, or no class has two samples, so that nothing could be held out.

    >>> kept, held = held_out(np.array([0, 0, 0, 0, 1, 1, 2]), 0.25, seed=0)
    >>> print(kept, held)
    [0 1 3 4 6] [2 5]
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"held_out: labels are {labels.dtype} {labels.shape} but must be whole numbers (N,)")
    if not is_number(share) or not 0 < share < 1:
        raise InputError(f"held_out: share is {share!r} but must be between 0 and 1, both excluded")
    if not is_int(seed) or seed < 0:
        raise InputError(f"held_out: seed is {seed!r} but must be a whole number of at least 0")
    rng = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    classes = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    held = [rng.permutation(c)[: min(max(round(share * len(c)), 1), len(c) - 1)] for c in classes]
    held = np.sort(np.concatenate(held))
    if not len(held):
        raise InputError(f"held_out: none of {len(labels)} samples can be held out; a class must have at least two")
    return np.delete(np.arange(len(labels)), held), held


def fifth_held_out(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`held_out` for a data set that comes without test images: a fifth of each class, of seed 0.

    The indices of the training images and of the test images. It is never chosen by result.
    """
    return held_out(labels, 0.2, 0)
