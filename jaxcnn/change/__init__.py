"""Known rules for `with_rules`: other ways back, each with its formula and its paper."""

from .feedback import *
from .passing import *
