"""Random initial weights [I1]. Biases start at zero.

Each function takes a key, the weight's shape and its fans: fan_in inputs form one output unit, and one input unit
feeds fan_out outputs (for a kernel, taps times channels). The dtype is JAX's default float.
"""

import math

import jax

from .errors import InputError


def glorot_uniform(key: jax.Array, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
    """U(-a, a) with a = sqrt(6 / (fan_in + fan_out)): for sigmoid and tanh units.

    Glorot & Bengio, *Understanding the difficulty of training deep feedforward neural networks* (2010), eq. 16;
    DeepLearnToolbox draws its kernels so [I1].

    >>> weight = glorot_uniform(jax.random.key(0), (50, 40), 50, 40)
    >>> bool(abs(weight).max() <= (6 / 90) ** 0.5)
    True
    """
    bound = math.sqrt(6 / (fan_in + fan_out))
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def he_normal(key: jax.Array, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
    """N(0, 2 / fan_in): for ReLU units.

    He et al., *Delving deep into rectifiers* (2015), eq. 10.

    >>> he_normal(jax.random.key(0), (3, 3, 4, 8), 36, 72).shape
    (3, 3, 4, 8)
    """
    del fan_out
    return math.sqrt(2 / fan_in) * jax.random.normal(key, shape)


INITIALIZERS = {f.__name__: f for f in (glorot_uniform, he_normal)}


def initialize(name: str, key: jax.Array, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
    """Weights drawn by the initializer called `name`.

    Raises:
        InputError: no initializer has this name.

    >>> initialize("he_normal", jax.random.key(0), (5, 2), 5, 2).shape
    (5, 2)
    """
    if name not in INITIALIZERS:
        raise InputError(f"initializer is {name!r} but must be one of {', '.join(INITIALIZERS)}")
    return INITIALIZERS[name](key, shape, fan_in, fan_out)
