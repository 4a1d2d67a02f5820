"""Small runs and images, written as files."""

from pathlib import Path

import jax
import numpy as np

from jaxcnn import SGD, Conv2d, Dense, Flatten, ReLU, Sequential, init_state
from jaxcnn.store.checkpoint import save_checkpoint

SMALL = Sequential((Conv2d(2, 3), ReLU(), Flatten(), Dense(10)))
INFO = {
    "data": "digits",
    "classes": list("0123456789"),
    "loss": "cross-entropy",
    "dtype": "float32",
    "normalization": {"mean": 0.3, "std": 0.4, "padding": 1},
}


def write_run(folder="r", network=SMALL, in_shape=(10, 10, 1), change=None, **info):
    """A run folder with random parameters, after `change` of the state; returns the network and its parameters."""
    found = INFO | info
    state = init_state(network, SGD(0.1), jax.random.key(0), in_shape, dtype=found["dtype"])
    if change is not None:
        change(state)
    Path(folder).mkdir()
    save_checkpoint(Path(folder, "model.safetensors"), network, in_shape, state, found)
    return network, state.params


def spoil(state):
    """Makes a bias NaN and another infinite."""
    state.params["conv1"]["bias"] = state.params["conv1"]["bias"].at[:].set(np.array([np.nan, np.inf]))


def write_image(path, image):
    """An image (H, W, C) from 0 to 1 as a file; of its suffix's format."""
    from PIL import Image

    pixels = np.rint(255 * np.asarray(image)).astype(np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).save(path)
