"""CIFAR's binary files."""

import numpy as np
import pytest

from jaxcnn import InputError, data


def record(image, *labels):
    return bytes(labels) + image.transpose(2, 0, 1).tobytes()


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (12, 32, 32, 3), np.uint8)


@pytest.fixture
def ten(tmp_path, images):
    """CIFAR-10's files with two images each."""
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(b"".join(record(images[j], j % 10) for j in (2 * i, 2 * i + 1)))
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"name {i}" for i in range(10)) + "\n\n")
    return tmp_path


@pytest.fixture
def hundred(tmp_path, images):
    for name, part in (("train.bin", range(9)), ("test.bin", range(9, 12))):
        (tmp_path / name).write_bytes(b"".join(record(images[j], j % 3, 99 - j) for j in part))
    return tmp_path


def test_cifar_10(ten, images):
    dataset = data.load_dataset(ten)
    assert dataset.classes == tuple(f"name {i}" for i in range(10))
    assert dataset.train_labels.tolist() == list(range(10))
    assert dataset.test_labels.tolist() == [0, 1]
    np.testing.assert_array_equal(dataset.train_images, images[:10] / np.float32(255))
    np.testing.assert_array_equal(dataset.test_images, images[10:] / np.float32(255))
    (ten / "batches.meta.txt").unlink()
    assert data.load_cifar(str(ten)).classes == tuple("0123456789")
    assert data.load_dataset(ten, resize=(8, 9)).in_shape == (8, 9, 3)


def test_cifar_100_has_the_fine_labels(hundred, images):
    (hundred / "fine_label_names.txt").write_text("\n".join(f"é{i}" for i in range(100)), encoding="utf-8")
    dataset = data.load_dataset(hundred)
    assert dataset.classes[99] == "é99"
    assert dataset.train_labels.tolist() == [99 - j for j in range(9)]
    np.testing.assert_array_equal(dataset.test_images, images[9:] / np.float32(255))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("data_batch_3.bin", None, "data_batch_3.bin: is missing"),
        ("data_batch_3.bin", lambda b: b[:-1], "data_batch_3.bin: has 6145 bytes but must have a multiple of 3073"),
        ("test_batch.bin", lambda b: b"", "test_batch.bin: has 0 bytes but must have a multiple of 3073"),
        ("data_batch_2.bin", lambda b: b"\x0a" + b[1:], "data_batch_2.bin: a label is 10 but must be below 10"),
        ("batches.meta.txt", lambda b: b"cat\ndog\n", "batches.meta.txt: has 2 lines with a name but must have 10"),
        ("batches.meta.txt", lambda b: b"\xff", "batches.meta.txt: cannot be read ("),
    ],
)
def test_bad_files_get_one_sentence(ten, name, change, message):
    path = ten / name
    path.write_bytes(change(path.read_bytes())) if change else path.unlink()
    with pytest.raises(InputError) as error:
        data.load_dataset(ten)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("names", [["data_batch_1", "batches.meta"], ["test_batch"], ["train", "test", "meta"]])
def test_the_python_version_is_refused_by_name(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(
        InputError, match="CIFAR's Python version, which needs pickle, and pickle is not read; it must be"
    ):
        data.load_dataset(tmp_path)


def test_a_pickled_file_is_refused_by_name(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="data_batch_1', CIFAR's Python version, which needs pickle"):
        data.load_dataset(tmp_path / "data_batch_1")
