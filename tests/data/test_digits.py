import numpy as np
from sklearn.datasets import load_digits as sklearn_digits

from jaxcnn import data


def test_the_split_is_fixed_stratified_and_complete():
    dataset = data.load_dataset("digits")
    assert dataset.train_images.shape == (1437, 8, 8, 1)
    assert dataset.test_images.shape == (360, 8, 8, 1)
    counts = np.bincount(dataset.test_labels)
    shares = np.bincount(sklearn_digits().target) * 360 / 1797
    assert np.abs(counts - shares).max() <= 1
    both = np.concatenate([dataset.train_images, dataset.test_images]).reshape(1797, 64)
    np.testing.assert_array_equal(
        np.sort(both.sum(axis=1)), np.sort((sklearn_digits().data / 16).astype(np.float32).sum(axis=1))
    )
    np.testing.assert_array_equal(dataset.train_images, data.load_digits().train_images)


def test_the_split_never_changes():
    """The first ten test labels under random_state=0: a change here changes every published accuracy."""
    assert data.load_dataset("digits").test_labels[:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]


def test_normalisation_is_of_the_training_images_alone():
    dataset = data.load_dataset("digits")
    normalization = data.Normalization.of(dataset.train_images)
    x = normalization(dataset.train_images)
    assert abs(x.mean(dtype=np.float64)) < 1e-6
    assert abs(x.std(dtype=np.float64) - 1) < 1e-6
    assert x.dtype == np.float32
    assert data.Normalization.of(np.ones(4)).std == 1
