"""What is added to the log of a run after each epoch."""

import json

import numpy as np
import pytest

from jaxcnn import InputError, merged
from jaxcnn.experiment import run
from jaxcnn.measure import gradient_norms, noise_scale
from jaxcnn.measuring import Measuring
from jaxcnn.recipe import Recipe
from jaxcnn.recorder import Recorder

SMALL = Recipe(epochs=2, batch_size=256)


def test_the_noise_scale_is_that_of_batches_of_training_images(tmp_path):
    recorder = Recorder(tmp_path / "run")
    result = run(SMALL, Measuring("noise_scale"), recorder)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged == result.history
    experiment, state, last = result.experiment, result.state, result.history[-1]
    images, labels = experiment.train_images, experiment.train_labels
    rng = np.random.default_rng([SMALL.seed, 2])
    order = rng.permutation(len(images))[: 5 * 256].reshape(5, 256)
    params = merged(state.params, state.statistics)
    specs = experiment.network, experiment.loss, params
    total = sum(
        (noise_scale(gradient_norms(*specs, images[rows], labels[rows], train=False)) for rows in order[1:]),
        start=noise_scale(gradient_norms(*specs, images[order[0]], labels[order[0]], train=False)),
    )
    np.testing.assert_allclose(last["noise_trace"], total.trace / 5, rtol=1e-5)
    np.testing.assert_allclose(last["gradient_square"], total.square / 5, rtol=1e-4)
    if total.square > 0:
        np.testing.assert_allclose(last["noise_scale"], total.scale, rtol=1e-4)


def test_what_passes_each_layer_is_logged_by_name_and_training_is_the_same():
    plain, measured = run(SMALL), run(SMALL, Measuring("layers", "noise_scale"))
    assert {"conv1_delta", "conv1_gradient", "relu1_zeros", "dense2_delta_zeros"} <= set(measured.history[0])
    assert 0 < measured.history[0]["relu1_zeros"] < 1
    assert plain.history[-1]["loss"] == measured.history[-1]["loss"]
    assert plain.measured.loss == measured.measured.loss


def test_a_measure_that_is_none_and_a_batch_of_one_are_refused():
    with pytest.raises(InputError, match="measure is 'noise' but must be one of layers, noise_scale"):
        Measuring("layers", "noise")
    with pytest.raises(InputError, match="batch_size is 1 but must be at least 2 where the noise scale is measured"):
        run(Recipe(epochs=1, batch_size=1), Measuring("noise_scale"))
