"""Other ways back that are known by a name: attributions of an image, each with its formula and its paper."""

from .attribution import *
from .relevance import *
from .saliency import *
