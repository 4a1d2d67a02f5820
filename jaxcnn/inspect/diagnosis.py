r"""What ails a network that does not learn: saturated sigmoid and tanh units, dead ReLU and hard swish units [T4].

(1)  saturated   f'(u) < 5 % of its largest value: sigmoid 4 y (1 - y) < 0.05, tanh 1 - y^2 < 0.05, scaled tanh
                 1 - (y/A)^2 < 0.05. B1 and B3 multiply by f', so almost no gradient passes.
(2)  dead        y = 0 for every sample of the batch: f' = 1[u > 0] = 0 throughout, the gradient of the unit's weights
                 is exactly zero, and no update changes them. Hard swish: u <= -3 for every sample.

In (1) a unit is an entry of one sample's output. In (2) it is what has weights of its own: an entry of a dense layer's
output, a whole map of a convolution. The other units have neither: f' falls on one side alone, and reaches 0 nowhere.
Tests: tests/inspect/test_diagnosis.py.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax

from ..layers.activation import AMPLITUDE, HardSwish, ReLU, ScaledTanh, Sigmoid, Tanh
from ..layers.base import Layer, Params, walk
from ..layers.recompute import recomputed
from ..layers.sequential import as_chain
from ..operation import Static
from ..training import cast

__all__ = ["Diagnosis", "diagnose"]

SATURATED = 0.05  # of the largest f'
SEVERE = {"saturated": 0.5, "dead": 0.25}  # the share from which it is worth a sentence in the training log


@dataclass(frozen=True)
class Diagnosis:
    """One activation layer on one batch; `str` of it is a sentence.

    Attributes:
        name: the layer's name; "sequential1/relu1" inside a layer.
        symptom: "saturated" for sigmoid and tanh (1), "dead" for ReLU and hard swish (2).
        units: how many there are.
        share: of the units that show the symptom, from 0 to 1.
    """

    name: str
    symptom: str
    units: int
    share: float = 0.0

    @property
    def severe(self) -> bool:
        """Whether half of the units or more are saturated, or a quarter or more dead."""
        return self.share >= SEVERE[self.symptom]

    def __str__(self):
        if self.symptom == "dead":
            said = f"{round(self.share * self.units)} of {self.units} units are dead"
            why = "zero for every sample, so their weights get no gradient"
        else:
            said = f"{self.share:.0%} of {self.units} units are saturated"
            why = "f' is near zero and little gradient passes"
        return f"{self.name}: {said}" + (f": {why}" if self.share else "")


def diagnose(network: Layer, params: Params, x) -> tuple[Diagnosis, ...]:
    """The share of saturated or dead units of every sigmoid, tanh, ReLU and hard swish layer on a batch [T4].

    Args:
        network: the layers.
        params: their parameters.
        x: (N, ...), a batch; it is cast to the parameters' dtype. The more samples, the surer is "dead".

    Returns:
        One `Diagnosis` for each such layer, in the order of the network, without dropout.

    Raises:
        InputError: x does not fit the network.

    >>> from jaxcnn import ReLU, Sequential, Sigmoid
    >>> network = Sequential((ReLU(), Sigmoid()))
    >>> for found in diagnose(network, {}, jnp.array([[-1.0, -2.0, 9.0], [-3.0, 0.5, 8.0]])):
    ...     print(found)
    relu1: 1 of 3 units are dead: zero for every sample, so their weights get no gradient
    sigmoid1: 33% of 3 units are saturated: f' is near zero and little gradient passes
    """
    measured = _measured(network, params, cast(params, x))
    return tuple(replace(facts.value, share=float(share)) for facts, share in measured)


@partial(jax.jit, static_argnums=0)
def _measured(network, params, x):
    network, params = as_chain(network, params)
    _, residuals = network.forward(params, x)
    measured = []
    for name, layer, y in walk(network, recomputed(network, residuals)):
        if isinstance(layer, ReLU | HardSwish):  # what an activation keeps is its output, but hard swish u
            dead = ((y == 0) if isinstance(layer, ReLU) else (y <= -3)).all(axis=range(y.ndim - 1))  # (2)
            measured.append((Static(Diagnosis(name, "dead", dead.size)), dead.mean()))
        elif isinstance(layer, Sigmoid | Tanh | ScaledTanh):
            height = AMPLITUDE if isinstance(layer, ScaledTanh) else 1.0
            slope = 4 * y * (1 - y) if isinstance(layer, Sigmoid) else 1 - (y / height) ** 2
            measured.append((Static(Diagnosis(name, "saturated", y.size // len(y))), (slope < SATURATED).mean()))  # (1)
    return measured
