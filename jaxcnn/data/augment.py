"""Batches changed at random, so that a network sees other images in every epoch: pure functions with a key.

Images are (N, H, W, C), of any floating type, and keep their shape and type. Every function draws anew for each image.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ..errors import InputError

__all__ = ["Augmentation", "cutout", "random_crop", "random_flip"]


def random_crop(key: jax.Array, images: jax.Array, pixels: int, fill: float = 0.0) -> jax.Array:
    """`fill` put around each image, `pixels` wide, and a window of the image's size cut out at a random place.

    That is a shift by at most `pixels` in each direction. Krizhevsky, Sutskever & Hinton, *ImageNet classification with
    deep convolutional neural networks* (2012), section 4.1; with padding, He et al. (2016), section 4.2.

    >>> image = jnp.arange(1.0, 5).reshape(1, 2, 2, 1)
    >>> print(random_crop(jax.random.key(1), image, 1)[0, :, :, 0])
    [[2. 0.]
     [4. 0.]]
    """
    count, height, width, channels = images.shape
    border = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    padded = jnp.pad(images, border, constant_values=fill)
    corners = jax.random.randint(key, (count, 2), 0, 2 * pixels + 1)

    def cut(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    return jax.vmap(cut)(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Left and right exchanged in about half of the images.

    >>> print(random_flip(jax.random.key(1), jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1)).ravel())
    [2. 1.]
    """
    flipped = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def cutout(key: jax.Array, images: jax.Array, size: int) -> jax.Array:
    """A square of zeros, the mean of normalised images, `size` pixels wide with its centre anywhere in the image.

    DeVries & Taylor, *Improved regularization of convolutional neural networks with cutout* (2017), section 3.2.

    >>> print(cutout(jax.random.key(0), jnp.ones((1, 3, 4, 1)), 2)[0, :, :, 0])
    [[1. 0. 0. 1.]
     [1. 0. 0. 1.]
     [1. 1. 1. 1.]]
    """
    count, height, width, _ = images.shape
    by_row, by_column = jax.random.split(key)

    def covered(key, length):
        first = jax.random.randint(key, (count, 1), 0, length) - size // 2
        place = jnp.arange(length)
        return (place >= first) & (place < first + size)

    rows, columns = covered(by_row, height), covered(by_column, width)
    return jnp.where(rows[:, :, None, None] & columns[:, None, :, None], 0, images)


@dataclass(frozen=True)
class Augmentation:
    """A chain of them, as recipes name it: called with a key and images, it returns the changed images.

    Args:
        steps: among "crop:4" and "shift:4", which are both `random_crop` with 4 pixels, "flip" and "cutout:8".
        fill: what comes in where an image is moved: its background.

    Raises:
        InputError: a step is unknown or its number is not from 1 to 9999.

    >>> Augmentation(("crop:4", "spin"))
    Traceback (most recent call last):
    jaxcnn.errors.InputError: augment is 'spin' but must be one of crop:PIXELS, shift:PIXELS, flip, cutout:PIXELS
    """

    steps: tuple[str, ...]
    fill: float = 0.0

    def __post_init__(self):
        for step in self.steps:
            self._read(step)

    def _read(self, step):
        """The name and the number in "crop:4"; 0 where there is none."""
        name, colon, number = step.partition(":") if isinstance(step, str) else (step, "", "")
        takes = {"crop": True, "shift": True, "flip": False, "cutout": True}
        if name not in takes or takes[name] != bool(colon):
            names = ", ".join(f"{name}:PIXELS" if number else name for name, number in takes.items())
            raise InputError(f"augment is {step!r} but must be one of {names}")
        if colon and not (number.isascii() and number.isdecimal() and len(number) < 5 and int(number)):
            raise InputError(f"augment is {step!r} but must have a number of pixels from 1 to 9999 after the colon")
        return name, int(number or 0)

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        for step, of_step in zip(self.steps, jax.random.split(key, len(self.steps)), strict=True):
            name, pixels = self._read(step)
            if name == "flip":
                images = random_flip(of_step, images)
            elif name == "cutout":
                images = cutout(of_step, images, pixels)
            else:
                images = random_crop(of_step, images, pixels, self.fill)
        return images
