"""Layer specs as JSON, and back."""

import json

import pytest

from jaxcnn import (
    AvgPool2d,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    InputError,
    MaxPool2d,
    Sequential,
    Softmax,
    spec_from_json,
    spec_to_json,
)


def test_specs_of_every_kind_survive_json():
    inner = Sequential((MaxPool2d(2), Conv2d(4, 2, stride=(1, 2), padding="SAME"), Dropout(0.3), Dense(5, bias=False)))
    network = Sequential(
        [inner, Conv2d(2, (3, 2), padding=((1, 0), (0, 2))), AvgPool2d((2, 1), padding=1), Flatten(), Softmax()]
    )
    assert spec_from_json(json.loads(json.dumps(spec_to_json(network)))) == network


def test_bad_specs_are_refused():
    with pytest.raises(InputError, match="layer is 'Conv9d' but must be one of AvgPool2d, "):
        spec_from_json({"layer": "Conv9d"})
    with pytest.raises(InputError, match="but must be of window_size, stride, padding"):
        spec_from_json({"layer": "MaxPool2d", "size": 3})


@pytest.mark.parametrize("spec", [[], 5, "Dense", None, [{"layer": "ReLU"}]])
def test_a_spec_that_is_no_object_is_refused(spec):
    with pytest.raises(InputError) as error:
        spec_from_json(spec)
    assert str(error.value) == f'a spec is {spec!r} but must be an object with the class of a layer under "layer"'


@pytest.mark.parametrize("name", [[], {}, None])
def test_a_class_that_is_no_name_is_refused(name):
    with pytest.raises(InputError, match="layer is .* but must be one of AvgPool2d, "):
        spec_from_json({"layer": name})
