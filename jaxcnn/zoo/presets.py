"""Published recipes: a network, how it is trained, and what was reached with it."""

from ..errors import find
from ..recipe import Recipe

PRESETS = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="deeplearntoolbox",
            model="deeplearntoolbox",
            published="11 % error after 1 epoch and 1.2 % after 100 on MNIST (DeepLearnToolbox's README)",
            epochs=1,
            batch_size=50,
            momentum=0.0,
            weight_decay=0.0,
            learning_rate=1.0,
            loss="squared-error",
            schedule="constant",
            normalize=False,
        ),
        Recipe(
            name="lenet5",
            model="lenet5",
            published="0.95 % error on MNIST (LeCun et al. 1998)",
            epochs=20,
            batch_size=50,
            weight_decay=0.0,
            learning_rate=0.02,
            momentum=0.9,
            padding=2,
        ),
        Recipe(
            name="bouvrie",
            model="bouvrie",
            published="no figures: Bouvrie's notes (2006) derive the gradients and report no experiment",
            epochs=10,
            batch_size=50,
            momentum=0.0,
            weight_decay=0.0,
            learning_rate=0.1,
            loss="squared-error",
        ),
        Recipe(
            name="stochastic",
            model="stochastic",
            published="0.47 % error on MNIST (Zeiler & Fergus 2013)",
            epochs=20,
            batch_size=128,
            learning_rate=0.01,
            momentum=0.9,
            weight_decay=1e-3,
        ),
        Recipe(
            name="modern",
            model="modern",
            published="92.5 % accuracy on Fashion-MNIST for two convolutions and fewer than 100,000 parameters (its "
            "README)",
            epochs=25,
            batch_size=64,
            learning_rate=0.04,
            momentum=0.9,
            weight_decay=5e-4,
            optimizer="nesterov",
            mirror=True,
        ),
        Recipe(
            name="cifar",
            model="resnet9",
            published="94 % accuracy on CIFAR-10 by wider networks, in 24 and 10 epochs (Page 2018, Jordan 2024)",
            epochs=22,
            batch_size=256,
            optimizer="nesterov",
            learning_rate=0.2,
            momentum=0.9,
            weight_decay=5e-4,
            warmup=2,
            smoothing=0.2,
            augment=("crop:4", "flip", "cutout:8"),
            precision="mixed",
        ),
    )
}


def find_preset(name: str) -> Recipe:
    """The preset called `name`.

    Raises:
        InputError: no preset has this name.

    >>> find_preset("deeplearntoolbox").learning_rate
    1.0
    """
    return find("preset", name, PRESETS)
