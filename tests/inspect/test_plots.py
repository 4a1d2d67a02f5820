"""The pictures of a run."""

import io
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import Conv2d, Dense, Dropout, Flatten, MaxPool2d, ReLU, Sequential, SoftmaxCrossEntropy
from jaxcnn.inspect import plots
from jaxcnn.inspect.flow import Passed, flow

METRICS = {"loss": 1.0, "accuracy": 0.5, "validation_loss": 2.0, "validation_accuracy": 0.25}


@pytest.fixture
def figures(monkeypatch):
    """The figures, drawn but not written."""
    monkeypatch.setattr(plots, "_png", lambda figure: figure)


@pytest.mark.parametrize("epochs", [1, 2, 5, 60])
def test_curves_have_whole_epochs_marks_while_they_are_few_and_the_runs_name(figures, epochs):
    figure = plots.curves([METRICS | {"epoch": i + 1} for i in range(epochs)], "cost $5_")
    assert figure.get_suptitle() == "cost $5_"
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks == [int(tick) for tick in ticks] != []
        assert {line.get_marker() for line in axes.lines} == {"o" if epochs < 60 else "None"}
    assert figure.savefig(os.devnull, format="png") is None


@pytest.mark.parametrize("other", ["validation", "test"])
def test_curves_show_whatever_was_measured_beside_the_training_images(figures, other):
    metrics = {"epoch": 1, "loss": 1.0, "accuracy": 0.5, f"{other}_loss": 2.0, f"{other}_accuracy": 0.25}
    for axes, values in zip(plots.curves([metrics]).axes, ([1.0, 2.0], [50.0, 75.0]), strict=True):
        assert [line.get_label() for line in axes.lines] == ["training", other]
        assert [line.get_ydata()[0] for line in axes.lines] == values


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_kernels_have_the_runs_name_and_survive_what_is_not_finite(figures, value, channels):
    weight = np.ones((3, 3, channels, 4))
    weight[0, 0, 0, 0] = value
    figure = plots.kernels({"conv1": {"weight": weight}}, "digits-0001")
    assert figure.get_suptitle() == "digits-0001"
    figure.savefig(os.devnull, format="png")


def test_any_name_of_a_folder_can_be_a_title():
    for name in ("运行", "$x^", "\udcff"):
        assert plots.curves([METRICS | {"epoch": 1}], name).startswith(b"\x89PNG")


def test_the_picture_leaves_out_what_changes_no_number_and_names_the_classes(figures, rng):
    network = Sequential((Conv2d(5, 3), ReLU(), MaxPool2d(2), Flatten(), Dropout(0.5), Dense(3)))
    params = network.init(jax.random.key(1), (8, 9, 1))
    passed, _ = flow(
        network, SoftmaxCrossEntropy(), params, jnp.asarray(rng.standard_normal((8, 9, 1)), jnp.float32), 1
    )
    figure = plots.flow_picture(passed, ("cat", "dog", "owl"), "run")
    above, below = np.reshape(figure.axes, (2, -1))
    assert [axes.get_title().split("\n")[0] for axes in above] == ["input", "conv1", "relu1", "maxpool1", "dense1"]
    assert [label.get_text() for label in below[-1].get_yticklabels()] == ["cat", "dog", "owl"]
    assert [bar.get_width() for bar in below[-1].patches] == pytest.approx(passed[-1].delta)


def test_the_maps_of_the_picture_are_those_with_the_largest_sensitivities(figures):
    x = np.arange(2 * 2 * 5.0).reshape(2, 2, 5)
    delta = np.broadcast_to([1.0, -9.0, 0.5, 7.0, 8.0], (2, 2, 5))
    last = Passed("dense1", np.array([1.0, 2.0]), np.array([0.5, -0.5]))
    figure = plots.flow_picture([Passed("input", x, delta), Passed("relu1", x + 1, delta), last], (), "run")
    drawn = np.asarray(figure.axes[1].images[0].get_array())
    assert drawn[:2].tolist() == (x + 1)[:, :, 1].tolist()
    assert drawn[3:5].tolist() == (x + 1)[:, :, 3].tolist()
    assert drawn[6:].tolist() == (x + 1)[:, :, 4].tolist()


def test_what_is_not_finite_is_left_blank(figures, rng):
    x, delta = rng.standard_normal((2, 4, 4, 3))
    x[0, 0], delta[1, 1] = np.inf, np.nan
    last = Passed("dense1", np.array([1.0, -np.inf, 3.0]), np.array([np.nan, np.nan, np.nan]))
    figure = plots.flow_picture([Passed("input", x, delta), last], ("a", "b", "c"), "")
    figure.savefig(os.devnull, format="png")
    assert figure.axes[1].get_xlabel() == "±3"


def test_any_name_of_a_class_can_be_drawn():
    last = Passed("dense1", np.array([1.0, 2.0, 3.0]), np.array([0.5, -0.5, np.nan]))
    classes = ("$x^", "猫\udcff", 99 * "long ")
    assert plots.flow_picture([last], classes, "").startswith(b"\x89PNG")


def test_an_image_is_drawn_as_it_is(rng):
    from matplotlib.image import imread

    image = np.rint(255 * rng.random((3, 4, 3))) / 255
    assert imread(io.BytesIO(plots.as_png(image)))[..., :3] == pytest.approx(image, abs=1e-3)
    grey = imread(io.BytesIO(plots.as_png(image[..., :2])))
    assert grey[..., 0] == pytest.approx(image[..., :2].mean(axis=-1), abs=1 / 255)


@pytest.mark.parametrize("in_shape", [(8, 8, 2), (8, 8, 3), (5,)])
def test_any_number_of_channels_is_drawn(in_shape, rng):
    network = Sequential((Flatten(), Dense(3)))
    params = network.init(jax.random.key(0), in_shape)
    passed, _ = flow(network, SoftmaxCrossEntropy(), params, jnp.asarray(rng.random(in_shape), jnp.float32), 0)
    assert plots.flow_picture(passed, (), "").startswith(b"\x89PNG")
