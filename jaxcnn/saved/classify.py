"""The classes of image files, with the network of a saved run.

(1)  p_k = e^{y_k} / sum_j e^{y_j}      of the outputs y after training with cross-entropy [A4]
(2)  p_k = (y_k - t) / sum_j (y_j - t)  with squared error, t its low target: the smallest error has y - t proportional
                                        to the probability; below t there is none
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ..data.images import fitted, read_image, resized
from ..errors import InputError
from ..experiment import make_loss, precision
from ..layers.activation import softmax
from ..losses import SquaredError
from ..store.runs import Saved
from ..training import cast

AT_A_TIME = 64  # images computed at a time, and as many in memory


@dataclass(frozen=True)
class Guess:
    """What an image is taken for.

    Attributes:
        image: its name.
        ranked: the class of greatest probability and the one after it, each with its probability; one pair where there
            is one class, none where the outputs are not numbers.
        error: why the image cannot be read, one sentence; None if it was read.
    """

    image: str
    ranked: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def class_names(classes: Iterable[str], count: int) -> list[str]:
    """A name for each of a network's outputs: those after the last class have their number.

    >>> class_names(("cat", "dog"), 3)
    ['cat', 'dog', '2']
    """
    names = list(classes)
    return [*names, *map(str, range(len(names), count))]


def probabilities(saved: Saved, images: np.ndarray, batch_size: int | None = None) -> np.ndarray:
    """Of the classes, (1) or (2), for images (N, H, W, C) from 0 to 1: float32 (N, K).

    Args:
        saved: the network and how its images are normalised.
        images: float32, of the shape of the run's data set.
        batch_size: samples computed at a time, by one program; the last batch is filled up. `AT_A_TIME`, or N if it
            is less, unless given.
    """
    size = batch_size or min(AT_A_TIME, len(images))
    network, params, found = saved.checkpoint.network, saved.checkpoint.params, []
    loss = make_loss(saved.recipe, network)
    with precision(saved.recipe.dtype):
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            padded = np.pad(batch, [(0, size - len(batch)), *[(0, 0)] * 3])
            computed = _probabilities(network, loss, params, saved.normalization(padded))
            found.append(np.asarray(computed)[: len(batch)])
    return np.concatenate(found)


@partial(jax.jit, static_argnums=(0, 1))
def _probabilities(network, loss, params, x):
    outputs = network.apply(params, cast(params, x)).astype(jnp.float32)
    if not isinstance(loss, SquaredError):
        return softmax(outputs)  # (1)
    above = jnp.maximum(outputs - loss.low, jnp.finfo(jnp.float32).tiny)
    return above / above.sum(axis=1, keepdims=True)  # (2)


def classify(saved: Saved, sources: Iterable[tuple[str, Path | bytes]]) -> Iterator[Guess]:
    """A `Guess` for each image, in their order, while `sources`, pairs of a name and a file, are read.

    The images are fitted to the network's size and channels. At most `AT_A_TIME` of them are in memory.
    """
    sources, size = iter(sources), None
    while batch := list(islice(sources, AT_A_TIME)):
        size = size or len(batch)
        images = [_image_or_error(saved, name, source) for name, source in batch]
        readable = [image for image in images if not isinstance(image, InputError)]
        ranked = iter(_ranked(saved, np.stack(readable), size) if readable else ())
        for (name, _), image in zip(batch, images, strict=True):
            yield Guess(name, error=str(image)) if isinstance(image, InputError) else Guess(name, next(ranked))


def image_for(saved: Saved, name: str, source: Path | bytes) -> np.ndarray:
    """An image file at the size and with the channels of the run's images: float32 (H, W, C) from 0 to 1.

    Raises:
        InputError: it cannot be read.
    """
    height, width, _ = saved.image_shape
    return fitted(resized(read_image(source, name), (height, width), name), saved.image_shape)


def _image_or_error(saved, name, source):
    try:
        return image_for(saved, name, source)
    except InputError as error:
        return error


def _ranked(saved, images, size):
    found = probabilities(saved, images, size)
    names = class_names(saved.classes, found.shape[1])
    for row in found:
        best = np.argsort(-row, kind="stable")[:2] if np.isfinite(row).all() else ()
        yield tuple((names[k], float(row[k])) for k in best)
