"""Presets: the networks have the published sizes, the recipes are whole, the command follows them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import run

from jaxcnn import InputError, SoftmaxCrossEntropy, SquaredError, commands, models, presets, summary
from jaxcnn.data import Normalization


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("deeplearntoolbox", {"conv1": 156, "conv2": 1812, "dense1": 1930}),
        (
            "lenet5",
            {
                "conv1": 156, "subsample1": 12, "conv2": 1516, "subsample2": 32, "conv3": 48_120, "dense1": 10_164,
                "dense2": 850,
            },
        ),
        ("bouvrie", {"conv1": 156, "subsample1": 12, "combinemaps1": 234, "subsample2": 24, "dense1": 1930}),
        ("stochastic", {"conv1": 1664, "conv2": 102_464, "conv3": 102_464, "dense1": 2570}),
    ],
)  # fmt: skip
def test_the_networks_have_the_published_parameters(model, parameters):
    found = models.find(model)
    counted = summary(found.build(10), found.in_shape)
    assert {row.name: row.parameters for row in counted.rows if row.parameters} == parameters
    assert counted.total.output_shape == (10,)


def test_the_totals_are_those_of_the_papers():
    def total(model):
        return summary(models.find(model).build(10), models.find(model).in_shape).total.parameters

    assert total("deeplearntoolbox") == 3898
    assert total("modern") == 84_986 < 100_000
    assert total("lenet5") - 850 == 60_000  # without the dense output that stands for the RBF one


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_recipe_fits_mnist_and_names_what_exists(name):
    preset = presets.find(name)
    assert preset.anchor
    assert models.find(preset.model).in_shape == (28 + 2 * preset.padding, 28 + 2 * preset.padding, 1)
    commands.LossName(preset.loss)
    rates = {field: getattr(preset, field) for field in ("learning_rate", "momentum", "weight_decay")}
    commands._optimizer(commands.OptimizerName(preset.optimizer), rates, preset.schedule, 10)


def test_targets_are_those_of_the_last_layer():
    squared, entropy = commands.LossName.squared_error, commands.LossName.cross_entropy
    assert commands._loss(squared, models.find("deeplearntoolbox").build(10)) == SquaredError()
    assert commands._loss(squared, models.find("bouvrie").build(10)) == SquaredError(low=-1)
    assert commands._loss(entropy, models.find("lenet5").build(10)) == SoftmaxCrossEntropy()


def test_padding_puts_background_around_before_the_statistics_are_taken(rng):
    images = rng.random((6, 4, 3, 1)).astype(np.float32)
    normalization = Normalization.of(images, padding=2)
    padded = normalization(images)
    assert padded.shape == (6, 8, 7, 1)
    np.testing.assert_allclose([padded.mean(), padded.std()], [0, 1], atol=1e-6)
    assert np.unique(padded[:, :2]).size == 1
    np.testing.assert_allclose(padded[:, 2:-2, 2:-2] * normalization.std + normalization.mean, images, atol=1e-6)


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
    monkeypatch.setitem(presets.PRESETS, "lenet5", dataclasses.replace(presets.find("lenet5"), mirror=True))
    options = ("--epochs", 2, "--batch-size", 8, "--momentum", 0.5)
    assert run("train", "--preset", "lenet5", "--data", folder, *options, "--out", "r", "--json") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (result["preset"], result["parameters"]) == ("lenet5", 60_850)
    assert result["steps"] == 20  # 2 epochs of 80 images, 40 of them mirrored
    assert result["published"] == presets.find("lenet5").anchor
    assert f"published for lenet5: {result['published']}" in err
    assert f"reached here: {1 - result['accuracy']:.2%} error" in err
    config, preset = json.loads(Path("r/config.json").read_text()), presets.find("lenet5")
    assert (config["epochs"], config["batch_size"], config["momentum"]) == (2, 8, 0.5)
    for name in ("model", "learning_rate", "weight_decay", "loss", "optimizer", "schedule"):
        assert config[name] == getattr(preset, name)
    assert config["normalization"]["padding"] == 2

    assert run("evaluate", "r", "--json") == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == result["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--preset", "resnet"], "preset is 'resnet' but must be one of deeplearntoolbox, lenet5"),
        (
            ["--preset", "lenet5"],
            "data is 'digits' with images of shape (8, 8, 1) but preset lenet5 is made for MNIST's",
        ),
        (["--preset", "lenet5", "--optimizer", "adam", "--momentum", 0.9], "momentum is 0.9 but adam has none"),
    ],
)
def test_a_preset_that_does_not_fit_gets_one_sentence(folder, capsys, arguments, sentence):
    assert run("train", *arguments) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match="preset is 'x' but must be one of"):
        presets.find("x")
