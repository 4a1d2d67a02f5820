"""`jaxcnn plot`: a run as one page."""

import json
import re
from pathlib import Path

import pytest
from command import run
from written import spoil, write_image, write_run

from jaxcnn.data import load_digits

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

METRICS = {"loss": 0.5, "accuracy": 0.75}


def written(path="r/report.html"):
    page = Path(path).read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=(?!\"data:image/png;base64,)|https?:|url\(|@import|<script", page)
    return page


def test_the_page_shows_what_was_learned_and_needs_nothing_else(capsys):
    write_run()
    lines = (json.dumps({"epoch": i, **METRICS, "validation_loss": 1, "validation_accuracy": 0.5}) for i in (1, 2))
    Path("r/metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert run("plot", "r") == 0
    assert capsys.readouterr().out.startswith("wrote r/report.html: test accuracy ")
    page = written()
    heads = ["Curves", "Confusion", "Mistakes", "One image, forward and back", "Kernels", "Layers", "Recipe"]
    assert re.findall("<h2>(.*?)</h2>", page) == heads
    assert "test image " in page
    assert "the sensitivities are those of the loss for it" in page
    assert "conv1      Conv2d(2, 3)" in page
    assert "<dt>loss</dt><dd>cross-entropy</dd>" in page
    assert page.count("<figure>") == 24


def test_names_of_classes_and_files_are_escaped(capsys):
    name = "<script>alert(1)</script>"
    write_run(classes=[name] * 10)
    write_image("<script>.png", load_digits().test_images[0])
    assert run("plot", "r", "<script>.png", "--out", "page.html") == 0
    page = written("page.html")
    assert "&lt;script&gt;.png: taken for " in page
    assert not Path("r/report.html").exists()


def test_the_class_of_an_image_is_the_one_given_else_the_one_that_it_is_taken_for(rng):
    write_run()
    write_image("one.png", rng.random((20, 20, 3)))
    assert run("plot", "r", "one.png") == 0
    taken = re.search(r"one.png: taken for (\d) with probability", page := written("r/report-one.html"))[1]
    assert f"Its class is not known; the sensitivities are those of the loss for {taken};" in page
    assert run("plot", "r", "one.png", "--label", 7) == 0
    assert "Its class is 7, and the sensitivities are those of the loss for it;" in written("r/report-one.html")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "run is 'nowhere', which holds no model.safetensors"),
        (["r", "--label", 3], "label is '3' but no image is given; it must come with IMAGE"),
        (["r", "one.png", "--label", "x"], "label is 'x' but must be one of 0, 1, 2"),
        (["r", "nowhere.png"], "nowhere.png: "),
        (["r", "--out", "r"], "out is 'r' but must be a file; its folder must exist"),
        (["r", "--out", "no/page.html"], "out is 'no/page.html' but must be a file"),
        (["r"], "r/metrics.jsonl: is corrupt"),
    ],
)
def test_what_cannot_be_used_gets_one_sentence(capsys, rng, arguments, sentence):
    write_run()
    write_image("one.png", rng.random((8, 8, 1)))
    Path("r/metrics.jsonl").write_text('{"epoch": 1, "loss": 0.5, "accuracy": 0.5}\n{"epoch": 2, "lo')
    assert run("plot", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxcnn: ")
    assert err.count("\n") == 1
    assert sentence in err


def test_parameters_that_are_not_finite_are_shown_all_the_same(capsys):
    write_run(change=spoil)
    assert run("plot", "r", "--json") == 0
    out, err = capsys.readouterr()
    assert "jaxcnn: r holds NaN or infinite parameters, in conv1/bias\n" in err
    assert json.loads(out, parse_constant=pytest.fail)["loss"] is None
    assert "taken for" in written()
