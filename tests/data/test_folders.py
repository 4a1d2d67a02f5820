"""Folders of images."""

import os

import numpy as np
import PIL.Image
import pytest

from jaxcnn import InputError
from jaxcnn.data import Streamed, fitted, limits, list_images, load_dataset, load_images, read_image


def put(path, image):
    """Write uint8 (H, W) or (H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path)


@pytest.fixture
def colour(tmp_path, rng):
    """train and test of three classes, in PNG; the images by their paths in the folder."""
    images = {
        f"{split}/{name}/{i:02}.png": rng.integers(0, 256, (5, 7, 3), np.uint8)
        for split, count in (("train", 4), ("test", 2))
        for name in ("žába", "ant", "猫 ☂")
        for i in range(count)
    }
    for path, image in images.items():
        put(tmp_path / path, image)
    return tmp_path, images


def test_train_and_test_are_read_in_the_order_of_their_names(colour):
    folder, images = colour
    dataset = load_dataset(folder)
    assert dataset.name == folder.name
    assert dataset.classes == ("ant", "žába", "猫 ☂")
    assert dataset.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.train_images.dtype == np.float32
    assert dataset.train_labels.dtype == np.int32
    for split, found in (("train", dataset.train_images), ("test", dataset.test_images)):
        expected = [image for path, image in sorted(images.items()) if path.startswith(split)]
        np.testing.assert_array_equal(found, np.stack(expected) / np.float32(255))


def test_one_folder_is_split_by_chance_a_fifth_of_each_class(tmp_path, rng):
    counts = {"a": 11, "b": 2, "c": 1}
    for name, count in counts.items():
        for i in range(count):
            put(tmp_path / name / f"{i}.png", np.full((2, 3), 16 * i + ord(name) - 97, np.uint8))
    listing = list_images(tmp_path)
    assert set(listing.train_paths).isdisjoint(listing.test_paths)
    assert len(listing.train_paths) + len(listing.test_paths) == 14
    assert np.bincount(listing.test_labels, minlength=3).tolist() == [2, 1, 0]
    for paths, labels in (
        (listing.train_paths, listing.train_labels),
        (listing.test_paths, listing.test_labels),
    ):
        assert [os.path.basename(os.path.dirname(path)) for path in paths] == [listing.classes[i] for i in labels]
    dataset = load_images(tmp_path)
    assert [np.rint(image.max() * 255) % 16 for image in dataset.test_images] == dataset.test_labels.tolist()
    assert list_images(tmp_path).test_paths == listing.test_paths


def test_train_alone_is_split_too_and_a_class_may_be_called_train(tmp_path):
    for name in ("a", "b"):
        for i in range(3):
            put(tmp_path / "one" / "train" / name / f"{i}.png", np.zeros((2, 3), np.uint8))
            put(tmp_path / "two" / ("train" if name == "a" else "car") / f"{i}.png", np.zeros((2, 3), np.uint8))
    assert load_dataset(tmp_path / "one").test_labels.tolist() == [0, 1]
    assert load_dataset(tmp_path / "two").classes == ("car", "train")


def test_nothing_is_decoded_to_list(colour):
    folder, images = colour
    for path in images:
        (folder / path).write_bytes(b"")
    assert len(list_images(folder).train_paths) == 12


def test_hidden_files_and_other_suffixes_are_left_out(colour):
    folder, _ = colour
    for name in (".hidden.png", "._a.png", "notes.txt", "Thumbs.db", "a.gif"):
        (folder / "train" / "ant" / name).write_bytes(b"no image")
    (folder / "train" / ".git").mkdir()
    (folder / "train" / "ant" / "deeper.png").mkdir()
    (folder / "LICENSE").write_text("free")
    put(folder / "train" / "ant" / "zz.PNG", np.zeros((5, 7, 3), np.uint8))
    put(folder / "train" / "ant" / "zzz.Jpeg", np.zeros((5, 7, 3), np.uint8))
    assert [os.path.basename(path) for path in list_images(folder).train_paths[:6]] == [
        "00.png", "01.png", "02.png", "03.png", "zz.PNG", "zzz.Jpeg",
    ]  # fmt: skip
    assert len(load_dataset(folder).train_images) == 14


def test_gray_stays_gray_where_all_are_gray_and_becomes_colour_where_one_is_not(tmp_path, rng):
    gray = rng.integers(0, 256, (6, 3, 4), np.uint8)
    for i, image in enumerate(gray):
        put(tmp_path / "ab"[i % 2] / f"{i}.png", image)
    assert load_dataset(tmp_path).in_shape == (3, 4, 1)
    put(tmp_path / "a" / "2.png", rng.integers(0, 256, (3, 4, 3), np.uint8))
    dataset = load_dataset(tmp_path)
    assert dataset.in_shape == (3, 4, 3)
    images = np.concatenate([dataset.train_images, dataset.test_images])
    assert sum(np.ptp(image, axis=2).max() > 0 for image in images) == 1


def test_several_sizes_need_a_size_and_get_it_as_one_image_does(tmp_path, rng):
    for name in "ab":
        for i in range(2):
            put(tmp_path / name / f"{i}.png", rng.integers(0, 256, (5 + i, 7), np.uint8))
    with pytest.raises(InputError) as error:
        load_dataset(tmp_path)
    sizes = {0: "5 pixels high and 7 wide", 1: "6 pixels high and 7 wide"}
    paths = list_images(tmp_path).train_paths
    first = int(paths[0][-5])
    assert f"0/{paths[0]} is {sizes[first]} but " in f"0/{error.value}"
    assert str(error.value).endswith(
        f"{6 - first} high and 7 wide; they must have one size, or be resized to one (--resize)"
    )
    dataset = load_dataset(tmp_path, resize=(4, 3))
    assert dataset.in_shape == (4, 3, 1)
    for image, path in zip(dataset.train_images, paths, strict=True):
        np.testing.assert_array_equal(image, fitted(read_image(path), (4, 3, 1)))


def remove(path):
    for file in path.iterdir():
        file.unlink()
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: remove(f / "train/ant"), "train/ant: holds no PNG or JPEG image but every class must have"),
        (lambda f: remove(f / "test/ant"), "test/ant: holds no PNG or JPEG image"),
        (lambda f: remove(f / "train/ant").rmdir(), "test has the class 'ant' but its classes must be among those of"),
        (lambda f: [remove(f / "train" / n).rmdir() for n in ("ant", "žába")], "has 1 class but must have at least 2"),
        (lambda f: (f / "test").rename(f / "val"), "holds train and 'val' but must hold train and test"),
        (lambda f: [remove(p).rmdir() for p in (f / "test").iterdir()], "test: holds no folder but must hold one for"),
        (lambda f: (f / "train/ant/01.png").write_bytes(b"GIF89a"), "train/ant/01.png: is no PNG or JPEG image"),
        (lambda f: put(f / "train/ant/01.png", np.zeros((2, 7), np.uint8)), "train/ant/00.png is 5 pixels high and 7"),
        (lambda f: (f / "test/ant").rename(f / "test/\udcff"), "has the class '\\udcff' but"),
        (lambda f: (f / "train/ant").rename(f / "train/\udcff"), "a class is called '\\udcff' but must"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_named(colour, change, message):
    folder, _ = colour
    change(folder)
    with pytest.raises(InputError) as error:
        load_dataset(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_above_the_limit_stays_in_its_files(colour, monkeypatch):
    folder, _ = colour
    whole = load_dataset(folder)
    monkeypatch.setattr(limits, "MAX_BYTES", 18 * 5 * 7 * 3 * 4 - 1)
    streamed = load_dataset(folder)
    assert isinstance(streamed.train_images, Streamed)
    assert streamed.in_shape == whole.in_shape
    np.testing.assert_array_equal(streamed.train_images[:], whole.train_images)
    np.testing.assert_array_equal(streamed.test_images[np.array([3, 0])], whole.test_images[[3, 0]])
    np.testing.assert_array_equal(streamed.test_images[1], whole.test_images[1])
    assert not isinstance(load_dataset(folder, resize=(2, 2)).train_images, Streamed)
