"""Derivatives from values alone: central differences of fourth order.

(1)  f'(a) = (f(a - 2h) - 8 f(a - h) + 8 f(a + h) - f(a + 2h)) / 12h + h^4 f'''''/30

With h = 1e-3 the truncation is about 3e-14 f''''' and the rounding about 1.5 eps |f| / h = 3e-13 |f|.
"""

import numpy as np

STEP = 1e-3
DIRECTIONS = 4


def derivative(f, point, direction, step=STEP):
    """(1): the derivative of the scalar function f at `point` along `direction`.

    >>> round(float(derivative(lambda a: (a**3).sum(), np.array([1.0, 2.0]), np.array([1.0, 0.0]))), 9)
    3.0
    """
    before2, before, after, after2 = (f(point + n * step * direction) for n in (-2, -1, 1, 2))
    return (before2 - 8 * before + 8 * after - after2) / (12 * step)


def gradient(f, point, step=STEP):
    """The derivative of f along every entry of `point`: an array of its shape."""
    result = np.zeros(point.shape)
    for index in np.ndindex(point.shape):
        direction = np.zeros(point.shape)
        direction[index] = 1
        result[index] = derivative(f, point, direction, step)
    return result


def largest_error(f, point, grad, seed):
    """Largest deviation of <grad, v> from the derivative along v, over random unit vectors v, relative to |grad|."""
    rng, errors = np.random.default_rng(seed), []
    for _ in range(DIRECTIONS):
        direction = rng.standard_normal(point.shape)
        direction /= np.linalg.norm(direction)
        errors.append(abs(derivative(f, point, direction) - (grad * direction).sum()))
    return float(max(errors) / (np.linalg.norm(grad) or 1))
