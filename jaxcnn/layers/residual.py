r"""A body with a way around it (He et al. 2016, *Deep Residual Learning for Image Recognition*).

(1)  y           = body(x) + shortcut(x)
(2)  dx          = (dbody/dx)^T dy + (dshortcut/dx)^T dy      the sensitivity goes both ways, and is added at the end

Without a shortcut layer the way around is x itself. It is a sum of two branches: its code is
`Branches` in jaxcnn/layers/branches.py. Tests: tests/layers/test_residual.py.
"""

from dataclasses import dataclass

from ..errors import InputError, shown
from .base import Layer
from .branches import Branches, Identity, add

__all__ = ["Residual"]


@dataclass(frozen=True)
class Residual(Branches):
    """Spec of a residual block: `body(x) + shortcut(x)`, or `body(x) + x`; the body is a layer, mostly a `Sequential`.

    Parameters are a dict with "body" and "shortcut", without those that have none.

    >>> from jaxcnn import Conv2d, ReLU, Sequential
    >>> body = Sequential((Conv2d(8, 3, stride=2, padding=1), ReLU(), Conv2d(8, 3, padding=1)))
    >>> Residual(body, Conv2d(8, 1, stride=2)).output_shape((32, 32, 4))
    (16, 16, 8)
    """

    body: Layer
    shortcut: Layer | None = None
    join = add

    def __post_init__(self):
        for name, layer in (("body", self.body), ("shortcut", self.shortcut)):
            if not isinstance(layer, Layer) and not (name == "shortcut" and layer is None):
                raise InputError(f"Residual: {name} is {shown(layer)} but must be a layer")

    def branches(self):
        return {"body": self.body, "shortcut": Identity() if self.shortcut is None else self.shortcut}
