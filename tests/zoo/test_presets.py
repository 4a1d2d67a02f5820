"""Presets: the networks have the published sizes, the recipes are whole, the command follows them."""

import pytest

from jaxcnn import InputError, SoftmaxCrossEntropy, SquaredError, Tanh
from jaxcnn.experiment import make_loss, make_optimizer
from jaxcnn.recipe import Recipe
from jaxcnn.zoo.models import find_model
from jaxcnn.zoo.presets import PRESETS, find_preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_fits_mnist_and_names_what_exists(name):
    preset = find_preset(name)
    assert preset.published
    assert find_model(preset.model).in_shape == (28 + 2 * preset.padding, 28 + 2 * preset.padding, 1)
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
