r"""How exact the gradient is, apart from decisions that flip.

Where two entries of a pooling window, or an input of ReLU and zero, differ by less than the rounding, float32 may
choose otherwise than float64. That is no error of the rule, but it moves the gradient more than all rounding together.
So the decisions of a forward pass in float64 are imposed: on ours by putting them among the residuals that the float32
backward reads; on automatic differentiation by a plain network that takes the decided entries. The truth is automatic
differentiation in float64, which decides for itself: a wrong decision of ours in float64 would show as an error.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.kernels import compiler_options
from jaxcnn.layers.activation import ReLU
from jaxcnn.layers.base import Layer, Residuals
from jaxcnn.layers.pool import MaxPool2d
from jaxcnn.layers.rewrite import relu_after_pool

from . import lax_nets
from .nets import LOSS, Task, find_net, step_in_float64
from .precision import BFLOAT16, FLOAT32
from .timing import Row, distance

BATCH = 128
ALLOWED = {"float32": 2e-6}  # relative in the L2 norm
TIMES_AUTODIFF = 3


def decisions(layer: Layer, residuals: Residuals) -> Any:
    """What ReLU and max pooling decided in a forward pass, a tree by the layers' names; None for other layers."""
    children = layer.children()
    if children:
        return {name: decisions(child, residuals[name]) for name, child in children.items()}
    if isinstance(layer, ReLU):
        return residuals > 0
    return residuals[0] if isinstance(layer, MaxPool2d) else None


def imposed(layer: Layer, residuals: Residuals, decided: Any) -> Residuals:
    """The residuals with other decisions.

    >>> print(imposed(ReLU(), jnp.array([0.0, 2.0, 3.0]), jnp.array([True, False, True])) > 0)
    [ True False  True]
    """
    children = layer.children()
    if children:
        return residuals | {name: imposed(child, residuals[name], decided[name]) for name, child in children.items()}
    if isinstance(layer, ReLU):
        return jnp.where(decided, jnp.maximum(residuals, jnp.finfo(residuals.dtype).tiny), 0)
    return (decided, *residuals[1:]) if isinstance(layer, MaxPool2d) else residuals


def numerics(name: str, report: Callable[[str], None]) -> Iterator[Row]:
    """Rows "numerics": the error of our gradient and of jax.grad's, in float32 and in bfloat16.

    "passed" in float32: ours is at most 2e-6; in both: at most three times jax.grad's.
    """
    network, in_shape = find_net(name)
    network, truth = relu_after_pool(network), step_in_float64(network)

    def forward(params, x):
        return network.forward(params, x, train=True)

    def ours(params, x, labels, decided):
        outputs, residuals = forward(params, x)
        loss_residuals = LOSS.forward(outputs, labels)[1]
        return network.backward(imposed(network, residuals, decided), LOSS.backward(loss_residuals))[1]

    found = {
        "ours": jax.jit(ours, compiler_options=compiler_options()),
        "jax.grad": jax.jit(lambda *args: jax.grad(partial(lax_nets.loss, network), has_aux=True)(*args)[0]),
    }
    for precision in (FLOAT32, BFLOAT16):
        report(f"{name}, {precision.name}: numerics")
        with precision.active():
            task = Task.draw(network, in_shape, BATCH, precision)
            with jax.enable_x64(True):
                wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (task.params, task.x))
                kept = jax.jit(lambda *args: decisions(network, forward(*args)[1]))(*wide)
            true = truth(task)["gradient"]
            errors = {
                variant: distance(task.flat(f(task.params, task.x, task.labels, kept)), true)
                for variant, f in found.items()
            }
        allowed = min(ALLOWED.get(precision.name, np.inf), TIMES_AUTODIFF * errors["jax.grad"])
        for variant, error in errors.items():
            about = {"table": "numerics", "net": name, "precision": precision.name, "batch": BATCH}
            yield {**about, "variant": variant, "error": error} | (
                {"passed": error <= allowed} if variant == "ours" else {}
            )
