"""What `run(recipe, Measuring("noise_scale"), ...)` adds to the log after each epoch.

Tests: tests/test_measuring.py.
"""

from typing import Any

import jax
import numpy as np

from .errors import InputError, find
from .experiment import Observer
from .layers.statistics import merged
from .measure.noise import noise_scale
from .measure.passing import each_layer, norms_and_zeros
from .measure.samples import gradient_norms

__all__ = ["MEASURES", "Measuring"]

BATCHES = 32  # over which (1) and (2) of measure/noise.py are averaged


class Measuring(Observer):
    """Measures batches of training images after each epoch, without augmentation and as in evaluation.

    "noise_scale" adds `noise_scale`, in samples, and the means that it is the ratio of, `noise_trace` and
    `gradient_square`, to the epoch's metrics; where the latter is not above 0 there is no `noise_scale`. "layers" adds
    `norms_and_zeros` of each layer that holds no other: `conv1_delta`, `conv1_gradient`, `conv1_zeros`,
    `conv1_delta_zeros`. It must be told before whoever keeps or prints the metrics.

    Args:
        *names: of `MEASURES`.

    Raises:
        InputError: a name is none of them.

    >>> Measuring("noise")
    Traceback (most recent call last):
    jaxcnn.errors.InputError: measure is 'noise' but must be one of layers, noise_scale
    """

    def __init__(self, *names: str):
        self.measures = [find("measure", name, MEASURES) for name in names]

    def on_prepared(self, experiment):
        if _noise_scale in self.measures and experiment.recipe.batch_size < 2:
            raise InputError("batch_size is 1 but must be at least 2 where the noise scale is measured")

    def on_epoch(self, experiment, progress, found):
        for measure in self.measures:
            progress.history[-1].update(measure(experiment, progress.state))


def _batches(experiment, state, count):
    """Batches of training images, other ones after each epoch."""
    size = experiment.recipe.batch_size
    count = min(count, len(experiment.train_images) // size)
    rng = np.random.default_rng([experiment.recipe.seed, int(state.epoch)])
    for rows in rng.permutation(len(experiment.train_images))[: count * size].reshape(count, size):
        yield experiment.train_images[rows], experiment.train_labels[rows]


def _noise_scale(experiment, state) -> dict[str, float]:
    specs, params = (experiment.network, experiment.loss), merged(state.params, state.statistics)
    of_batches = [
        noise_scale(gradient_norms(*specs, params, *batch, train=False))
        for batch in _batches(experiment, state, BATCHES)
    ]
    found = jax.tree.map(lambda *each: float(sum(each)), *of_batches)
    metrics = {"noise_trace": found.trace / found.steps, "gradient_square": found.square / found.steps}
    return metrics | ({"noise_scale": float(found.scale)} if found.square > 0 else {})


def _layers(experiment, state) -> dict[str, float]:
    params = merged(state.params, state.statistics)
    (batch,) = _batches(experiment, state, 1)
    found = each_layer(experiment.network, experiment.loss, params, *batch, norms_and_zeros, train=False)
    return {f"{path}_{name}": float(value) for path, of_layer in found.items() for name, value in of_layer.items()}


MEASURES: dict[str, Any] = {"layers": _layers, "noise_scale": _noise_scale}
