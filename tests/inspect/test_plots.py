"""The pictures of a run."""

import os

import numpy as np
import pytest

from jaxcnn.inspect import plots

METRICS = {"loss": 1.0, "accuracy": 0.5, "test_loss": 2.0, "test_accuracy": 0.25}


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


def test_kernels_have_the_runs_name_and_survive_nan(figures):
    weight = np.ones((3, 3, 1, 4))
    weight[0, 0, 0, 0] = np.nan
    figure = plots.kernels({"conv1": {"weight": weight}}, "digits-0001")
    assert figure.get_suptitle() == "digits-0001"
    figure.savefig(os.devnull, format="png")


def test_any_name_of_a_folder_can_be_a_title():
    for name in ("运行", "$x^", "\udcff"):
        assert plots.curves([METRICS | {"epoch": 1}], name).startswith(b"\x89PNG")
