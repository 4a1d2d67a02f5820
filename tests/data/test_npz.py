"""NumPy's .npz files."""

import io
import zipfile

import numpy as np
import pytest

from jaxcnn import InputError, data
from jaxcnn.data import limits


@pytest.fixture
def arrays(rng):
    return {
        "images": rng.integers(0, 256, (30, 4, 5, 3), np.uint8),
        "labels": np.arange(30) % 3,
        "test_images": rng.integers(0, 256, (6, 4, 5, 3), np.uint8),
        "test_labels": np.arange(6) % 3,
        "classes": np.array(["ant", "žába", "猫"]),
    }


def saved(folder, arrays, save=np.savez):
    path = folder / "some.npz"
    save(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_it_is_read(tmp_path, arrays, save):
    dataset = data.load_dataset(str(saved(tmp_path, arrays, save)))
    assert dataset.name == "some"
    assert dataset.classes == ("ant", "žába", "猫")
    np.testing.assert_array_equal(dataset.train_images, arrays["images"] / np.float32(255))
    np.testing.assert_array_equal(dataset.test_images, arrays["test_images"] / np.float32(255))
    np.testing.assert_array_equal(dataset.test_labels, arrays["test_labels"])
    assert dataset.train_labels.dtype == np.int32
    assert data.load_npz(saved(tmp_path, arrays), resize=(2, 7)).in_shape == (2, 7, 3)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_floating_images_are_taken_as_they_are_in_any_order(tmp_path, rng, dtype):
    images = np.asfortranarray(rng.random((20, 4, 5)).astype(dtype))
    images[0, 0, :2] = 0, 1
    dataset = data.load_dataset(saved(tmp_path, {"images": images, "labels": np.arange(20, dtype=np.uint8) % 2}))
    assert dataset.in_shape == (4, 5, 1)
    assert dataset.classes == ("0", "1")
    kept, held = data.held_out(np.arange(20) % 2, 0.2, 0)
    np.testing.assert_array_equal(dataset.train_images[..., 0], images[kept].astype(np.float32))
    np.testing.assert_array_equal(dataset.test_images[..., 0], images[held].astype(np.float32))
    assert np.bincount(dataset.test_labels).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "some.npz: holds 'labels, test_images, test_labels, classes' but must hold images"),
        ({"test_labels": None}, "but must hold test_labels"),
        ({"labels": np.arange(29) % 3}, "has 30 images but 29 labels; they must be as many"),
        ({"images": np.zeros((30, 4, 5, 3), object)}, "images holds Python objects, which need pickle, and pickle is"),
        ({"classes": np.array(["a", "b", "c"], object)}, "classes holds Python objects, which need pickle"),
        ({"images": np.zeros((30, 4, 5, 3), int)}, "images are int64 but must be uint8, or floating from 0 to 1"),
        ({"images": np.full((30, 4, 5, 3), 255.0)}, "images are from 255 to 255 but floating images must be from 0"),
        ({"images": np.full((30, 4, 5, 3), np.nan)}, "images are from nan to nan but"),
        ({"images": np.zeros((30, 3, 4, 5), np.uint8)}, "images are of shape (30, 3, 4, 5) but must be (N, H, W), "),
        ({"images": np.zeros((30, 20), np.uint8)}, "images are of shape (30, 20) but must be"),
        ({"images": np.uint8(7)}, "images are of shape () but must be"),
        ({"images": np.zeros((30, 0, 5), np.uint8)}, "it must hold at least one entry and as many as it says"),
        ({"test_images": np.zeros((6, 4, 4, 3), np.uint8)}, "training images are (4, 5, 3) but test images (4, 4, 3)"),
        ({"test_images": np.zeros((6, 4, 5), np.uint8)}, "training images are (4, 5, 3) but test images (4, 5, 1)"),
        ({"labels": np.arange(30) % 3 / 1}, "labels are float64 (30,) but must be whole numbers (N,)"),
        ({"labels": np.ones((30, 1), int)}, "labels are int64 (30, 1) but must be whole numbers (N,)"),
        ({"labels": np.arange(30) % 3 - 1}, "labels are from -1 to 1 but must be from 0 to 2"),
        ({"test_labels": np.full(6, 3)}, "test_labels are from 3 to 3 but must be from 0 to 2"),
        ({"labels": np.arange(30) * 2**40, "classes": None}, "labels are from 0 to 31885837205504 but must be from"),
        ({"labels": np.zeros(30, int), "test_labels": np.zeros(6, int), "classes": None}, "has 1 class but must have"),
        ({"classes": np.arange(3)}, "classes are int64 (3,) but must be strings (K,)"),
        ({"classes": np.array(["a", "b", "c" * 300])}, "classes are <U300 (3,) but must be strings (K,)"),
        ({"classes": np.array(["a", "b", "\udcff"])}, "a class is called '\\udcff' but must have a name in UTF-8"),
    ],
)  # fmt: skip
def test_bad_arrays_get_one_sentence(tmp_path, arrays, changes, message):
    path = saved(tmp_path, arrays | changes)
    with pytest.raises(InputError) as error:
        data.load_dataset(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_pickle_is_never_loaded(tmp_path, arrays):
    class Bad:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    path = saved(tmp_path, arrays | {"labels": np.array([Bad()] * 30)})
    with pytest.raises(InputError, match="labels holds Python objects, which need pickle"):
        data.load_dataset(path)


def npy(descr, shape, content=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("|u1", (30, 4, 5), bytes(599)), "images holds 599 bytes but its header says uint8 (30, 4, 5); it must"),
        (npy("|u1", (30, 4, 5), bytes(601)), "images holds 601 bytes but its header says uint8 (30, 4, 5); it must"),
        (npy("|u1", (30, 2**40, 2**40)), "images holds 0 bytes but its header says uint8 (30, 1099511627776, 10995"),
        (npy("|u1", (-30, -4, 5), bytes(600)), "images holds 600 bytes but its header says uint8 (-30, -4, 5); it"),
        (b"no array", "cannot be read (the magic string is not correct"),
        (b"", "cannot be read ("),
        (npy("|u1", (30, 4, 5), bytes(600))[:6] + b"\3" + bytes(900), "images is of version (3, 0) but must be"),
        (npy("|u1", (30, 4, 5)).replace(b"(30", b"(a0"), "(malformed node or string on line 1: ast.Name)"),
    ],
)  # fmt: skip
def test_a_header_is_checked_before_an_array_is_read(tmp_path, content, message):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", content)
        archive.writestr("labels.npy", npy("|u1", (30,), bytes(30)))
    with pytest.raises(InputError) as error:
        data.load_dataset(tmp_path / "bad.npz")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_archives_get_one_sentence(tmp_path, arrays):
    path = saved(tmp_path, arrays)
    content = path.read_bytes()
    at = content.index(arrays["images"].tobytes()[:16])
    for changed in (b"", b"no zip", content[:-40], content[:at] + b"damaged" + content[at + 7 :]):
        path.write_bytes(changed)
        with pytest.raises(InputError, match="some.npz: cannot be read .*; it must be a whole .npz file"):
            data.load_dataset(path)


def test_what_is_above_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """The stored size counts as the float32 size does."""
    arrays = {"images": np.zeros((30, 4, 5)), "labels": np.arange(30) % 3}
    path = saved(tmp_path, arrays, np.savez_compressed)
    monkeypatch.setattr(np.lib.format, "read_array", lambda *args, **options: pytest.fail("it was read"))
    monkeypatch.setattr(limits, "MAX_BYTES", 600 * 8 - 1)
    with pytest.raises(InputError, match="some.npz: 30 images of 4x5x1 take .* GiB but a data set may take at most"):
        data.load_dataset(path)
