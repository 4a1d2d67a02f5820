"""In which numbers is computed, and how far from float64 a gradient may lie before it counts as wrong."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Precision:
    """A dtype and, for float32, whether a GPU may round products to TF32.

    Attributes:
        name: as the tables show it.
        dtype: of parameters and images.
        tf32: products of float32 may be rounded to TF32.
        allowed: largest error of a whole network's gradient, relative in the L2 norm. Decisions of ReLU and max
            pooling that lie closer than the rounding flip, a share of about eps of them, each wholly wrong: that
            moves the gradient by about sqrt(eps), 3.5e-4 in float32; three times that is allowed. A wrong rule is
            off by 1e-1 and more, or by all of a small part.
    """

    name: str
    dtype: str
    tf32: bool
    allowed: float

    def active(self) -> AbstractContextManager:
        """The setting of JAX for its products."""
        return jax.default_matmul_precision("default" if self.tf32 else "highest")

    def cast(self, tree):
        """The arrays of the tree in this dtype."""
        return jax.tree.map(lambda a: jnp.asarray(a, self.dtype), tree)


FLOAT32 = Precision("float32", "float32", False, 1e-3)
TF32 = Precision("float32 (TF32)", "float32", True, 3e-2)
BFLOAT16 = Precision("bfloat16", "bfloat16", True, 1e-1)


def precisions() -> tuple[Precision, ...]:
    """Those that are timed on this device: on CPU bfloat16 is emulated and TF32 does not exist."""
    return (FLOAT32,) if jax.default_backend() == "cpu" else (TF32, BFLOAT16, FLOAT32)
