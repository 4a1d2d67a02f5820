"""An experiment as data: what is trained, on what, and how; read from TOML and written to it."""

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import files
from .data import Augmentation
from .errors import InputError, is_number, reason
from .layers.base import Layer
from .plan import PRECISIONS
from .store.spec import spec_from_json, spec_to_json

__all__ = ["Recipe"]

LOSSES = ("cross-entropy", "squared-error")
OPTIMIZERS = ("sgd", "nesterov", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "step")
DTYPES = ("float32", "bfloat16", "float64")
RATES = ("learning_rate", "momentum", "weight_decay")


@dataclass(frozen=True)
class Recipe:
    """An experiment; `experiment.run` does it.

    Attributes:
        name: of a published recipe, "" for others.
        published: what was reached with it, and on which data; "" where nothing was published.
        data: "digits", or a folder or file that `data.load_dataset` reads.
        resize: None, or the height and width to which every image is brought.
        validation: the share of the training images held out, drawn by the seed: the epoch that classifies them best
            is kept, and early stopping looks at them. 0: none, the last epoch counts.
        augment: what is done to each batch at random, such as ("crop:4", "flip"), see `data.Augmentation`.
        model: a name in `zoo.models.MODELS`, a layer spec, or None: the model made for the images' size.
        epochs: the largest number of them; the schedule stretches over them.
        batch_size: samples per update.
        optimizer, loss, schedule, dtype: among `OPTIMIZERS`, `LOSSES`, `SCHEDULES` and `DTYPES`.
        learning_rate, momentum, weight_decay: None: the default of the optimizer, see `rates`.
        warmup: epochs over which the learning rate rises to its first value, see `WarmUp`.
        clip: the largest norm of a gradient, see `Clipped`; None: any.
        average: the decay of a moving average of the weights, see `Averaged`; None: the weights themselves are used.
        smoothing: of the labels of cross-entropy, see `SoftmaxCrossEntropy`.
        target_error: stop after an epoch whose mean training loss is at or below it; None: never.
        patience: stop after so many epochs that classified the validation images no better; None: never.
        seed: of the initial weights, the shuffling, dropout, the validation images and what `augment` does.
        normalize: images of zero mean and unit variance [I3]; otherwise pixels from 0 to 1.
        devices: over which each batch is spread; None: one, or all of them where several processes train together.
        sharded: each device keeps a part of the parameters and of the optimizer's state.
        accumulate: the number of parts in which a batch is computed one after another, in less memory.
        precision: among `PRECISIONS`: "mixed" computes in bfloat16 what is learned in float32.
        padding: rows and columns of background around each image.
        mirror: train on every image and its mirror image, left and right exchanged.

    Raises:
        InputError: a value is out of range.

    >>> Recipe(optimizer="adam").rates
    {'learning_rate': 0.001}
    >>> Recipe(epochs=0)
    Traceback (most recent call last):
    jaxcnn.errors.InputError: epochs is 0 but must be at least 1
    """

    name: str = ""
    published: str = ""
    data: str = "digits"
    resize: tuple[int, int] | None = None
    validation: float = 0.0
    augment: tuple[str, ...] = ()
    model: str | Layer | None = None
    epochs: int = 60
    batch_size: int = 32
    optimizer: str = "sgd"
    learning_rate: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: str = "cosine"
    warmup: int = 0
    clip: float | None = None
    average: float | None = None
    loss: str = "cross-entropy"
    smoothing: float = 0.0
    target_error: float | None = None
    patience: int | None = None
    dtype: str = "float32"
    devices: int | None = None
    sharded: bool = False
    accumulate: int = 1
    precision: str = "full"
    seed: int = 0
    normalize: bool = True
    padding: int = 0
    mirror: bool = False

    def __post_init__(self):
        for field, value in list(vars(self).items()):
            if isinstance(value, np.generic):  # a file takes Python's own numbers alone
                object.__setattr__(self, field, value.item())
        for field in ("resize", "augment"):
            if isinstance(getattr(self, field), list):  # of a file
                object.__setattr__(self, field, tuple(getattr(self, field)))
        counts = {"epochs": 1, "batch_size": 1, "seed": 0, "padding": 0, "warmup": 0, "accumulate": 1}
        counts |= {field: 1 for field in ("patience", "devices") if getattr(self, field) is not None}
        for field, least in counts.items():
            value = getattr(self, field)
            _check(_is_number(value, int), field, repr(value), "a whole number")
            _check(value >= least, field, value, f"at least {least}")
        _check(
            self.padding < 2**14, "padding", self.padding, "at least 0 and below 2**14: a map has at most 2**31 entries"
        )
        _check(self.seed < 2**32, "seed", self.seed, "at least 0 and below 2**32")
        for field in (*RATES, "target_error", "clip"):
            value = getattr(self, field)
            fits = value is None or (_is_number(value, int | float) and 0 <= value < math.inf)
            _check(fits, field, repr(value), "finite, at least 0")
        for field in ("momentum", "average", "validation", "smoothing"):
            value = getattr(self, field)
            fits = (is_number(value) and 0 <= value < 1) or (value is None and field in ("momentum", "average"))
            _check(fits, field, repr(value), "at least 0 and below 1")
        _check(self.clip != 0, "clip", self.clip, "above 0")
        self._check_together()
        for field, names in (
            ("optimizer", OPTIMIZERS), ("loss", LOSSES), ("schedule", SCHEDULES), ("dtype", DTYPES),
            ("precision", PRECISIONS),
        ):  # fmt: skip
            value = getattr(self, field)
            _check(value in names, field, repr(value), f"one of {', '.join(names)}")
        for field in ("name", "published", "data"):
            _check(isinstance(getattr(self, field), str), field, repr(getattr(self, field)), "a string")
        readable = self.data.encode(errors="replace").decode() == self.data  # TOML is UTF-8, a folder's name any bytes
        _check(readable, "data", repr(self.data), "a name in UTF-8")
        for field in ("normalize", "mirror", "sharded"):
            _check(isinstance(getattr(self, field), bool), field, repr(getattr(self, field)), "true or false")
        known = self.model is None or isinstance(self.model, str | Layer)
        _check(known, "model", repr(self.model), "the name of a model or a layer")
        fits = isinstance(self.augment, tuple) and all(isinstance(step, str) for step in self.augment)
        _check(fits, "augment", repr(self.augment), "names such as crop:4 and flip")
        _ = self.rates, Augmentation(self.augment)

    def _check_together(self):
        sides = self.resize
        fits = isinstance(sides, tuple) and len(sides) == 2 and all(_is_number(n, int) and 0 < n < 2**14 for n in sides)
        _check(sides is None or fits, "resize", repr(sides), "a height and a width from 1 to 16383")
        if self.patience is not None and not self.validation:
            raise InputError(
                f"patience is {self.patience} but validation is 0; it must be above 0: without images held out nothing "
                "says when to stop"
            )
        if self.smoothing and self.loss != "cross-entropy":
            raise InputError(f"smoothing is {self.smoothing} but {self.loss} has none; it must be left out")
        if self.precision == "mixed" and self.dtype != "float32":
            raise InputError(f"precision is 'mixed' but dtype is {self.dtype!r}; it must be 'float32', to learn in")
        if self.warmup and self.warmup >= self.epochs:
            raise InputError(f"warmup is {self.warmup} but must be below epochs, {self.epochs}")

    @property
    def rates(self) -> dict[str, float]:
        """The optimizer's numbers: those given, else its defaults, chosen on a validation split of the digits.

        Raises:
            InputError: a number is given that the optimizer has not.
        """
        by_hand = self.optimizer in ("sgd", "nesterov")
        if not by_hand and self.momentum is not None:
            raise InputError(f"momentum is {self.momentum} but {self.optimizer} has none; it must be left out")
        if self.optimizer == "adam" and self.weight_decay is not None:
            raise InputError(
                f"weight_decay is {self.weight_decay} but adam has none; it must be left out, or use adamw"
            )
        defaults = {"learning_rate": 1e-3}
        if by_hand:
            eta = 0.002 if self.loss == "squared-error" else 0.02
            defaults = {"learning_rate": eta, "momentum": 0.9, "weight_decay": 5e-4}
        elif self.optimizer == "adamw":
            defaults["weight_decay"] = 1e-4
        return {
            name: default if getattr(self, name) is None else getattr(self, name) for name, default in defaults.items()
        }

    def changed(self, **values) -> "Recipe":
        """The recipe with other values. With another loss or optimizer its rates do not fit: they become defaults.

        Raises:
            InputError: a name or a value is unknown.

        >>> Recipe(learning_rate=0.5, epochs=3).changed(optimizer="adam").rates
        {'learning_rate': 0.001}
        """
        kept = all(values.get(name, getattr(self, name)) == getattr(self, name) for name in ("loss", "optimizer"))
        fields = vars(self) | ({} if kept else dict.fromkeys(RATES)) | values
        return Recipe.from_dict(fields)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """The recipe of these values by name; a model may be a dict, as `spec_to_json` writes it.

        Raises:
            InputError: a name or a value is unknown.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise InputError(f"a recipe has {name!r} but must have values among {', '.join(known)}")
        model = values.get("model")
        return cls(**{**values, "model": spec_from_json(model) if isinstance(model, dict) else model})

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, without None and an empty name."""
        model = self.model
        values = vars(self) | {"model": _without_none(spec_to_json(model)) if isinstance(model, Layer) else model}
        empty = {name for name in ("name", "published", "augment") if not values[name]}
        return {name: value for name, value in values.items() if value is not None and name not in empty}

    @classmethod
    def read(cls, path: files.AnyPath) -> "Recipe":
        """The recipe in a TOML file.

        Raises:
            InputError: the file cannot be read or is no recipe.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); it must be a TOML file") from None
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits or 1,000 brackets, too
            raise InputError(f"{path}: is no TOML ({reason(error)})") from None
        try:
            return cls.from_dict(values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def write(self, path: files.AnyPath, head: str = "") -> None:
        """Write the recipe as TOML, with the comment `head` before it; `read` gives it back.

        Raises:
            InputError: tomli-w is not installed.
            OSError: the file cannot be written.
        """
        try:
            import tomli_w
        except ImportError:
            raise InputError("recipes in files need tomli-w: pip install '.[cli]' in a checkout") from None
        comment = "".join(f"# {line}\n" for line in head.splitlines())
        files.write(path, (comment + tomli_w.dumps(self.to_dict())).encode())


def _is_number(value, kinds) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _check(holds, name, value, must):
    if not holds:
        raise InputError(f"{name} is {value} but must be {must}")


def _without_none(value):
    if isinstance(value, dict):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, tuple) else value
