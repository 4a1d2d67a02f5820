"""`jaxcnn attribute`: the picture of one image's attributions."""

import io
import json
import sys
import textwrap
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from command import run
from written import SMALL, spoil, write_image, write_run

from jaxcnn import BatchNorm, Conv2d, Dense, Flatten, LayerNorm, ReLU, Sequential, merged_batch_norms
from jaxcnn.change import attribute, epsilon_gamma_box, epsilon_plus
from jaxcnn.data import load_digits
from jaxcnn.experiment import precision
from jaxcnn.inspect import plots
from jaxcnn.saved.attribution import ATTRIBUTIONS, attribution_maps
from jaxcnn.saved.classify import probabilities
from jaxcnn.store.runs import load_run

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, as (image, maps, title)."""
    found = []
    monkeypatch.setattr(plots, "attribution_picture", lambda *args: found.append(args) or b"picture")
    return found


def four():
    image = np.rint(15 * load_digits().test_images[3]) / 15  # of values that a file keeps
    write_image("four.png", image)
    return image.astype(np.float32)


def test_the_picture_has_the_image_and_five_maps_and_says_where_it_is(capsys):
    write_run()
    four()
    assert run("attribute", "r", "four.png") == 0
    assert capsys.readouterr().out.startswith("wrote r/attribution-four.png: ")
    assert Path("r/attribution-four.png").read_bytes().startswith(b"\x89PNG")


def test_the_maps_are_attributions_to_the_class_that_it_is_taken_for_without_the_padding(drawn, capsys):
    network, params = write_run()
    image = four()
    assert run("attribute", "r", "four.png", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    x = load_run("r").normalization(image[None])
    k = int(network.apply(params, x).argmax())
    (found,) = probabilities(load_run("r"), image[None])
    names = ["gradient", "guided", "deconvnet", "epsilon-plus", "epsilon-gamma-box"]
    assert facts == {"file": "r/attribution-four.png", "class": str(k), "probability": pytest.approx(found[k]),
                     "taken_for": str(k), "rules": names}  # fmt: skip
    ((shown, maps, title),) = drawn
    np.testing.assert_allclose(shown, image, atol=1e-6)
    assert title == f"four.png: {k}, probability {found[k]:.2%}"
    assert list(maps) == [ATTRIBUTIONS[name].title for name in names]
    low, high = (0 - 0.3) / 0.4, (1 - 0.3) / 0.4
    for name, rules in (
        ("gradient", None),
        ("epsilon-plus", epsilon_plus(network)),
        ("epsilon-gamma-box", epsilon_gamma_box(network, low, high)),
    ):
        expected = attribute(network, params, x, rules, [k])[0, 1:-1, 1:-1, 0]
        assert expected.shape == (8, 8)
        found = maps[ATTRIBUTIONS[name].title]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_a_class_that_is_asked_for_and_rules_that_are_chosen(drawn, capsys):
    network, params = write_run(classes=["cat", "dog", *map(str, range(8))])
    x = load_run("r").normalization(four()[None])
    other = int(network.apply(params, x).argmin())
    label = ["cat", "dog", *map(str, range(8))][other]
    chosen = "--rule", "epsilon", "--rule", "gradient"
    assert run("attribute", "r", "four.png", "--label", label, "--out", "why.png", *chosen) == 0
    assert Path("why.png").read_bytes() == b"picture"
    ((_, maps, title),) = drawn
    assert title.startswith(f"four.png: {label}, probability ")
    assert "; taken for " in title
    assert list(maps) == ["relevance:\nepsilon", "gradient\n"]
    expected = attribute(network, params, x, None, [other])[0, 1:-1, 1:-1, 0]
    np.testing.assert_allclose(maps["gradient\n"], expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_standard_input_is_an_image(drawn, capsys, monkeypatch):
    write_run()
    four()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("four.png").read_bytes())))
    assert run("attribute", "r", "-", "--rule", "gradient") == 0
    assert capsys.readouterr().out.startswith("wrote r/attribution-standard-input.png: ")
    assert drawn[0][2].startswith("standard input: ")


def test_maps_of_colour_are_summed_and_batch_norms_are_merged_first():
    network = Sequential((Conv2d(4, 3, bias=False), BatchNorm(), ReLU(), Flatten(), Dense(10)))
    shape = {"normalization": {"mean": 0.3, "std": 0.4, "padding": 0}}

    def change(state):
        for name, value in (("mean", 0.5), ("variance", 4.0)):
            state.statistics["batchnorm1"][name] = jnp.full(4, value)

    write_run(network=network, in_shape=(8, 8, 3), change=change, **shape)
    saved, image = load_run("r"), np.random.default_rng(0).random((8, 8, 3), np.float32)
    params, x = saved.checkpoint.params, saved.normalization(image[None])
    maps = attribution_maps(saved, image, 2, ["gradient", "epsilon-plus"])
    as_it_is, without = (network, params), merged_batch_norms(network, params)
    for name, (given, own), rules in (
        ("gradient", as_it_is, None),
        ("epsilon-plus", without, epsilon_plus(without[0])),
    ):
        expected = attribute(given, own, x, rules, [2])[0].sum(axis=-1)
        np.testing.assert_allclose(maps[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    kept = attribute(network, params, x, epsilon_plus(network), [2])[0].sum(axis=-1)
    assert not np.allclose(maps["epsilon-plus"], kept, atol=1e-2 * np.abs(kept).max())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "four.png"], "run is 'nowhere', which holds no model.safetensors"),
        (["r", "nowhere.png"], "nowhere.png: "),
        (["r", "four.png", "--rule", "lrp"], "rule is 'lrp' but must be one of gradient, guided, deconvnet, epsilon,"),
        (["r", "four.png", "--label", "x"], "label is 'x' but must be one of 0, 1, 2"),
        (["r", "four.png", "--out", "no/why.png"], "out is 'no/why.png' but must be a file; its folder must exist"),
        (["r"], "Missing argument"),
        (
            ["n", "four.png"],
            "rule is 'epsilon-plus' but network: layernorm1 is LayerNorm(epsilon=1e-05) but must be a layer for which "
            "relevance propagation has an agreed rule; gradient, guided and deconvnet take any network",
        ),
    ],
)
def test_what_cannot_be_used_gets_one_sentence(capsys, arguments, sentence):
    write_run()
    write_run("n", Sequential((LayerNorm(), *SMALL.layers)))
    four()
    assert run("attribute", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxcnn: ")
    assert err.count("\n") == 1
    assert sentence in err


def test_parameters_that_are_not_finite_are_shown_all_the_same(capsys):
    write_run(change=spoil)
    four()
    assert run("attribute", "r", "four.png", "--json") == 0
    out, err = capsys.readouterr()
    assert "jaxcnn: r holds NaN or infinite parameters, in conv1/bias\n" in err
    assert json.loads(out, parse_constant=pytest.fail)["probability"] is None
    assert Path("r/attribution-four.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_runs_of_any_precision_have_maps(dtype):
    with precision(dtype):
        write_run(dtype=dtype)
    found = attribution_maps(load_run("r"), four(), 3, ATTRIBUTIONS)
    for name, values in found.items():
        assert values.dtype == ("float64" if dtype == "float64" else "float32"), name
        assert np.isfinite(values).all()
        assert values.any()


def test_every_map_is_drawn_on_a_scale_of_its_own_about_zero(monkeypatch):
    monkeypatch.setattr(plots, "_png", lambda figure: figure)
    maps = {"one\n": np.array([[1.0, -3.0], [0.0, 2.0]]), "other\n": np.array([[0.5, 0.1], [0.2, np.inf]])}
    figure = plots.attribution_picture(np.full((2, 2, 1), 0.25), maps, "$x^: 4")
    image, *drawn = figure.axes
    assert figure.get_suptitle() == "$x^: 4"
    np.testing.assert_array_equal(np.asarray(image.images[0].get_array()), np.full((2, 2, 3), 0.25))
    assert [axes.get_title() for axes in drawn] == list(maps)
    assert [axes.images[0].get_clim() for axes in drawn] == [(-3.0, 3.0), (-0.5, 0.5)]
    assert [axes.get_xlabel() for axes in drawn] == ["±3", "±0.5"]
    np.testing.assert_array_equal(np.asarray(drawn[0].images[0].get_array()), maps["one\n"])


def test_a_long_title_is_broken_between_words(monkeypatch):
    monkeypatch.setattr(plots, "_png", lambda figure: figure)
    title = "a photograph.png: ankle boot, probability 3.25%; taken for sneaker, 96.17%"
    for count, lines in ((1, 2), (5, 1)):
        figure = plots.attribution_picture(np.ones((2, 2, 3)), {f"{i}\n": np.ones((2, 2)) for i in range(count)}, title)
        assert figure.get_suptitle().split("\n") == textwrap.wrap(title, 24 * (count + 1))
        assert len(figure.get_suptitle().split("\n")) == lines
