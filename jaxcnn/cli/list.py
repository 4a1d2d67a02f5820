"""`jaxcnn list`."""

import textwrap

from ..inspect.summary import summary
from ..layers.base import LAYERS
from ..recipe import DTYPES, LOSSES, OPTIMIZERS, SCHEDULES
from ..tables import aligned
from ..zoo.models import MODELS
from ..zoo.presets import PRESETS
from .show import JsonOption, to_json

CHOICES = {"optimizer": OPTIMIZERS, "loss": LOSSES, "schedule": SCHEDULES, "dtype": DTYPES}  # values of a recipe


def list_command(as_json: JsonOption = False):
    """List what can be named: models, published recipes, and the values of a recipe.

    Examples:

    * jaxcnn list

    * jaxcnn list --json
    """
    models = [
        {"name": name, "in_shape": model.in_shape, "classes": 10,
         "parameters": summary(model.build(10), model.in_shape).total.parameters}
        for name, model in MODELS.items()
    ]  # fmt: skip
    presets = [
        {"name": name, "model": recipe.model, "epochs": recipe.epochs, "published": recipe.published}
        for name, recipe in PRESETS.items()
    ]
    names = {name: list(values) for name, values in CHOICES.items()} | {"layer": sorted(LAYERS)}
    if as_json:
        print(to_json({"models": models, "presets": presets, "recipe": names}))
        return
    rows = [(m["name"], "x".join(map(str, m["in_shape"])), f"{m['parameters']:,}") for m in models]
    print("\n".join(aligned([("model", "images", "parameters"), *rows], left={0, 1})))
    print("\npreset")
    width = max(map(len, PRESETS))
    for preset in presets:
        print(_wrapped(preset["name"], width, preset["published"]))
    print("\nin a recipe")
    for name, values in names.items():
        print(_wrapped(name, width, ", ".join(values)))


def _wrapped(name, width, text):
    """A line of 80 columns at most, or several, with the name before it."""
    head = f"{name:{width}}  "
    return textwrap.fill(text, 80, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False)
