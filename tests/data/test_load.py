"""What `load_dataset` takes a source for, and how much memory it takes."""

import gzip
import tracemalloc
import warnings

import numpy as np
import PIL.Image
import pytest

from jaxcnn import InputError
from jaxcnn.data import fitted, load_dataset, load_digits
from jaxcnn.data.decoding import decoding


def test_the_digits_are_resized():
    small, digits = load_dataset("digits", resize=(4, 6)), load_digits()
    assert small.in_shape == (4, 6, 1)
    np.testing.assert_array_equal(small.train_labels, digits.train_labels)
    np.testing.assert_array_equal(small.test_images[7], fitted(digits.test_images[7], (4, 6, 1)))
    assert 0 <= small.train_images.min() < small.train_images.max() <= 1


@pytest.mark.parametrize("resize", [8, (8,), (8, 8, 1), (0, 8), (8.0, 8), ("8", "8"), (True, 8), "88"])
def test_a_size_is_height_and_width(resize):
    with pytest.raises(
        InputError, match="^resize is .* but must be None or height and width, whole numbers of at least"
    ):
        load_dataset("digits", resize=resize)


def test_a_size_is_bounded():
    with pytest.raises(
        InputError, match="resize is .8192, 8193., 67117056 pixels, but must be at most 67108864 pixels"
    ):
        load_dataset("digits", resize=(8192, 8193))
    with pytest.raises(
        InputError, match="1797 images of 1024x1024x1 take 7.0 GiB but a data set may take at most 4 GiB"
    ):
        load_dataset("digits", resize=(1024, 1024))


@pytest.mark.parametrize(
    ("names", "looks"),
    [
        ([], "a folder with 0 folders and 0 files,"),
        (["a.txt"], "a folder with 0 folders and 1 file, such as a.txt,"),
        (["x/", "y/", "z/a.gif", ".hidden", "c.txt", "b.png"], "a folder with 3 folders and 2 files, such as b.png,"),
        (["only.npz"], "a folder with 0 folders and 1 file, such as only.npz,"),
        (["a\nb"], "a folder with 0 folders and 1 file, such as a\\nb,"),
    ],
)
def test_what_fits_no_format_is_described(tmp_path, names, looks):
    for name in names:
        path = tmp_path / name
        (path if name.endswith("/") else path.parent).mkdir(exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(b"")
    with pytest.raises(InputError) as error:
        load_dataset(tmp_path)
    assert str(error.value) == (
        f"data is '{tmp_path}', {looks} but must be \"digits\" or a folder with IDX files (MNIST's format), with "
        "CIFAR's binary files or with a folder of PNG or JPEG images for each class, alone or in train and test, or an "
        ".npz file with images and labels"
    )


def test_a_file_of_another_kind_is_described_and_what_is_not_there_is_not(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(InputError, match='a.zip\', a file, but must be "digits" or a folder'):
        load_dataset(tmp_path / "a.zip")
    for source in ("", "nowhere", tmp_path / "none.npz"):
        there = ", which does not exist," if source else ""
        with pytest.raises(InputError, match=f"data is '{source}'{there} but must be"):
            load_dataset(source)


def decode(error):
    with decoding("a.png", "a whole image"):
        warnings.warn("left out", stacklevel=1)
        raise error


def test_what_a_decoder_says_becomes_one_printable_line():
    with pytest.raises(InputError) as found:
        decode(OSError("one\n  two \x1b[31m \udcff <a.B object at 0x7f00>" + "x" * 1000))
    assert str(found.value).startswith("a.png: cannot be read (one two \\x1b[31m \\udcff a.Bxxx")
    assert len(str(found.value)) < 300
    with pytest.raises(InputError, match="a.png: cannot be read .MemoryError.; it must be a whole image"):
        decode(MemoryError())
    with pytest.raises(KeyboardInterrupt):
        decode(KeyboardInterrupt())


def idx(path, array, compressed=False):
    content = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(content, 1) if compressed else content)


def idx_files(folder, rng):
    for prefix, count in (("train", 4000), ("t10k", 1000)):
        idx(folder / f"{prefix}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), np.uint8), True)
        idx(folder / f"{prefix}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))


def cifar_files(folder, rng):
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        records = rng.integers(0, 256, (200, 3073), np.uint8)
        records[:, 0] = i
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def image_files(folder, rng):
    for i in range(60):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (128, 128, 3), np.uint8)).save(path, compress_level=1)


def npz_file(dtype):
    def write(folder, rng):
        images = rng.integers(0, 2, (2000, 32, 32)).astype(dtype)
        np.savez(folder / "a.npz", images=images, labels=np.arange(2000) % 10)

    return write


@pytest.mark.parametrize(
    ("write", "multiple"),
    [
        (idx_files, 1.3),
        (cifar_files, 1.3),
        (image_files, 1.3),
        (npz_file("u1"), 1.25),
        (npz_file("f4"), 2),
        (npz_file("f8"), 3),
    ],
)
def test_a_reader_holds_no_more_than_its_docstring_says(tmp_path, rng, write, multiple):
    """As a multiple of the float32 images; a megabyte is for what does not grow with them."""
    write(tmp_path, rng)
    source = tmp_path / "a.npz" if (tmp_path / "a.npz").exists() else tmp_path
    tracemalloc.start()
    dataset = load_dataset(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = dataset.train_images.nbytes + dataset.test_images.nbytes
    assert size < peak < multiple * size + 2**20
