"""The named networks have the published sizes, run, and survive JSON."""

import json

import jax
import pytest

from jaxcnn import (
    SoftmaxCrossEntropy,
    spec_from_json,
    spec_to_json,
    summary,
)
from jaxcnn.verify import check_network
from jaxcnn.zoo.models import MODELS, find_model


@pytest.mark.parametrize("name", MODELS)
def test_models_run_and_specs_survive_json(name):
    model = find_model(name)
    network = model.build(7)
    places = model.in_shape[:2] if name == "unet" else ()
    assert network.output_shape(model.in_shape) == (*places, 7)
    again = spec_from_json(json.loads(json.dumps(spec_to_json(network))))
    assert again == network
    assert hash(again) == hash(network)


def test_the_parameters_of_lenet28_are_those_of_the_textbook():
    table = summary(find_model("lenet28").build(10), (28, 28, 1))
    assert [row.parameters for row in table.rows if row.parameters] == [156, 2416, 48120, 10164, 850]
    assert table.total.multiply_adds == 117_600 + 240_000 + 48_000 + 10_080 + 840


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
    found = find_model(model)
    counted = summary(found.build(10), found.in_shape)
    assert {row.name: row.parameters for row in counted.rows if row.parameters} == parameters
    assert counted.total.output_shape == (10,)


def test_the_totals_are_those_of_the_papers():
    def total(model, classes=10):
        return summary(find_model(model).build(classes), find_model(model).in_shape).total.parameters

    assert total("deeplearntoolbox") == 3898
    assert total("modern") == 84_986 < 100_000
    assert total("lenet5") - 850 == 60_000  # without the dense output that stands for the RBF one
    assert total("resnet18", 1000) == 11_689_512
    assert total("vgg11_bn", 1000) == 132_868_840
    shortcuts = 2 * (16 * 32 + 32 * 64) // 2 + 2 * (32 + 64)  # what option B has and He's option A has not
    assert total("resnet20") - shortcuts == 269_722
    assert total("unet", 2) == 117_378


@pytest.mark.parametrize("name", ["resnet20", "resnet9", "mobilenet32", "unet"])
def test_the_gradient_of_networks_with_batch_norm_is_that_of_autodiff(name, rng):
    """In float64, of a small batch: the explicit chain of all their layers with the statistics of the batch."""
    model = find_model(name)
    network = model.build(5)
    x = rng.standard_normal((3, 16, 16, 3))
    labels = rng.integers(0, 5, (3, *network.output_shape((16, 16, 3))[:-1]))
    params = network.init(jax.random.key(0), (16, 16, 3))
    assert check_network(network, SoftmaxCrossEntropy(), params, x, labels, jax.random.key(1)) < 1e-9
