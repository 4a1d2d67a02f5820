"""Augmentation: what may come out of an image, how often, and that a key draws the same again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.data import Augmentation, cutout, random_crop, random_flip

COUNT = 400
KEY = jax.random.key(3)


@pytest.fixture
def x(rng):
    """Images that differ from all of their shifts and mirror images."""
    return jnp.asarray(rng.standard_normal((COUNT, 5, 7, 2)), jnp.float32)


def sigmas(share, probability):
    """How far the share of `COUNT` draws lies from its probability, in standard deviations."""
    return abs(share - probability) / np.sqrt(probability * (1 - probability) / COUNT)


def test_a_crop_is_the_image_shifted_into_its_background(x):
    pixels, fill = 2, -0.5
    cropped = np.asarray(random_crop(KEY, x, pixels, fill))
    padded = np.pad(x, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), constant_values=fill)
    places = np.zeros((5, 5), int)
    for image, found in zip(padded, cropped, strict=True):
        shifts = [(i, j) for i in range(5) for j in range(5) if np.array_equal(found, image[i : i + 5, j : j + 7])]
        assert len(shifts) == 1
        places[shifts[0]] += 1
    assert max(sigmas(count / COUNT, 1 / 25) for count in places.ravel()) < 5


def test_a_flip_is_the_mirror_image_or_none(x):
    flipped = np.asarray(random_flip(KEY, x))
    mirrored = [np.array_equal(found, image[:, ::-1]) for image, found in zip(np.asarray(x), flipped, strict=True)]
    same = [np.array_equal(found, image) for image, found in zip(np.asarray(x), flipped, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert sigmas(np.mean(mirrored), 0.5) < 5


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_cutout_is_a_square_around_any_pixel(x, size):
    covered = np.asarray(cutout(KEY, x, size)) == 0
    assert (covered[..., 0] == covered[..., 1]).all()
    centres = set()
    for mask in covered[..., 0]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        square = np.zeros((5, 7), bool)
        square[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert np.array_equal(mask, square)
        assert len(rows) <= size
        assert len(columns) <= size
        centres.add((rows[-1], columns[-1]))
    if size == 1:
        assert len(centres) == 35
    if size == 9:
        assert not covered.all()  # cut off at the borders, it seldom covers all


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_key_draws_the_same_again_and_every_step_its_own(x, dtype):
    x = x.astype(dtype)
    augmentation = Augmentation(("crop:2", "flip", "cutout:3"), fill=0.25)
    once = augmentation(KEY, x)
    assert once.dtype == dtype
    assert once.shape == x.shape
    np.testing.assert_array_equal(once, jax.jit(augmentation)(KEY, x))
    assert not np.array_equal(once, augmentation(jax.random.key(4), x))
    keys = jax.random.split(KEY, 3)
    by_hand = cutout(keys[2], random_flip(keys[1], random_crop(keys[0], x, 2, 0.25)), 3)
    np.testing.assert_array_equal(once, by_hand)
    twice = Augmentation(("flip", "flip"))(KEY, x)
    assert not np.array_equal(twice, x)


def test_shift_is_crop_by_another_name(x):
    np.testing.assert_array_equal(Augmentation(("shift:1",))(KEY, x), Augmentation(("crop:1",))(KEY, x))


@pytest.mark.parametrize(
    "step", ["crop", "crop:", "crop:0", "crop:-1", "crop:²", "flip:2", "spin", "", "cutout:99999", 3]
)
def test_an_unknown_step_gets_one_sentence(step):
    with pytest.raises(InputError, match="^augment is .* but must ") as error:
        Augmentation(("flip", step))
    assert "\n" not in str(error.value)
