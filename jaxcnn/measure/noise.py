r"""The noise scale of a gradient: how large a batch is worth its cost.

|g_n|^2 of each sample of a batch of N, m their mean, g = 1/N sum_n g_n. Of the gradient G over all data and the
covariance S of the samples' gradients these are unbiased estimates (McCandlish et al. 2018, *An Empirical Model of
Large-Batch Training*, appendix A.1):

(1)  tr S  ~  N (m - |g|^2) / (N - 1)
(2)  |G|^2 ~  (N |g|^2 - m) / (N - 1)
(3)  noise scale  =  tr S / |G|^2,   each averaged over steps before it is divided: the ratio of one batch is biased

A batch much smaller than (3) gives a gradient that is mostly noise; a much larger one is mostly wasted.
Tests: tests/measure/test_noise.py.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ..errors import InputError
from .samples import SampleNorms

__all__ = ["NoiseScale", "noise_scale"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NoiseScale:
    """Sums of (1) and (2) over steps: a pytree, so that a scan can carry it; two are added by `+`.

    Attributes:
        trace: the sum of the estimates (1).
        square: the sum of the estimates (2).
        steps: how many.
    """

    trace: jax.Array
    square: jax.Array
    steps: jax.Array

    def __add__(self, other: "NoiseScale") -> "NoiseScale":
        return jax.tree.map(jnp.add, self, other)

    @property
    def scale(self) -> jax.Array:
        """(3), in samples; NaN where the estimate (2) is not above 0: then more steps must be averaged."""
        return jnp.where(self.square > 0, self.trace / jnp.where(self.square > 0, self.square, 1), jnp.nan)

    def __str__(self):
        of = f"{int(self.steps)} step{'' if self.steps == 1 else 's'}"
        if not self.square > 0:
            return f"no noise scale: over {of} the estimate of |G|^2 is not above 0; average more"
        return f"noise scale {float(self.scale):.4g} samples over {of}"


def noise_scale(found: SampleNorms) -> NoiseScale:
    """(1) and (2) of one batch, from `gradient_norms`.

    Raises:
        InputError: the batch has one sample alone.

    >>> from jaxcnn import Dense, SquaredError
    >>> from jaxcnn.measure import gradient_norms
    >>> params = {"weight": jnp.array([[1.0]]), "bias": jnp.array([0.0])}
    >>> x, labels = jnp.array([[2.0], [3.0]]), jnp.array([0, 0])
    >>> print(noise_scale(gradient_norms(Dense(1), SquaredError(), params, x, labels)))
    noise scale 0.6071 samples over 1 step
    """
    N = len(found.norms)
    if N < 2:
        raise InputError(f"noise_scale: the batch has {N} sample but must have at least 2")
    m = (found.norms**2).mean()
    mean = jax.tree.map(lambda g: g / N if found.reduction == "sum" else g, found.grads)
    square = sum(jnp.vdot(g, g) for g in jax.tree.leaves(mean))
    return NoiseScale(N * (m - square) / (N - 1), (N * square - m) / (N - 1), jnp.ones((), jnp.int32))  # (1), (2)
