"""One image: read from a PNG or JPEG file, resized, and fitted to the input of a network."""

import contextlib
import io
import math
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import AnyPath
from .decoding import decoding
from .limits import MAX_PIXELS, check_resize

FORMATS = ("PNG", "JPEG")
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def read_image(source: AnyPath | bytes, name: str | None = None) -> np.ndarray:
    """The pixels of a PNG or JPEG file, as a viewer shows them.

    An image is gray if its file says so: a palette is colour. The orientation that a camera wrote (EXIF) is applied.
    What is transparent is put on white, CMYK becomes RGB, and 16 bits become 8. Of an animation it is the first
    picture. At most 16 bytes for each pixel are held while it is read.

    Args:
        source: the file, or its content.
        name: what the messages call it; None: the file's path.

    Returns:
        uint8 (H, W, C), C = 1 for gray and 3 for colour [I2].

    Raises:
        InputError: it cannot be read, is another format or damaged, has more than `limits.MAX_PIXELS` pixels, or
            Pillow is not installed.
    """
    name = name or ("the image" if isinstance(source, bytes) else str(source))
    PIL = _pillow()
    with decoding(name, "a whole PNG or JPEG image"):
        try:
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            with PIL.Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise PIL.Image.DecompressionBombError
                return _pixels(PIL, image)
        except PIL.Image.DecompressionBombError:
            raise InputError(f"{name}: has more than {MAX_PIXELS} pixels but must have at most as many") from None
        except PIL.UnidentifiedImageError:
            raise InputError(f"{name}: is no PNG or JPEG image, which it must be") from None


def resized(image: np.ndarray, size: tuple[int, int], name: str = "an image") -> np.ndarray:
    """The image (H, W, C) at (height, width), in its dtype: uint8, or floating from 0 to 1.

    Bilinear, and every pixel of a larger image counts (antialiasing). The ratio of the sides is not kept.

    Raises:
        InputError: `size` is no size, the way to it is above `limits.MAX_PIXELS`, or Pillow is not installed.

    >>> resized(np.array([[0.0, 1.0], [0.0, 1.0]])[..., None], (1, 1)).ravel()
    array([0.5])
    """
    if size is None:
        raise InputError("resized: size is None but must be height and width")
    check_resize(size)
    if image.shape[:2] == tuple(size):
        return image
    if math.prod(map(max, size, image.shape)) > MAX_PIXELS:
        raise InputError(
            f"{name}: is {image.shape[0]} pixels high and {image.shape[1]} wide, which is too far from "
            f"{size[0]} and {size[1]} to be resized; on the way it must have at most {MAX_PIXELS} pixels"
        )
    PIL = _pillow()

    def change(part: np.ndarray) -> np.ndarray:
        return np.asarray(PIL.Image.fromarray(part).resize(tuple(size)[::-1], PIL.Image.Resampling.BILINEAR))

    if image.dtype == np.uint8:
        return change(image[..., 0] if image.shape[2] == 1 else image).reshape(*size, -1)
    channels = [change(part) for part in np.moveaxis(image, 2, 0).astype(np.float32)]
    return np.stack(channels, axis=2).clip(0, 1).astype(image.dtype)


def fitted(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The image as the input of a network: resized, from 0 to 1, gray or colour.

    Gray becomes colour by repetition, colour becomes gray by its luminance 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).
    A data set treats its images by this function, too.

    Args:
        image: uint8, or floating from 0 to 1, (H, W, 1) or (H, W, 3).
        shape: of the network's input, (H, W, C).

    Returns:
        float32 of this shape.

    Raises:
        InputError: the image or the shape is of another kind.

    >>> print(fitted(np.full((2, 2, 1), 51, np.uint8), (1, 1, 3)))
    [[[0.2 0.2 0.2]]]
    """
    if image.ndim != 3 or image.shape[2] not in (1, 3) or not (image.dtype == np.uint8 or image.dtype.kind == "f"):
        raise InputError(
            f"an image is {image.dtype} {image.shape} but must be uint8, or floating from 0 to 1, and (H, W, 1) or "
            "(H, W, 3)"
        )
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise InputError(f"the shape of an image is {tuple(shape)} but must be (H, W, 1) or (H, W, 3)")
    image = resized(image, (shape[0], shape[1])) if image.shape[:2] != tuple(shape[:2]) else image
    image = np.divide(image, np.float32(255)) if image.dtype == np.uint8 else image.astype(np.float32)
    if image.shape[2] == shape[2]:
        return image
    return np.repeat(image, 3, axis=2) if shape[2] == 3 else (image @ LUMINANCE)[..., None]


def stacked(images, shape: tuple[int, ...]) -> np.ndarray:
    """The images, a sequence of N, each `fitted` to the shape (H, W, C): float32 (N, H, W, C)."""
    out = np.empty((len(images), *shape), np.float32)
    for i, image in enumerate(images):
        out[i] = fitted(image, shape)
    return out


def _pixels(PIL: Any, image: Any) -> np.ndarray:
    """uint8 (H, W, C) of an opened image."""
    orientation = 1
    with contextlib.suppress(Exception):  # a viewer shows an image whose EXIF is damaged
        orientation = image.getexif().get(0x0112, 1)
    flips = PIL.Image.Transpose
    turned = {
        2: flips.FLIP_LEFT_RIGHT, 3: flips.ROTATE_180, 4: flips.FLIP_TOP_BOTTOM, 5: flips.TRANSPOSE,
        6: flips.ROTATE_270, 7: flips.TRANSVERSE, 8: flips.ROTATE_90,
    }.get(orientation)  # fmt: skip
    gray = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.uint32).clip(0, 65535)
        image = PIL.Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if gray else "RGB")
    image = image if turned is None else image.transpose(turned)
    return np.asarray(image).reshape(image.height, image.width, -1)


def _pillow() -> Any:
    try:
        import PIL
        import PIL.Image
    except ImportError:
        raise InputError("images need Pillow: pip install '.[cli]' in a checkout") from None
    return PIL
