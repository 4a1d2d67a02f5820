"""What passes through a network on its way back, measured: of each layer, of each sample, in one pass.

A measurement is a rule of `with_rules` that hands on dx as the layer does, and something else in the place of its
gradients. It works on any network whose samples do not meet; under `jit`, too.
"""

from .curvature import *
from .noise import *
from .passing import *
from .products import *
from .samples import *
