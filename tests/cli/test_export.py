"""`jaxcnn export`: one file that runs where jaxcnn is not."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import run
from written import spoil, write_run

from jaxcnn import (
    ELU,
    GELU,
    LAYERS,
    AvgPool2d,
    BatchNorm,
    CombineMaps,
    Concatenate,
    Conv2d,
    ConvTranspose2d,
    Crop2d,
    Dense,
    Dropout,
    Flatten,
    GELUTanh,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    GroupNorm,
    HardSwish,
    Identity,
    InstanceNorm,
    LayerNorm,
    LeakyReLU,
    MaxPool2d,
    MedianPool2d,
    Pad2d,
    Product,
    Recompute,
    ReLU,
    Residual,
    Scale,
    ScaledTanh,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    StochasticPool2d,
    Subsample2d,
    Sum,
    Tanh,
    Upsample2d,
)
from jaxcnn.saved.stablehlo import stablehlo
from jaxcnn.store.runs import load_run
from jaxcnn.verify.tolerances import relative_error, rounding_terms, tolerance

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

ELSEWHERE = """
import sys
sys.modules.update({"jaxcnn": None, "jaxcnn_onednn": None})
import numpy
images = numpy.load("images.npy")
LINES
numpy.save("logits.npy", numpy.asarray(logits))
"""
GATE = Sequential((Sum((GlobalAvgPool2d(), GlobalMaxPool2d())), Dense(3), SiLU(), Dense(4), Sigmoid()))
EVERY_LAYER = (
    *(Conv2d(4, 3, padding=1), BatchNorm(), LeakyReLU(0.1), GroupNorm(2), GELU(), LayerNorm(), SiLU(), InstanceNorm()),
    *(Softplus(), Scale(), HardSwish(), ELU(), GELUTanh(), Product((Identity(), GATE)), Recompute(Conv2d(4, 1))),
    *(Concatenate((Identity(), Sum((Conv2d(2, 1), Conv2d(2, 3, padding=1))))), Pad2d(((1, 0), (2, 1)))),
    *(Crop2d((1, 0), (1, 2)), Upsample2d(2), Upsample2d(2, "bilinear"), ConvTranspose2d(3, 2), AvgPool2d(4)),
    *(Conv2d(4, 3, padding=1), Tanh(), Conv2d(4, 3, groups=4, padding=1), ReLU(), CombineMaps(4, 3), Sigmoid()),
    *(Residual(Sequential((Conv2d(4, 1), ScaledTanh()))), MaxPool2d(2), AvgPool2d(2, stride=1), Subsample2d(2)),
    *(
        MedianPool2d((3, 1), stride=1),
        ReLU(),
        StochasticPool2d((1, 2), stride=1),
        Flatten(),
        Dropout(0.5),
        Dense(12),
        Softmax(),
    ),
)


def kinds(layer):
    """The classes of the layer and of all in it."""
    return {type(layer)}.union(*map(kinds, layer.children().values()))


def allowed(network, params, images, dtype="float32"):
    """For sums of that length, which XLA and oneDNN order in their own ways."""
    return tolerance(jnp.dtype(dtype), rounding_terms(jax.make_jaxpr(network.apply)(params, images)))


def test_the_lines_that_are_printed_give_the_same_logits_without_jaxcnn(capsys, rng):
    network, params = write_run()
    assert run("export", "r") == 0
    first, second, _, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("wrote r/model.stablehlo: ")
    assert first.endswith(" bytes, for cpu, cuda, tpu")
    assert second == "from images (n, 8, 8, 1), float32 from 0 to 1, to logits (n, 10)"
    assert len(lines) == 3
    images = rng.random((5, 8, 8, 1), np.float32)
    np.save("images.npy", images)
    subprocess.run([sys.executable, "-c", ELSEWHERE.replace("LINES", "\n".join(lines))], check=True)
    normalised = load_run("r").normalization(images)
    error = relative_error(np.load("logits.npy"), network.apply(params, normalised))
    assert error <= allowed(network, params, normalised)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_every_layer_is_exported_for_any_number_of_images(rng, dtype):
    network = Sequential(EVERY_LAYER)
    with jax.enable_x64(dtype == "float64"):
        write_run(network=network, in_shape=(20, 20, 1), dtype=dtype)
    saved = load_run("r")
    exported = jax.export.deserialize(bytearray(stablehlo(saved)))
    assert kinds(network) == {kind for kind in LAYERS.values() if kind.__module__.startswith("jaxcnn.")}
    images = rng.random((3, 18, 18, 1), np.float32)
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), saved.checkpoint.params)
    x = saved.normalization(images)
    limit = allowed(network, params, x, "bfloat16" if dtype == "bfloat16" else "float32")
    for count in (1, 3):
        logits = exported.call(images[:count])
        assert logits.dtype == jnp.float32
        assert relative_error(logits, network.apply(params, x[:count])) <= limit


def test_statistics_stay_float32_beside_parameters_of_bfloat16():
    """A mean of 0.501, which bfloat16 rounds to 0.5: a pixel of 0.5 is 1,000 times 0.001 below it, not at it."""

    def change(state):
        state.params["batchnorm1"]["scale"] = jnp.array([1000.0], jnp.bfloat16)
        state.statistics["batchnorm1"] = {"mean": jnp.array([0.501]), "variance": jnp.array([1.0])}

    network = Sequential((BatchNorm(), GlobalAvgPool2d()))
    normalization = {"mean": 0.25, "std": 0.5, "padding": 0}
    write_run(network=network, in_shape=(2, 2, 1), change=change, dtype="bfloat16", normalization=normalization)
    image = np.full((1, 2, 2, 1), 0.5, np.float32)
    (logits,) = jax.export.deserialize(bytearray(stablehlo(load_run("r")))).call(image)
    assert float(logits[0]) == pytest.approx(-1, rel=2.0**-7)


def test_the_outcome_is_json(capsys):
    write_run(classes=["cat", "dog"])
    assert run("export", "r/model.safetensors", "--out", "net", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == Path("net").stat().st_size
    assert found["file"] == "net"
    assert found["classes"] == ["cat", "dog", *"23456789"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "run is 'nowhere', which holds no model.safetensors"),
        (["r", "--out", "r"], "out is 'r' but must be a file"),
    ],
)
def test_what_cannot_be_used_gets_one_sentence(capsys, arguments, sentence):
    write_run()
    assert run("export", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert sentence in err


def test_of_parameters_that_are_not_finite_it_is_said(capsys):
    write_run(change=spoil)
    assert run("export", "r", "--json") == 0
    out, err = capsys.readouterr()
    assert "jaxcnn: r holds NaN or infinite parameters, in conv1/bias\n" in err
    assert json.loads(out)["file"] == "r/model.stablehlo"


def test_without_flatbuffers_it_is_said_what_to_install(capsys, monkeypatch):
    write_run()
    for name in ("flatbuffers", "jax._src.export.serialization", "jax._src.export.serialization_generated"):
        monkeypatch.setitem(sys.modules, name, None)
    assert run("export", "r") == 2
    assert capsys.readouterr().err == "jaxcnn: exports need flatbuffers: pip install '.[cli]' in a checkout\n"
