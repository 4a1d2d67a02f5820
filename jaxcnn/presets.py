"""Published recipes as data: a network, how it is trained, and what was reached with it."""

from dataclasses import dataclass

from .errors import InputError


@dataclass(frozen=True)
class Preset:
    """A recipe; each option of `jaxcnn train` replaces one of its values.

    Attributes:
        model: a name in `models.MODELS`; None: the one made for the images' size.
        anchor: what was published, and on which data; "" where nothing was.
        epochs: the schedule stretches over them.
        batch_size: samples per update.
        learning_rate, momentum, weight_decay: None: the default of the optimizer.
        loss, optimizer: by their names on the command line.
        schedule: of the learning rate, "constant" or "cosine".
        normalize: images of zero mean and unit variance [I3]; otherwise pixels from 0 to 1.
        padding: rows and columns of background around each image.
        mirror: train on every image and its mirror image, left and right exchanged.
    """

    model: str | None
    anchor: str
    epochs: int
    batch_size: int
    learning_rate: float | None
    momentum: float | None = 0.0
    weight_decay: float | None = 0.0
    loss: str = "cross-entropy"
    optimizer: str = "sgd"
    schedule: str = "cosine"
    normalize: bool = True
    padding: int = 0
    mirror: bool = False


DEFAULT = Preset(model=None, anchor="", epochs=60, batch_size=32, learning_rate=None, momentum=None, weight_decay=None)

PRESETS = {
    "deeplearntoolbox": Preset(
        model="deeplearntoolbox",
        anchor="11 % error after 1 epoch and 1.2 % after 100 on MNIST (DeepLearnToolbox's README)",
        epochs=1,
        batch_size=50,
        learning_rate=1.0,
        loss="squared-error",
        schedule="constant",
        normalize=False,
    ),
    "lenet5": Preset(
        model="lenet5",
        anchor="0.95 % error on MNIST (LeCun et al. 1998)",
        epochs=20,
        batch_size=50,
        learning_rate=0.02,
        momentum=0.9,
        padding=2,
    ),
    "bouvrie": Preset(
        model="bouvrie",
        anchor="no figures: Bouvrie's notes (2006) derive the gradients and report no experiment",
        epochs=10,
        batch_size=50,
        learning_rate=0.1,
        loss="squared-error",
    ),
    "stochastic": Preset(
        model="stochastic",
        anchor="0.47 % error on MNIST (Zeiler & Fergus 2013)",
        epochs=20,
        batch_size=128,
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=1e-3,
    ),
    "modern": Preset(
        model="modern",
        anchor="92.5 % accuracy on Fashion-MNIST for two convolutions and fewer than 100,000 parameters (its README)",
        epochs=25,
        batch_size=64,
        learning_rate=0.04,
        momentum=0.9,
        weight_decay=5e-4,
        optimizer="nesterov",
        mirror=True,
    ),
}


def find(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        InputError: no preset has this name.

    >>> find("deeplearntoolbox").learning_rate
    1.0
    """
    if name not in PRESETS:
        raise InputError(f"preset is {name!r} but must be one of {', '.join(PRESETS)}")
    return PRESETS[name]
