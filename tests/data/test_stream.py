"""Images that stay in their files: what is seen of them is what it would be in memory."""

import numpy as np
import PIL.Image
import pytest
from corners import LOSS, NETWORK, OPTIMIZER, same, start

from jaxcnn import InputError, evaluate, fit
from jaxcnn.data import Normalization, Streamed, mirrored, taken


@pytest.fixture
def files(tmp_path, rng):
    """50 gray images as files, their paths, and their labels."""
    images = rng.integers(0, 256, (50, 6, 6), np.uint8)
    paths = tuple(str(tmp_path / f"{i}.png") for i in range(50))
    for path, image in zip(paths, images, strict=True):
        PIL.Image.fromarray(image).save(path)
    return images[..., None] / np.float32(255), paths, rng.integers(0, 3, 50)


def test_it_is_like_an_array(files):
    images, paths, _ = files
    streamed = Streamed(paths, (6, 6, 1))
    assert (streamed.shape, streamed.dtype, streamed.ndim, len(streamed)) == (images.shape, images.dtype, 4, 50)
    for index in (slice(None), slice(3, 9), np.array([7, 0, 7]), 5):
        np.testing.assert_array_equal(streamed[index], images[index])
    for some in (streamed, images):
        np.testing.assert_array_equal(taken(some, np.array([9, 2]))[:], images[[9, 2]])
    normalization = Normalization.of(streamed, padding=1)
    whole = Normalization.of(images, padding=1)
    assert vars(normalization) == pytest.approx(vars(whole), rel=1e-12)  # sums of 3,200 numbers in another order
    assert normalization(streamed).shape == (50, 8, 8, 1)
    np.testing.assert_array_equal(normalization(streamed)[4:6], normalization(images)[4:6])
    colour = Streamed(paths, (3, 4, 3), resize=True)
    assert colour[:2].shape == (2, 3, 4, 3)
    with pytest.raises(InputError, match="mirror is True but the images do not fit in memory"):
        mirrored(streamed, np.zeros(50))


def test_training_on_streamed_images_is_training_in_memory(files):
    """And it goes on from the middle of an epoch."""
    images, paths, labels = files
    normalization = Normalization.of(images)
    streamed = normalization(Streamed(paths, (6, 6, 1)))
    told, arguments = [], {"batch_size": 4, "epochs": 2}
    in_memory, history = fit(NETWORK, LOSS, OPTIMIZER, start(), normalization(images), labels, **arguments)
    state, again = fit(NETWORK, LOSS, OPTIMIZER, start(), streamed, labels, **arguments, on_steps=told.append)
    assert same(state, in_memory)
    assert [epoch["loss"] for epoch in again] == [epoch["loss"] for epoch in history]
    middle = told[len(told) // 2]
    assert same(fit(NETWORK, LOSS, OPTIMIZER, start(), streamed, labels, **arguments, resume=middle)[0], state)
    measured = [evaluate(NETWORK, LOSS, state.params, x, labels) for x in (streamed, normalization(images))]
    assert measured[0].loss == measured[1].loss


def test_a_bad_file_gets_one_sentence_from_a_worker_process(files, tmp_path):
    _, paths, labels = files
    streamed = Streamed(paths, (6, 6, 1))
    (tmp_path / "30.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="30.png: is no PNG or JPEG image"):
        fit(NETWORK, LOSS, OPTIMIZER, start(), streamed, labels, batch_size=5, epochs=1)
    PIL.Image.new("L", (9, 5)).save(tmp_path / "30.png")
    with pytest.raises(InputError, match="30.png is 5 pixels high and 9 wide but others are 6 high and 6 wide"):
        streamed[28:32]


def test_without_grain_one_sentence_says_what_to_install(files, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "grain", None)
    with pytest.raises(InputError, match="images that do not fit in memory need Grain: pip install"):
        next(Streamed(files[1], (6, 6, 1)).batches(np.arange(4).reshape(2, 2)))
