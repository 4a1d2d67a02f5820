"""Opacus: gradients of all samples by hooks, and its fast clipping, which keeps norms alone and goes back twice.

That has formulas of its own for dense layers, there called ghost clipping; of a convolution it computes the samples'
gradients and drops them.
"""

import opacus
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

from .torch_measures import Measured, norms_of

VERSIONS = {"opacus": opacus.__version__}
GHOST = "Opacus, ghost"


def variants(measure, task, limit):
    """By each of its ways that has the measure."""
    return {"samples": _samples, "norms": _norms, "clipped": _clipped}[measure](task, limit)


def _samples(task, limit):
    net = Measured(task, GradSampleModule)

    def run():
        _back(net)
        return {"samples": [p.grad_sample for p in net.parameters]}

    return [net.variant("Opacus", run)]


def _norms(task, limit):
    net = Measured(task, GradSampleModule)
    ghost = Measured(task, GradSampleModuleFastGradientClipping)

    def run():
        _back(net)
        return {"norms": norms_of([p.grad_sample for p in net.parameters])}

    def run_ghost():
        _back(ghost)
        return {"norms": ghost.model.get_norm_sample()}

    return [net.variant("Opacus", run), ghost.variant(GHOST, run_ghost)]


def _clipped(task, limit):
    """By its optimizers without noise."""
    how = {"noise_multiplier": 0.0, "max_grad_norm": limit, "expected_batch_size": len(task.x)}
    net = Measured(task, GradSampleModule)
    ghost = Measured(task, lambda model: GradSampleModuleFastGradientClipping(model, max_grad_norm=limit))
    private, private_ghost = DPOptimizer(net.optimizer, **how), DPOptimizerFastGradientClipping(ghost.optimizer, **how)
    ghost_loss = DPLossFastGradientClipping(ghost.model, private_ghost, ghost.loss)

    def run():
        private.zero_grad()
        net.loss(*net.outputs_and_labels()).backward()
        private.pre_step()
        return {}

    def run_ghost():
        private_ghost.zero_grad()
        ghost_loss(*ghost.outputs_and_labels()).backward()
        private_ghost.pre_step()
        return {}

    return [net.variant("Opacus", run, "clipped"), ghost.variant(GHOST, run_ghost, "clipped")]


def _back(net):
    net.model.zero_grad(set_to_none=True)  # else those of this batch are put behind the last one's
    net.loss(*net.outputs_and_labels()).backward()
