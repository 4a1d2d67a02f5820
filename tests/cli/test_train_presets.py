"""`jaxcnn train --preset`: the command follows a published recipe."""

import dataclasses
import json

import pytest
from command import run

from jaxcnn.recipe import Recipe
from jaxcnn.zoo.presets import PRESETS, find_preset

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.fixture
def folder(tmp_path, rng, monkeypatch):
    """Forty images of MNIST's format, and the empty folder in which the command runs."""
    (tmp_path / "small").mkdir()
    for prefix in ("train", "t10k"):
        images = tmp_path / "small" / f"{prefix}-images-idx3-ubyte"
        images.write_bytes(bytes((0, 0, 8, 3, 0, 0, 0, 40, 0, 0, 0, 28, 0, 0, 0, 28)) + rng.bytes(40 * 28 * 28))
        labels = images.with_name(f"{prefix}-labels-idx1-ubyte")
        labels.write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 40)) + 4 * bytes(range(10)))
    monkeypatch.chdir(tmp_path)
    return "small"


def test_an_option_beside_a_preset_replaces_its_value_and_the_rest_is_the_presets(folder, capsys, monkeypatch):
    monkeypatch.setitem(PRESETS, "lenet5", dataclasses.replace(find_preset("lenet5"), mirror=True))
    options = ("--epochs", 2, "--batch-size", 8, "--momentum", 0.5)
    assert run("train", "--preset", "lenet5", "--data", folder, *options, "--out", "r", "--json") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (result["preset"], result["parameters"]) == ("lenet5", 60_850)
    assert result["steps"] == 20  # 2 epochs of 80 images, 40 of them mirrored
    assert result["published"] == find_preset("lenet5").published
    assert f"published for lenet5: {result['published']}" in err
    assert f"reached here: {1 - result['accuracy']:.2%} error" in err
    recipe, preset = Recipe.read("r/recipe.toml"), find_preset("lenet5")
    assert (recipe.epochs, recipe.batch_size, recipe.momentum) == (2, 8, 0.5)
    for name in ("name", "model", "learning_rate", "weight_decay", "loss", "optimizer", "schedule", "padding"):
        assert getattr(recipe, name) == getattr(preset, name)

    assert run("evaluate", "r", "--json") == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == result["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--preset", "resnet"], "preset is 'resnet' but must be one of deeplearntoolbox, lenet5"),
        (
            ["--preset", "lenet5"],
            "data is 'digits' with images of shape (8, 8, 1) but preset lenet5 is made for (28, 28, 1)",
        ),
        (["--preset", "lenet5", "--optimizer", "adam", "--momentum", 0.9], "momentum is 0.9 but adam has none"),
    ],
)
def test_a_preset_that_does_not_fit_gets_one_sentence(folder, capsys, arguments, sentence):
    assert run("train", *arguments) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1
