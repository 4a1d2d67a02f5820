"""Rules for `with_rules` that are known by a name, other ways back, each with its formula and its paper."""

from .attribution import *
from .feedback import *
from .passing import *
from .relevance import *
from .saliency import *
