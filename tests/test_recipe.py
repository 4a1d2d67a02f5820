"""Recipes: every value is checked, TOML gives back what was written."""

import numpy as np
import pytest

from jaxcnn import Conv2d, Dense, Flatten, InputError, MaxPool2d, Sequential
from jaxcnn.recipe import Recipe
from jaxcnn.zoo.presets import PRESETS

SPEC = Sequential((Conv2d(4, (3, 2), padding=((1, 0), (0, 2))), MaxPool2d(2), Flatten(), Dense(10)))


@pytest.mark.parametrize(
    "recipe",
    [
        *PRESETS.values(),
        Recipe(),
        Recipe(model=SPEC, epochs=7, optimizer="adamw", weight_decay=0.0, target_error=0.25, dtype="bfloat16", seed=9),
        Recipe(devices=4, sharded=True, accumulate=2, precision="mixed"),
        Recipe(name='quotes " and \\ and\nlines', published="100 % 中文", data="a b/ü", mirror=True, padding=2),
    ],
    ids=lambda recipe: repr(recipe.name)[:12],
)
def test_a_file_gives_back_the_recipe(tmp_path, recipe):
    recipe.write(tmp_path / "a.toml", "two\nlines")
    assert Recipe.read(tmp_path / "a.toml") == recipe
    assert (tmp_path / "a.toml").read_text(encoding="utf-8").startswith("# two\n# lines\n")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("epochs = 0", "a.toml: epochs is 0 but must be at least 1"),
        ("padding = 1000000000", "a.toml: padding is 1000000000 but must be at least 0 and below 2**14"),
        ("epochs = 2.0", "a.toml: epochs is 2.0 but must be a whole number"),
        ("epochs = true", "a.toml: epochs is True but must be a whole number"),
        ("learning_rate = '1'", "a.toml: learning_rate is '1' but must be finite, at least 0"),
        ("learning_rate = inf", "a.toml: learning_rate is inf but must be finite, at least 0"),
        ("mirror = 1", "a.toml: mirror is 1 but must be true or false"),
        ("devices = 1.5", "a.toml: devices is 1.5 but must be a whole number"),
        ("sharded = 1", "a.toml: sharded is 1 but must be true or false"),
        ("loss = 'zip'", "a.toml: loss is 'zip' but must be one of cross-entropy, squared-error"),
        ("model = 3", "a.toml: model is 3 but must be the name of a model or a layer"),
        ("[model]\nlayer = 'Conv9d'", "a.toml: layer is 'Conv9d' but must be one of"),
        ("speed = 3", "a.toml: a recipe has 'speed' but must have values among name, published, data"),
        ("epochs = ", "a.toml: is no TOML ("),
        ("optimizer = 'adam'\nmomentum = 0.9", "a.toml: momentum is 0.9 but adam has none; it must be left out"),
    ],
)
def test_a_bad_file_gets_one_sentence(tmp_path, content, sentence):
    (tmp_path / "a.toml").write_text(content)
    with pytest.raises(InputError) as error:
        Recipe.read(tmp_path / "a.toml")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Recipe.read(tmp_path / "no.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is no TOML"):
        Recipe.read(tmp_path / "b.toml")


def test_rates_belong_to_their_loss_and_optimizer():
    preset = PRESETS["lenet5"]
    assert preset.changed(epochs=2, momentum=0.5).rates == {
        "learning_rate": 0.02, "momentum": 0.5, "weight_decay": 0.0,
    }  # fmt: skip
    assert preset.changed(loss="squared-error").rates == {
        "learning_rate": 0.002, "momentum": 0.9, "weight_decay": 5e-4,
    }  # fmt: skip
    assert preset.changed(optimizer="adam", learning_rate=0.3).rates == {"learning_rate": 0.3}
    assert preset.changed(optimizer="sgd").rates == preset.rates
    with pytest.raises(InputError, match="a recipe has 'rate' but must have values among"):
        preset.changed(rate=3)


def test_numbers_of_numpy_are_numbers(tmp_path):
    recipe = Recipe(epochs=np.int64(3), batch_size=np.int32(8), learning_rate=np.float64(0.5), mirror=np.bool_(True))
    assert recipe == Recipe(epochs=3, batch_size=8, learning_rate=0.5, mirror=True)
    recipe.write(str(tmp_path / "recipe.toml"))
    assert Recipe.read(str(tmp_path / "recipe.toml")) == recipe
