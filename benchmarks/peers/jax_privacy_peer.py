"""jax_privacy: the clipped gradient, which is all that it has of what is measured here."""

import importlib.metadata

from jax_privacy import clipping

from benchmarks.measure.steps import step_program, step_variant
from benchmarks.speed import lax_nets

VERSIONS = {"jax_privacy": importlib.metadata.version("jax_privacy")}


def clipped(network, limit, params, x, labels):
    """Of the plain network, with the options that are its defaults."""

    def loss(params, x, labels):
        return lax_nets.loss(network, params, x, labels)[0]

    return clipping.clipped_grad(loss, l2_clip_norm=limit, batch_argnums=(1, 2), normalize_by=len(x))(
        params, x, labels
    ), {}


def variants(measure, task, limit):
    """The step with the clipped mean, one program."""
    return [step_variant("jax_privacy", measure, step_program(clipped, None, task, limit), task)]
