"""The one place where the errors of other people's decoders become ours."""

import warnings
from contextlib import contextmanager
from typing import Any

from ..errors import InputError, reason


@contextmanager
def decoding(name: Any, must: str):
    """What is raised inside becomes one sentence about the file `name`, and what is warned of is left out.

    Every kind of `Exception` is caught: on a damaged file zlib, zipfile, Pillow and NumPy raise some twenty of them,
    KeyError and MemoryError among these. Warnings are those of the process, so this is for one thread.

    Raises:
        InputError: as it is, or in place of another exception.

    >>> with decoding("a.png", "a whole image"):
    ...     {}["IHDR"]
    Traceback (most recent call last):
    jaxcnn.errors.InputError: a.png: cannot be read (KeyError 'IHDR'); it must be a whole image
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name}: cannot be read ({reason(error)}); it must be {must}") from None
