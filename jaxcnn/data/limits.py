"""How much a data set may take in memory, and one image of it."""

import math
import os
from collections.abc import Sequence
from typing import Any

from ..errors import InputError, is_int

MAX_BYTES = 4 * 2**30  # of a data set: its images as they are stored, and as float32
MAX_PIXELS = 2**26  # of one image; 8192 times 8192


def in_memory() -> int:
    """How many bytes the float32 images of a folder may take before they are streamed: an eighth of the machine's.

    At most `MAX_BYTES`. Training holds them up to three times: read, normalised, and on the device.
    """
    try:
        return min(MAX_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8)
    except (AttributeError, ValueError, OSError):  # not on this system
        return MAX_BYTES


def check_size(name: Any, count: int, shape: Sequence[int], resize=None, itemsize: int = 1) -> None:
    """Refuse a data set that takes more than `MAX_BYTES`, before its images are read.

    Args:
        name: of the data set, for the message.
        count: how many images it has, of both splits.
        shape: of one image as it is stored, (H, W, C).
        resize: None, or (height, width) of one image as float32.
        itemsize: bytes of one entry as it is stored.

    >>> check_size("photos", 60000, (224, 224, 3))
    Traceback (most recent call last):
    jaxcnn.errors.InputError: photos: 60000 images of 224x224x3 take 33.6 GiB but a data set may take at most 4 GiB in
    memory; a smaller size for all (--resize) takes less
    """
    height, width, channels = shape
    decoded = 4 * count * channels * math.prod(resize or (height, width))
    size = max(decoded, itemsize * count * math.prod(shape))
    if size > MAX_BYTES:
        high, wide = resize or (height, width)
        raise InputError(
            f"{name}: {count} images of {high}x{wide}x{channels} take {size / 2**30:.1f} GiB but a data set may take "
            f"at most {MAX_BYTES / 2**30:g} GiB in memory; a smaller size for all (--resize) takes less"
        )


def check_resize(resize: Any) -> None:
    """Refuse what is neither None nor a height and a width.

    >>> check_resize((0, 32))
    Traceback (most recent call last):
    jaxcnn.errors.InputError: resize is (0, 32) but must be None or height and width, whole numbers of at least 1
    """
    if resize is None:
        return
    pair = isinstance(resize, tuple | list) and len(resize) == 2 and all(is_int(n) and n >= 1 for n in resize)
    if not pair:
        raise InputError(f"resize is {resize!r} but must be None or height and width, whole numbers of at least 1")
    if math.prod(resize) > MAX_PIXELS:
        raise InputError(f"resize is {resize!r}, {math.prod(resize)} pixels, but must be at most {MAX_PIXELS} pixels")
