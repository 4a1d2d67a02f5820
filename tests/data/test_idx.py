import gzip
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from jaxcnn import InputError, data
from jaxcnn.data import limits

FASHION = Path(os.environ.get("JAXCNN_FASHION_MNIST", Path(__file__).parents[3] / "shared/data/fashion-mnist"))


def idx(array, magic=8):
    return bytes((0, 0, magic, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path, rng):
    """A small data set in MNIST's format; two of the four files are compressed."""
    for prefix, count in (("train", 30), ("t10k", 12)):
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx(rng.integers(0, 256, (count, 5, 4))))
        labels = gzip.compress(idx(np.arange(count) % 3))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(labels)
    return tmp_path


def test_it_is_read(folder):
    dataset = data.load_dataset(str(folder))
    assert dataset.in_shape == (5, 4, 1)
    assert dataset.classes == ("0", "1", "2")
    assert dataset.train_images.dtype == np.float32
    assert dataset.train_images.max() <= 1
    raw = (folder / "train-images-idx3-ubyte").read_bytes()
    np.testing.assert_array_equal(np.rint(dataset.train_images[0, :, :, 0] * 255).ravel(), list(raw[16:36]))
    assert dataset.test_labels.tolist() == [0, 1, 2] * 4


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-1], "holds 599 entries but its header says 30x5x4"),
        ("train-images-idx3-ubyte", lambda b: b + b"x", "holds more than 600 entries but its header says 30x5x4"),
        ("train-images-idx3-ubyte", lambda b: b"", "starts with the bytes of an empty file but an IDX file of 3 dim"),
        ("train-images-idx3-ubyte", lambda b: b"\x89PNG" + b, "starts with the bytes 89 50 4e 47 but an IDX file of 3"),
        ("train-images-idx3-ubyte", lambda b: b[:10], "starts with the bytes 00 00 08 03 but"),
        ("train-labels-idx1-ubyte.gz", lambda b: b[:-9], "cannot be read"),
        ("train-labels-idx1-ubyte.gz", lambda b: b[:20] + b"damaged" + b[27:], "holds more than 30 entries"),
        ("train-labels-idx1-ubyte.gz", lambda b: b"no gzip", "starts with the bytes 6e 6f 20 67 but an IDX file of 1"),
        (
            "train-images-idx3-ubyte",
            lambda b: b[:2] + b"\x0d" + b[3:],
            "starts with the bytes 00 00 0d 03 but an IDX file of 3",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            lambda b: gzip.compress(idx(np.zeros((30, 5, 4)))),
            "must start with 00 00 08 01",
        ),
        ("train-labels-idx1-ubyte.gz", lambda b: gzip.compress(idx(np.arange(29) % 3)), "has 30 images but 29 labels"),
        (
            "t10k-labels-idx1-ubyte.gz",
            lambda b: gzip.compress(idx(np.full(12, 7))),
            "a test label is 7 but the training",
        ),
        ("t10k-images-idx3-ubyte", lambda b: idx(np.zeros((12, 4, 4))), "they must have one shape"),
        ("t10k-images-idx3-ubyte", lambda b: idx(np.zeros((0, 5, 4))), "must hold at least one entry"),
    ],
)
def test_bad_files_get_one_sentence(folder, name, change, message):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError) as error:
        data.load_dataset(str(folder))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte.gz",
            "images-idx3-ubyte: starts with the bytes 00 00 08 01",
        ),
        ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte", "the train split has 12 images but 30 labels"),
        ("train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "the train split has 30 images but 12 labels"),
    ],
)
def test_swapped_files_get_one_sentence(folder, one, other, message):
    contents = (folder / other).read_bytes(), (folder / one).read_bytes()
    for name, content in zip((one, other), contents, strict=True):
        (folder / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        data.load_dataset(str(folder))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_is_read_by_its_content_whether_its_name_says_gz_or_not(folder):
    plain = data.load_dataset(str(folder))
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte.gz"
    images.with_name(images.name + ".gz").write_bytes(gzip.compress(images.read_bytes()))
    images.unlink()
    labels.with_suffix("").write_bytes(labels.read_bytes())  # compressed, without .gz
    labels.write_bytes(gzip.decompress(labels.read_bytes()))  # not compressed, with it
    again = data.load_dataset(str(folder))
    np.testing.assert_array_equal(again.train_images, plain.train_images)
    np.testing.assert_array_equal(again.train_labels, plain.train_labels)
    labels.with_suffix("").unlink()
    np.testing.assert_array_equal(data.load_dataset(str(folder)).train_labels, plain.train_labels)


def test_a_missing_file_or_folder_is_named(folder):
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(InputError, match="t10k-images-idx3-ubyte: is missing, with and without .gz"):
        data.load_dataset(str(folder))
    with pytest.raises(InputError, match="data is 'nowhere', which does not exist, but must be \"digits\" or a folder"):
        data.load_dataset("nowhere")


@pytest.mark.skipif(not FASHION.is_dir(), reason=f"no Fashion-MNIST in {FASHION}; JAXCNN_FASHION_MNIST names another")
def test_fashion_mnist():
    dataset = data.load_dataset(str(FASHION))
    assert dataset.train_images.shape == (60000, 28, 28, 1)
    assert dataset.test_images.shape == (10000, 28, 28, 1)
    assert np.bincount(dataset.train_labels).tolist() == [6000] * 10


def test_a_folder_may_be_a_string_or_a_path(folder):
    for dataset in (data.load_idx(str(folder)), data.load_dataset(folder)):
        assert dataset.name == folder.name
        assert dataset.train_images.shape == (30, 5, 4, 1)
    with pytest.raises(InputError, match="data is 'nowhere', which does not exist, but must be"):
        data.load_dataset(Path("nowhere"))


def test_every_image_is_resized(folder):
    small = data.load_dataset(folder, resize=(3, 7))
    assert small.in_shape == (3, 7, 1)
    for image, large in zip(small.train_images, data.load_dataset(folder).train_images, strict=True):
        np.testing.assert_allclose(image, data.fitted(large, (3, 7, 1)), atol=1 / 255)  # 8 bits against 32


def test_not_more_is_decompressed_than_the_header_says(folder):
    """A gigabyte of zeros is a megabyte of gzip."""
    path = folder / "train-labels-idx1-ubyte.gz"
    rest = gzip.compress(bytes(2**20)) * 1024
    path.write_bytes(gzip.compress(idx(np.arange(30) % 3)) + rest)
    tracemalloc.start()
    with pytest.raises(InputError, match="holds more than 30 entries but its header says 30"):
        data.load_dataset(folder)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_what_is_above_the_limit_is_refused_by_its_header(folder, monkeypatch):
    path = folder / "train-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 12 + content[16:])
    with pytest.raises(
        InputError, match="is of shape 4294967295x4294967295x4294967295, .* bytes, but must have at most"
    ):
        data.load_dataset(folder)
    path.write_bytes(content)
    monkeypatch.setattr(limits, "MAX_BYTES", 42 * 5 * 4 * 4 - 1)
    with pytest.raises(InputError, match="42 images of 5x4x1 take .* GiB but a data set may take at most"):
        data.load_dataset(folder)
    assert data.load_dataset(folder, resize=(4, 4)).in_shape == (4, 4, 1)
