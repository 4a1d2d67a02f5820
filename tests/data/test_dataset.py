"""How images are normalised."""

import numpy as np

from jaxcnn.data import Normalization


def test_padding_puts_background_around_before_the_statistics_are_taken(rng):
    images = rng.random((6, 4, 3, 1)).astype(np.float32)
    normalization = Normalization.of(images, padding=2)
    padded = normalization(images)
    assert padded.shape == (6, 8, 7, 1)
    np.testing.assert_allclose([padded.mean(), padded.std()], [0, 1], atol=1e-6)
    assert np.unique(padded[:, :2]).size == 1
    np.testing.assert_allclose(padded[:, 2:-2, 2:-2] * normalization.std + normalization.mean, images, atol=1e-6)
