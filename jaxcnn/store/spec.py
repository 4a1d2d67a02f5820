"""Layer specs as JSON values, and back."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from ..errors import InputError, shown
from ..layers.base import LAYERS, Layer

__all__ = ["spec_from_json", "spec_to_json"]


class UnknownLayer(InputError):
    """A spec names a class of layers that is not defined in this process."""


def spec_to_json(layer: Layer) -> dict[str, Any]:
    """The spec as a dict of JSON values: the class's name under "layer", then its fields, layers inside likewise.

    Raises:
        InputError: a field holds what JSON cannot.

    >>> from jaxcnn import MaxPool2d
    >>> spec_to_json(MaxPool2d((2, 1)))
    {'layer': 'MaxPool2d', 'window_size': (2, 1), 'stride': None, 'padding': 0}
    """

    def to_json(value):
        if isinstance(value, Layer):
            return spec_to_json(value)
        if isinstance(value, tuple):
            return tuple(map(to_json, value))
        if isinstance(value, np.integer | np.floating):
            return value.item()
        if value is not None and not isinstance(value, str | int | float):
            raise InputError(
                f"{type(layer).__name__}: has {value!r} among its fields but they must be numbers, strings, layers, "
                "None or tuples of them to be written"
            )
        return value

    fields = {field.name: to_json(getattr(layer, field.name)) for field in dataclasses.fields(cast(Any, layer))}
    return {"layer": type(layer).__name__, **fields}


def spec_from_json(spec: Any, layers: Mapping[str, type] | None = None) -> Layer:
    """The spec that `spec_to_json` wrote.

    Args:
        spec: as `spec_to_json` returns it, or read back from JSON.
        layers: more classes by name, beside every class of layers that is defined.

    Raises:
        InputError: the spec names an unknown class or has fields that the class has not.

    >>> spec_from_json({"layer": "MaxPool2d", "window_size": [2, 1]})
    MaxPool2d(window_size=(2, 1), stride=None, padding=0)
    """

    known = {**LAYERS, **(layers or {})}

    def from_json(value):
        if isinstance(value, dict):
            return spec_from_json(value, layers)
        return tuple(map(from_json, value)) if isinstance(value, list | tuple) else value

    if not isinstance(spec, dict):
        raise InputError(f'a spec is {shown(spec)} but must be an object with the class of a layer under "layer"')
    name = spec.get("layer")
    if not isinstance(name, str) or name not in known:
        raise UnknownLayer(
            f"layer is {name!r} but must be one of {', '.join(sorted(known))}; one of your own must be defined before"
        )
    fields = {field: from_json(value) for field, value in spec.items() if field != "layer"}
    try:
        return known[name](**fields)
    except TypeError as error:
        known_fields = ", ".join(inspect.signature(known[name]).parameters)
        raise InputError(f"layer {name}: its fields are {list(fields)} but must be of {known_fields}") from error
