"""What passes through a network on its way back, measured: of each layer, of each sample, in one pass.

A measurement is a rule of `with_rules` that hands on dx as the layer does, and something else in the place of its
gradients. It works on any network whose samples do not meet; under `jit`, too.
"""

from .noise import NoiseScale, noise_scale
from .passing import each_layer, norms_and_zeros
from .samples import SampleNorms, clipped_gradient, gradient_norms, gradient_variance, sample_gradients

__all__ = [
    "NoiseScale",
    "SampleNorms",
    "clipped_gradient",
    "each_layer",
    "gradient_norms",
    "gradient_variance",
    "noise_scale",
    "norms_and_zeros",
    "sample_gradients",
]
