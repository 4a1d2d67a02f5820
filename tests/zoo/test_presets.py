"""Presets: the networks have the published sizes, the recipes are whole, the command follows them."""

import pytest

from jaxcnn import InputError, SoftmaxCrossEntropy, SquaredError, Tanh
from jaxcnn.experiment import make_loss, make_optimizer
from jaxcnn.recipe import Recipe
from jaxcnn.zoo.models import find_model
from jaxcnn.zoo.presets import PRESETS, find_preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_fits_its_data_and_names_what_exists(name):
    preset = find_preset(name)
    assert preset.published
    size, channels = (32, 3) if name == "cifar" else (28, 1)  # of CIFAR-10, of MNIST
    assert find_model(preset.model).in_shape == (size + 2 * preset.padding, size + 2 * preset.padding, channels)
    assert preset.name == name
    make_optimizer(preset, 10)


SQUARED = Recipe(loss="squared-error")


def test_targets_are_those_of_the_last_layer():
    assert make_loss(SQUARED, find_model("deeplearntoolbox").build(10)) == SquaredError()
    assert make_loss(SQUARED, find_model("bouvrie").build(10)) == SquaredError(low=-1)
    assert make_loss(SQUARED, Tanh()) == SquaredError(low=-1)
    assert make_loss(Recipe(smoothing=0.1), find_model("lenet5").build(10)) == SoftmaxCrossEntropy(smoothing=0.1)


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match="preset is 'x' but must be one of"):
        find_preset("x")


def test_the_schedule_stretches_over_the_epochs_after_the_warm_up():
    """Ten updates in an epoch; the learning rates at some of the updates made before."""
    for changes, expected in (
        ({"schedule": "constant"}, {0: 0.5, 59: 0.5}),
        ({"schedule": "step"}, {0: 0.5, 19: 0.5, 20: 0.05, 39: 0.05, 40: 0.005, 59: 0.005}),
        ({"schedule": "cosine"}, {0: 0.5, 30: 0.25, 60: 0.0}),
        ({"schedule": "step", "warmup": 3}, {0: 0.5 / 30, 14: 0.25, 29: 0.5, 39: 0.5, 40: 0.05, 50: 0.005}),
        ({"schedule": "cosine", "warmup": 2}, {9: 0.25, 20: 0.5, 40: 0.25, 60: 0.0}),
    ):
        schedule = make_optimizer(Recipe(epochs=6, learning_rate=0.5, **changes), 10).learning_rate
        found = {step: float(schedule(step)) for step in expected}
        assert found == pytest.approx(expected, abs=1e-7), changes
