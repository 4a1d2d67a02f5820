"""BackPACK: gradients of all samples, the squares of their norms, Kronecker factors of the curvature."""

import importlib.metadata

import torch
from backpack import backpack, extend
from backpack.extensions import KFAC, BatchGrad, BatchL2Grad

from .torch_measures import Measured, norms_of
from .torch_peer import Block

VERSIONS = {"backpack": importlib.metadata.version("backpack-for-pytorch")}


def variants(measure, task, limit):
    """The step by the extension that has the measure; the clipped mean is one of `BatchGrad`'s gradients."""
    net = Measured(task, extend)
    extend(net.loss)
    N = len(task.x)

    def back(extension):
        net.optimizer.zero_grad()
        loss = net.loss(*net.outputs_and_labels())
        with backpack(extension()):
            loss.backward()

    def samples():
        back(BatchGrad)
        return {"samples": [p.grad_batch.mul_(N) for p in net.parameters]}  # theirs are the shares of the mean

    def norms():
        back(BatchL2Grad)
        return {"norms": N * torch.stack([p.batch_l2 for p in net.parameters]).sum(dim=0).sqrt()}

    def clipped():
        back(BatchGrad)
        factors = (limit / (N * norms_of([p.grad_batch for p in net.parameters]))).clamp(max=1)
        for p in net.parameters:
            p.grad = torch.tensordot(factors, p.grad_batch, 1)
        return {}

    def kfac():
        if any(isinstance(part, Block) for part in net.plain.modules()):
            raise NotImplementedError("its extensions of second order do not know a residual block")
        back(KFAC)  # by one draw of the labels
        return {
            "inputs": [p.kfac[1] for p in net.parameters if len(p.kfac) == 2]
        }  # a bias has that of the outputs alone

    part = "clipped" if measure == "clipped" else "gradient"
    ways = {"samples": samples, "norms": norms, "clipped": clipped, "kfac": kfac}
    return [net.variant("BackPACK", ways[measure], part)]
