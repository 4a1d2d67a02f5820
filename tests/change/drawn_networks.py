"""Networks with random parameters and statistics, in float64, and images."""

import jax
import jax.numpy as jnp

from jaxcnn import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    init_statistics,
    merged,
)

IN_SHAPE = (13, 12, 3)
STEM = Conv2d(6, 3, stride=2, padding=1), BatchNorm(), ReLU(), MaxPool2d(2, stride=1)
HEAD = AvgPool2d(2), ReLU(), Flatten(), Dense(7), ReLU(), Dense(4)
PLAIN = Sequential((*STEM, Conv2d(5, 3, padding=1), ReLU(), *HEAD))


def convolution(channels, size=3, bias=True, **more):
    return Conv2d(channels, size, padding=size // 2, bias=bias, **more)


def normalised(channels, size=3, **more):
    return convolution(channels, size, bias=False, **more), BatchNorm()


RESIDUAL = Sequential(
    (
        *STEM,
        Residual(Sequential((*normalised(6), ReLU(), *normalised(6)))),
        ReLU(),
        Residual(
            Sequential((*normalised(8, stride=2), ReLU(), *normalised(8))), Sequential(normalised(8, 1, stride=2))
        ),
        ReLU(),
        convolution(5),
        ReLU(),
        *HEAD,
    )
)


def drawn_for(network, in_shape=IN_SHAPE, samples=3, seed=0):
    """`(params, x)`, the parameters of no special value: scales, biases and statistics are random, too."""
    keys = iter(jax.random.split(jax.random.key(seed), 200))
    params = network.init(next(keys), in_shape)
    params = merged(params, init_statistics(network, params, in_shape))

    def random(path, w):
        name = path[-1].key
        if name == "weight":
            return jnp.asarray(w, jnp.float64)
        if name in ("scale", "variance", "beta", "factor"):
            return jax.random.uniform(next(keys), w.shape, jnp.float64, 0.5, 1.5)
        return 0.3 * jax.random.normal(next(keys), w.shape, jnp.float64)

    params = jax.tree_util.tree_map_with_path(random, params)
    return params, jax.random.uniform(next(keys), (samples, *in_shape), jnp.float64, -0.75, 1.25)
