"""`jaxcnn predict`: the classes of image files."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from command import run
from written import SMALL, spoil, write_image, write_run

from jaxcnn import Sequential, Sigmoid, Tanh, predict
from jaxcnn.data import load_digits
from jaxcnn.saved import classify as module
from jaxcnn.store.runs import load_run

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def test_an_image_gets_its_class_and_the_one_that_comes_second(capsys):
    network, params = write_run()
    image = np.rint(15 * load_digits().test_images[3]) / 15  # of values that a file keeps
    write_image("one.png", image)
    assert run("predict", "r", "one.png") == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["class", "probability", "second", "probability", "image"]
    (k,), (p,) = predict(network, params, load_run("r").normalization(image[None]))
    label, probability, second, other, name = line.split()
    assert (label, probability, name) == (str(k), f"{p:.2%}", "one.png")
    assert second != label
    assert float(other[:-1]) < float(probability[:-1])


def test_a_folder_stands_for_its_images_and_one_program_computes_all_of_them(capsys, monkeypatch, rng):
    write_run()
    monkeypatch.setattr(module, "AT_A_TIME", 4)
    names = ["a/10.png", "a/9.JPG", "a/b/c.jpeg", "a/d.png", "a/e.png", "a/f.png"]
    for i, name in enumerate(names):
        write_image(name, rng.random((8 + i, 9, 3 if i % 2 else 1)))
    Path("a/notes.txt").write_text("no image")
    Path("a/._d.png").write_bytes(b"of an archive")
    before = module._probabilities._cache_size()
    assert run("predict", "r", "a", "--json") == 0
    assert module._probabilities._cache_size() == before + 1
    found = json.loads(capsys.readouterr().out)["images"]
    assert [guess["image"] for guess in found] == names
    for guess in found:
        assert run("predict", "r", guess["image"], "--json") == 0
        (alone,) = json.loads(capsys.readouterr().out)["images"]
        assert alone["class"] == guess["class"]
        assert alone["probability"] == pytest.approx(guess["probability"], rel=1e-5)


def test_standard_input_is_an_image(capsys, monkeypatch):
    write_run()
    write_image("one.png", load_digits().test_images[0])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("one.png").read_bytes())))
    assert run("predict", "r", "-", "one.png", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)["images"]
    assert first == second | {"image": "standard input"}


def test_a_file_that_is_no_image_is_named_and_the_others_are_classified(capsys, rng):
    write_run()
    Path("bad.png").write_bytes(b"no image")
    write_image("good.png", rng.random((8, 8, 1)))
    assert run("predict", "r", "bad.png", "nowhere.png", "good.png", "--json") == 2
    out, err = capsys.readouterr()
    sentences = [line for line in err.splitlines() if line.startswith("jaxcnn: ")]
    assert [line.split(": ")[1] for line in sentences] == ["bad.png", "nowhere.png"]
    bad, missing, good = json.loads(out)["images"]
    assert (bad["class"], missing["class"]) == (None, None)
    assert sentences == [f"jaxcnn: {guess['error']}" for guess in (bad, missing)]
    assert good["class"] in set("0123456789")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["r"], "Missing argument"),
        (["r", "empty"], "image is 'empty', a folder without PNG or JPEG files; it must hold one"),
        (["nowhere", "a.png"], "run is 'nowhere', which holds no model.safetensors"),
        (["r", "a.png"], "a.png: "),
    ],
)
def test_what_cannot_be_used_gets_one_sentence(capsys, arguments, sentence):
    write_run()
    Path("empty").mkdir()
    assert run("predict", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxcnn: ")
    assert err.count("\n") == 1
    assert sentence in err


def test_parameters_that_are_not_finite_have_no_class(capsys, rng):
    write_run(change=spoil)
    write_image("one.png", rng.random((8, 8, 1)))
    assert run("predict", "r", "one.png", "--json") == 0
    out, err = capsys.readouterr()
    assert "jaxcnn: r holds NaN or infinite parameters, in conv1/bias\n" in err
    (guess,) = json.loads(out, parse_constant=pytest.fail)["images"]
    assert (guess["class"], guess["probability"]) == (None, None)
    assert run("predict", "r", "one.png") == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["-", "-", "-", "-", "one.png"]


def test_outputs_trained_with_squared_error_are_probabilities_but_for_their_sum(capsys, rng):
    sigmoid = Sequential((*SMALL.layers, Sigmoid()))
    for folder, network, low in (("s", sigmoid, 0), ("t", Sequential((*SMALL.layers, Tanh())), -1)):
        write_run(folder, network, loss="squared-error")
        images = rng.random((3, 8, 8, 1), np.float32)
        found = module.probabilities(saved := load_run(folder), images)
        above = np.asarray(network.apply(saved.checkpoint.params, saved.normalization(images))) - low
        assert found == pytest.approx(above / above.sum(axis=1, keepdims=True), rel=1e-5)


def test_classes_have_their_names_and_line_up(capsys, rng):
    write_run(classes=["ein sehr langer Name", "猫", *map(str, range(8))])
    write_image("one.png", rng.random((8, 8, 1)))
    write_image("two.png", rng.random((8, 8, 1)))
    assert run("predict", "r", "one.png", "two.png") == 0
    out = capsys.readouterr().out
    assert {len(line.replace("猫", "猫 ").rpartition("  ")[0]) for line in out.splitlines()} == {
        2 * 20 + 2 * 11 + 3 * 2
    }
