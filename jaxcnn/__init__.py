"""Convolutional networks in JAX whose every backward pass is written by hand from the textbook formula.

Operations are functions, `conv2d`; with `conv2d.forward` and `conv2d.backward` the chain can be walked explicitly.
Layer specs are frozen dataclasses, `Conv2d`, combined by `Sequential`. Nothing here changes JAX's configuration.
What a module exports stands in its `__all__`.
"""

from . import geometry, initializers
from .errors import *
from .fit import *
from .inspect.diagnosis import *
from .inspect.summary import *
from .kernels import compiler_options
from .layers.activation import *
from .layers.base import *
from .layers.borders import *
from .layers.branches import *
from .layers.combine_maps import *
from .layers.conv import *
from .layers.conv_transpose import *
from .layers.dense import *
from .layers.dropout import *
from .layers.global_pool import *
from .layers.median_pool import *
from .layers.norm import *
from .layers.pool import *
from .layers.recompute import *
from .layers.reshape import *
from .layers.residual import *
from .layers.rewrite import *
from .layers.rules import *
from .layers.scale import *
from .layers.sequential import *
from .layers.smooth import *
from .layers.sparsity import *
from .layers.statistics import *
from .layers.stochastic_pool import *
from .layers.subsample import *
from .layers.upsample import *
from .losses import *
from .operation import *
from .progress import *
from .recovery import *
from .sgd import *
from .store.spec import *
from .training import *

__version__ = "0.1.0"
