"""`jaxcnn list`: what can be named."""

import json
import re

from command import run

from jaxcnn.recipe import DTYPES, LOSSES, OPTIMIZERS, SCHEDULES
from jaxcnn.zoo.models import MODELS
from jaxcnn.zoo.presets import PRESETS


def test_it_has_every_name_in_80_columns(capsys):
    assert run("list") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*MODELS, *PRESETS, *OPTIMIZERS, *LOSSES, *SCHEDULES, *DTYPES))
    assert re.search(r"^lenet5 +32x32x1 +60,850$", out, re.M)
    assert " ".join(PRESETS["modern"].published.split()) in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80


def test_json_has_the_same(capsys):
    assert run("list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in found["models"]] == list(MODELS)
    assert found["models"][0] == {"name": "digits", "in_shape": [8, 8, 1], "classes": 10, "parameters": 53_002}
    assert [preset["name"] for preset in found["presets"]] == list(PRESETS)
    assert found["recipe"]["optimizer"] == list(OPTIMIZERS)
    assert "Conv2d" in found["recipe"]["layer"]
