"""A network in PyTorch that a library measures at each step; for the code of those libraries."""

import warnings

import numpy as np
import torch

from benchmarks.measure.steps import FIRST_AND_LAST, in_any_order
from benchmarks.speed.nets import RATE
from benchmarks.speed.peers import brought_back, weights_of
from benchmarks.speed.timing import Variant, in_turn

from .torch_peer import Net, wait

# the batch needs no gradient, and BackPACK has none of a residual block's own, which has no parameters itself
for sentence in ("Full backward hook is firing", "Extension saving to"):
    warnings.filterwarnings("ignore", sentence, UserWarning)


class Measured(Net):
    """The task's network and batch in float32, `wrap`ped by the library."""

    def __init__(self, task, wrap):
        weights = weights_of(task.network, task.in_shape, task.params, channels_first=True)
        x, labels = np.asarray(task.x, np.float32), np.asarray(task.labels)
        kind = torch.float32, torch.contiguous_format
        super().__init__(task.network, weights, [], x, labels, RATE, *kind, wrap)
        # of one channel the strides read as channels last too, convolutions hand these on, and Opacus' unfold is wrong
        self.images = self.images.clone(memory_format=torch.contiguous_format)
        self.task = task

    def outputs_and_labels(self):
        """The arguments of a loss."""
        return self.model(self.images), self.labels

    def variant(self, name, run, part="gradient"):
        """A step by `run()`, which leaves the gradient of the update in the parameters.

        It gives what it measures: "norms" (N,), "samples", the gradients (N, ...), "inputs", the factors (D, D) of all
        layers.
        """

        def step():
            found = run()
            self.optimizer.step()
            return found

        def answer():
            found = run()
            parts = {part: self._brought([p.grad for p in self.parameters])}
            if "samples" in found:
                each = [self._brought([g[i] for g in found["samples"]]) for i in FIRST_AND_LAST]
                parts["samples"] = [array for one in each for array in one]
            if "norms" in found:
                parts["norms"] = [found["norms"].detach().numpy().copy()]
            if "inputs" in found:
                parts["inputs"] = in_any_order([factor.numpy() for factor in found["inputs"]])
            return parts

        return Variant(name, in_turn(step, wait), answer)

    def _brought(self, gradients):
        """As arrays in our order and layout."""
        flat = iter(g.detach().numpy().astype(np.float64) for g in gradients)  # a copy: the next step writes into g
        groups = [tuple(next(flat) for _ in range(count)) for count in self.groups]
        return brought_back(self.task.network, self.task.in_shape, self.task.params, groups)


def norms_of(each):
    """(N,) of gradients (N, ...)."""
    return torch.stack([g.flatten(1).norm(dim=1) for g in each]).norm(dim=0)
