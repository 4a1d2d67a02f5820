"""A saved run as one file that `jax.export` reads without jaxcnn: StableHLO, its parameters inside.

(1)  y = network((pad(x) - mean) / std)     x (n, H, W, C), float32 from 0 to 1, any n; y (n, K), float32
"""

from functools import partial

import jax
import jax.numpy as jnp

from ..errors import InputError
from ..store.runs import Saved

PLATFORMS = ("cpu", "cuda", "tpu")


def stablehlo(saved: Saved) -> bytes:
    """The function (1) of images to logits, for `PLATFORMS`, normalisation and parameters in it:

        logits = jax.export.deserialize(stablehlo(saved)).call(images)

    It computes in the parameters' dtype, float64 as float32. Convolutions are XLA's on every platform.

    Raises:
        InputError: flatbuffers is not installed.
    """
    from jax import export

    of_params = jax.tree.leaves(saved.checkpoint.params)[0].dtype
    dtype = jnp.dtype(jnp.float32) if of_params == jnp.float64 else of_params
    params = jax.tree.map(
        lambda w: jnp.asarray(w, jnp.float32 if w.dtype == jnp.float64 else w.dtype), saved.checkpoint.params
    )
    shape = (*export.symbolic_shape("n"), *saved.image_shape)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    program = jax.jit(partial(_logits, saved, params, dtype))
    try:
        return bytes(export.export(program, platforms=PLATFORMS)(images).serialize())
    except ImportError:
        raise InputError("exports need flatbuffers: pip install '.[cli]' in a checkout") from None


def _logits(saved, params, dtype, images):
    facts = saved.normalization
    around = [(0, 0), (facts.padding,) * 2, (facts.padding,) * 2, (0, 0)]
    x = (jnp.pad(images, around) - jnp.float32(facts.mean)) / jnp.float32(facts.std)
    return saved.checkpoint.network.apply(params, x.astype(dtype)).astype(jnp.float32)
