import math

import jax
import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.initializers import INITIALIZERS, initialize

N = 200_000


VARIANCES = {
    "glorot_uniform": 2 / (30 + 50),
    "glorot_normal": 2 / (30 + 50),
    "he_uniform": 2 / 30,
    "he_normal": 2 / 30,
    "lecun_uniform": 1 / 30,
    "lecun_normal": 1 / 30,
    "lenet_uniform": 2.4**2 / 30**2 / 3,
    "normal": 1e-4,
}


@pytest.mark.parametrize(("name", "variance"), VARIANCES.items())
def test_the_moments_are_those_of_the_formulas(name, variance):
    """[I1]; five standard deviations of the sample moments (the variance of a normal's square is 2 sigma^4)."""
    weight = np.asarray(initialize(name, jax.random.key(0), (N,), 30, 50), np.float64)
    assert abs(weight.mean()) < 5 * math.sqrt(variance / N)
    assert abs(weight.var() - variance) < 5 * variance * math.sqrt(2 / N)
    bound = math.sqrt(3 * variance)  # of a uniform distribution of this variance
    assert (abs(weight).max() <= bound * (1 + 1e-6)) == name.endswith("uniform")


def test_every_initializer_is_covered():
    assert set(VARIANCES) == set(INITIALIZERS)


def test_the_same_key_draws_the_same():
    draws = [initialize("he_normal", jax.random.key(k), (4, 3), 4, 3) for k in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all()


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="initializer is 'xavier' but must be one of glorot_uniform, glorot_normal"):
        initialize("xavier", jax.random.key(0), (4, 3), 4, 3)
