"""Random initial weights [I1]. Biases start at zero, but those of "torch" are drawn, too [N18].

Each function takes a key, the weight's shape and its fans: fan_in inputs form one output unit, and one input unit
feeds fan_out outputs (for a kernel, taps times channels). A fan may be an array that broadcasts against the shape, one
for each map. The same key draws the same weights. The dtype is JAX's default float.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .errors import check_key, find

Fan = float | np.ndarray


def glorot_uniform(key: jax.Array, shape: tuple[int, ...], fan_in: Fan, fan_out: Fan) -> jax.Array:
    """U(-a, a) with a = sqrt(6 / (fan_in + fan_out)): for sigmoid and tanh units.

    Glorot & Bengio, *Understanding the difficulty of training deep feedforward neural networks* (2010), eq. 16;
    DeepLearnToolbox draws its kernels and weights so [I1].

    >>> weight = glorot_uniform(jax.random.key(0), (50, 40), 50, 40)
    >>> bool(abs(weight).max() <= (6 / 90) ** 0.5)
    True
    """
    return _uniform(key, shape, np.sqrt(6 / (fan_in + fan_out)))


def glorot_normal(key: jax.Array, shape: tuple[int, ...], fan_in: Fan, fan_out: Fan) -> jax.Array:
    """N(0, 2 / (fan_in + fan_out)): for sigmoid and tanh units.

    Glorot & Bengio (2010), eq. 12.
    """
    return _normal(key, shape, np.sqrt(2 / (fan_in + fan_out)))


def he_uniform(key: jax.Array, shape: tuple[int, ...], fan_in: Fan, fan_out: Fan) -> jax.Array:
    """U(-a, a) with a = sqrt(6 / fan_in), of `he_normal`'s variance: for ReLU units."""
    return _uniform(key, shape, np.sqrt(6 / fan_in))


def he_normal(key: jax.Array, shape: tuple[int, ...], fan_in: Fan, fan_out: Fan) -> jax.Array:
    """N(0, 2 / fan_in): for ReLU units.

    He et al., *Delving deep into rectifiers* (2015), eq. 10.

    >>> he_normal(jax.random.key(0), (3, 3, 4, 8), 36, 72).shape
    (3, 3, 4, 8)
    """
    return _normal(key, shape, np.sqrt(2 / fan_in))


def lecun_uniform(key: jax.Array, shape: tuple[int, ...], fan_in: Fan, fan_out: Fan) -> jax.Array:
    """U(-a, a) with a = sqrt(3 / fan_in), of `lecun_normal`'s variance: for units of slope one, scaled tanh."""
    return _uniform(key, shape, np.sqrt(3 / fan_in))


def lecun_normal(key: jax.Array, shape: tuple[int, ...], fan_in: Fan, fan_out: Fan) -> jax.Array:
    """N(0, 1 / fan_in): for units of slope one, scaled tanh.

    LeCun, Bottou, Orr & Müller, *Efficient backprop* (1998), eq. 16.
    """
    return _normal(key, shape, np.sqrt(1 / fan_in))


def lenet_uniform(key: jax.Array, shape: tuple[int, ...], fan_in: Fan, fan_out: Fan) -> jax.Array:
    """U(-a, a) with a = 2.4 / fan_in: LeNet-5's, for scaled tanh.

    LeCun, Bottou, Bengio & Haffner, *Gradient-based learning applied to document recognition* (1998), appendix A.
    """
    return _uniform(key, shape, 2.4 / fan_in)


def normal(key: jax.Array, shape: tuple[int, ...], fan_in: Fan, fan_out: Fan) -> jax.Array:
    """N(0, 0.01^2), whatever the fans.

    Krizhevsky, Sutskever & Hinton, *ImageNet classification with deep convolutional neural networks* (2012), sect. 5.
    """
    return _normal(key, shape, 0.01)


def torch(key: jax.Array, shape: tuple[int, ...], fan_in: Fan, fan_out: Fan) -> jax.Array:
    """U(-a, a) with a = 1 / sqrt(fan_in), the default of PyTorch's `nn.Conv2d` and `nn.Linear` [N18].

    Their biases are drawn from the same distribution, and so are those of a layer with this initializer.
    """
    return _uniform(key, shape, 1 / np.sqrt(fan_in))


DEVIATION_CUT = 0.87962566103423978  # of N(0, 1) cut off at -2 and 2


def flax(key: jax.Array, shape: tuple[int, ...], fan_in: Fan, fan_out: Fan) -> jax.Array:
    """A normal distribution of variance 1 / fan_in, cut off at two of its deviations, the default of Flax [N19].

    Cutting takes variance away: before, the deviation is 1 / (0.8796 sqrt(fan_in)).
    """
    return jax.random.truncated_normal(key, -2.0, 2.0, shape) * (np.sqrt(1 / fan_in) / DEVIATION_CUT)


def _uniform(key, shape, bound):
    return jax.random.uniform(key, shape, minval=-1.0) * bound


def _normal(key, shape, deviation):
    return jax.random.normal(key, shape) * deviation


INITIALIZERS = {
    f.__name__: f
    for f in (
        glorot_uniform, glorot_normal, he_uniform, he_normal, lecun_uniform, lecun_normal, lenet_uniform, normal, torch,
        flax,
    )
}  # fmt: skip


def initialize(name: str, key: jax.Array, shape: tuple[int, ...], fan_in: Fan, fan_out: Fan) -> jax.Array:
    """Weights drawn by the initializer called `name`.

    Raises:
        InputError: no initializer has this name.

    >>> initialize("he_normal", jax.random.key(0), (5, 2), 5, 2).shape
    (5, 2)
    """
    draw = find_initializer(name)
    check_key("init", key)
    return draw(key, shape, fan_in, fan_out)


def initial_bias(name: str, key: jax.Array, shape: tuple[int, ...], fan_in: Fan) -> jax.Array:
    """The bias beside weights that `initialize(name, key, ...)` draws: zeros, but for "torch" a draw of its own.

    >>> print(initial_bias("he_normal", jax.random.key(0), (3,), 5))
    [0. 0. 0.]
    >>> bool(abs(initial_bias("torch", jax.random.key(0), (3,), 4)).max() < 1 / 2)
    True
    """
    return torch(jax.random.fold_in(key, 1), shape, fan_in, 1) if name == "torch" else jnp.zeros(shape)


def find_initializer(name: str) -> Callable:
    """The initializer called `name`.

    Raises:
        InputError: there is none.
    """
    return find("initializer", name, INITIALIZERS)
