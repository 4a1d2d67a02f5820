import dataclasses
import math

import jax
import numpy as np
import pytest

from jaxcnn import CombineMaps, Conv2d, Dense, InputError
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
    "torch": 1 / 30 / 3,
    "flax": 1 / 30,
}


@pytest.mark.parametrize(("name", "variance"), VARIANCES.items())
def test_the_moments_are_those_of_the_formulas(name, variance):
    """[I1]; five standard deviations of the sample moments (the variance of a normal's square is 2 sigma^4)."""
    weight = np.asarray(initialize(name, jax.random.key(0), (N,), 30, 50), np.float64)
    assert abs(weight.mean()) < 5 * math.sqrt(variance / N)
    assert abs(weight.var() - variance) < 5 * variance * math.sqrt(2 / N)
    bound = math.sqrt(3 * variance)  # of a uniform distribution of this variance
    assert (abs(weight).max() <= bound * (1 + 1e-6)) == (name.endswith("uniform") or name == "torch")


def test_every_initializer_is_covered():
    assert set(VARIANCES) == set(INITIALIZERS)


def test_the_same_key_draws_the_same():
    draws = [initialize("he_normal", jax.random.key(k), (4, 3), 4, 3) for k in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all()


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="initializer is 'xavier' but must be one of glorot_uniform, glorot_normal"):
        initialize("xavier", jax.random.key(0), (4, 3), 4, 3)


LAYERS = (  # their inputs, and the fan_in of each bias
    (Dense(5000), (7,), 7),
    (Conv2d(300, (3, 2), groups=2), (5, 6, 4), 12),
    (Conv2d(200, 3, connections=((0, 1, 2), (1,)) * 100), (5, 5, 3), np.array([27, 9] * 100)),
    (CombineMaps(300, (3, 2)), (5, 6, 200), 6),
)


@pytest.mark.parametrize(("layer", "in_shape", "fan_in"), LAYERS)
@pytest.mark.parametrize("name", INITIALIZERS)
def test_the_biases_of_torch_alone_are_drawn(layer, in_shape, fan_in, name):
    """Each by its own fan_in and by a key of its own; the weights are what the layer's key draws."""
    key = jax.random.key(3)
    layer = dataclasses.replace(layer, initializer=name)
    params = layer.init(key, in_shape)
    bias = np.asarray(params["bias"], np.float64)
    if name == "torch":
        first = initialize("torch", key, bias.shape, fan_in, 1)
        assert not (params["bias"] == first).any()
        unit = bias * np.sqrt(fan_in)  # U(-1, 1); five standard deviations of its moments
        assert abs(unit).max() <= 1 + 1e-6
        assert abs(unit.mean()) < 5 * math.sqrt(1 / 3 / unit.size)
        assert abs(unit.var() - 1 / 3) < 5 / 3 * math.sqrt(0.8 / unit.size)
    else:
        np.testing.assert_array_equal(bias, 0)
    if isinstance(layer, Dense):
        np.testing.assert_array_equal(params["weight"], initialize(name, key, (7, 5000), 7, 5000))


def test_bounds_and_deviations_are_torchs():
    """[N18]: what nn.Linear and nn.Conv2d have drawn, and what we draw, fills U(-a, a) of the same a to 1 %."""
    nn = pytest.importorskip("torch", reason="PyTorch is not installed").nn
    for theirs, ours, in_shape in (
        (nn.Linear(40, 3000), Dense(3000, initializer="torch"), (40,)),
        (nn.Conv2d(4, 1500, (3, 2), groups=2), Conv2d(1500, (3, 2), groups=2, initializer="torch"), (5, 6, 4)),
    ):
        params = ours.init(jax.random.key(0), in_shape)
        for name in ("weight", "bias"):
            expected, found = getattr(theirs, name).detach().numpy(), np.asarray(params[name])
            assert found.size == expected.size
            assert abs(found).max() == pytest.approx(abs(expected).max(), rel=0.01)
            assert found.std() == pytest.approx(expected.std(), rel=0.05)


def test_the_weights_are_flaxs():
    """[N19]: the same key draws the very same, for dense layers and kernels."""
    lecun_normal = pytest.importorskip("flax", reason="Flax is not installed").linen.initializers.lecun_normal()
    key = jax.random.key(5)
    for layer, in_shape, shape in (
        (Dense(30, initializer="flax"), (20,), (20, 30)),
        (Conv2d(8, (3, 2), initializer="flax"), (5, 6, 4), (3, 2, 4, 8)),
    ):
        params = layer.init(key, in_shape)
        np.testing.assert_allclose(params["weight"], lecun_normal(key, shape), rtol=1e-6)
        np.testing.assert_array_equal(params["bias"], 0)


def test_the_normal_distribution_of_flax_is_cut_off_at_two_deviations():
    weight = np.asarray(initialize("flax", jax.random.key(0), (N,), 30, 50), np.float64)
    assert 0.999 < abs(weight).max() / (2 / 0.8796256610342398 / math.sqrt(30)) <= 1 + 1e-6


def test_the_old_initializers_draw_what_they_drew():
    """The first two weights of a key, from before there was a bias to draw."""
    for layer, shape, expected in (
        (Dense(3), (4,), [1.14738130569458, 1.4320783615112305]),
        (Conv2d(2, 2, initializer="lenet_uniform"), (3, 3, 1), [0.5372004508972168, 0.5742958784103394]),
    ):
        weight = layer.init(jax.random.key(0), shape)["weight"]
        np.testing.assert_allclose(weight.ravel()[:2], expected, rtol=1e-5)
