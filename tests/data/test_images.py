"""One image: what is read is what a viewer shows."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from jaxcnn import InputError
from jaxcnn.data import fitted, images, read_image
from jaxcnn.data.images import resized


def encoded(image, kind="PNG", **options):
    if not isinstance(image, PIL.Image.Image):
        image = PIL.Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, raw, depth=8, colour=0):
    """A PNG file by hand: `raw` are its rows, each after the byte of its filter."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_comes_back_entry_by_entry_from_bytes_and_from_a_path(rng, tmp_path, channels):
    image = rng.integers(0, 256, (5, 7, channels), np.uint8)
    content = encoded(image if channels == 3 else image[..., 0])
    (tmp_path / "a.png").write_bytes(content)
    for source in (content, tmp_path / "a.png", str(tmp_path / "a.png")):
        found = read_image(source)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, image)


def test_a_jpeg_is_near_what_was_written():
    image = np.add.outer(np.arange(24) * 6, np.arange(16) * 5).astype(np.uint8)
    found = read_image(encoded(image, "JPEG", quality=95))
    assert found.shape == (24, 16, 1)
    assert np.abs(found[..., 0].astype(int) - image).max() <= 8  # a quarter of what quality 95 rounds the steepest to


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_the_orientation_of_the_camera_is_applied(kind, orientation):
    """EXIF 2.32, tag 274: where row 0 and column 0 of the stored image are; 9 is none of them."""
    seen = np.zeros((24, 16), np.uint8)
    seen[:8, :8] = 255  # a white block above on the left of what is to be seen
    stored = {
        1: seen, 2: seen[:, ::-1], 3: seen[::-1, ::-1], 4: seen[::-1], 5: seen.T, 6: np.rot90(seen),
        7: seen[::-1, ::-1].T, 8: np.rot90(seen, -1), 9: seen,
    }[orientation]  # fmt: skip
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    found = read_image(encoded(np.ascontiguousarray(stored), kind, exif=exif))
    np.testing.assert_array_equal(found[..., 0] > 127, seen > 127)


def test_an_orientation_that_cannot_be_read_is_none(rng):
    image = rng.integers(0, 256, (4, 6), np.uint8)
    np.testing.assert_array_equal(read_image(encoded(image, exif=b"Exif\0\0MM\0*broken"))[..., 0], image)
    np.testing.assert_array_equal(read_image(encoded(image, exif=b"Exif\0\0nothing"))[..., 0], image)


def test_a_palette_is_colour_and_its_transparent_entry_white(rng):
    index = rng.integers(0, 3, (4, 6), np.uint8)
    palette = rng.integers(0, 256, (3, 3), np.uint8)
    image = PIL.Image.fromarray(index)
    image.putpalette(palette.tobytes())
    np.testing.assert_array_equal(read_image(encoded(image)), palette[index])
    found = read_image(encoded(image, transparency=1))
    np.testing.assert_array_equal(found, np.where(index[..., None] == 1, 255, palette[index]))
    found = read_image(encoded(image, transparency=b"\xff\x00\xff"))
    np.testing.assert_array_equal(found, np.where(index[..., None] == 1, 255, palette[index]))


def test_what_is_transparent_is_put_on_white(rng):
    image = rng.integers(0, 256, (4, 6, 4), np.uint8)
    alpha = image[..., 3:] / 255
    expected = image[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(read_image(encoded(image)) - expected).max() <= 1
    gray = image[..., ::3].copy()
    found = read_image(encoded(PIL.Image.fromarray(gray)))
    assert found.shape == (4, 6, 1)
    assert np.abs(found - (gray[..., :1] * alpha + 255 * (1 - alpha))).max() <= 1


def test_deep_gray_black_and_white_and_cmyk_become_8_bits(rng):
    deep = rng.integers(0, 65536, (4, 6), np.uint16)
    deep[0, :3] = 0, 65535, 257
    found = read_image(encoded(deep))
    np.testing.assert_array_equal(found[..., 0], np.rint(deep / 257))
    flags = rng.random((4, 6)) < 0.5
    np.testing.assert_array_equal(read_image(encoded(flags))[..., 0], flags * 255)
    colour = np.zeros((16, 16, 3), np.uint8) + np.array([200, 40, 90], np.uint8)
    cmyk = encoded(PIL.Image.fromarray(colour).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(read_image(cmyk).astype(int) - colour).max() <= 4


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    side = 2**13
    with pytest.raises(InputError, match="^huge: has more than 67108864 pixels but must have at most as many$"):
        read_image(png(side, side + 1, b"\0"), "huge")
    with pytest.raises(InputError, match="^huge: has more than 67108864 pixels"):
        read_image(png(2**31 - 1, 2**31 - 1, b"\0"), "huge")
    with pytest.raises(InputError, match="^the image: has more than 67108864 pixels"):
        read_image(png(2**31, 2**31, b"\0"))
    monkeypatch.setattr(images, "MAX_PIXELS", 24)
    assert read_image(encoded(np.zeros((4, 6), np.uint8))).shape == (4, 6, 1)
    with pytest.raises(InputError, match="has more than 24 pixels"):
        read_image(encoded(np.zeros((5, 5), np.uint8)))


def test_the_way_to_a_size_is_bounded_too():
    thin = np.zeros((2**20, 1, 1), np.uint8)
    with pytest.raises(
        InputError, match="^thin.png: is 1048576 pixels high and 1 wide, which is too far from 8 and 96"
    ):
        resized(thin, (8, 96), "thin.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the image: is no PNG or JPEG image, which it must be"),
        (b"GIF89a" + bytes(40), "the image: is no PNG or JPEG image"),
        (encoded(np.zeros((4, 4), np.uint8), "GIF"), "the image: is no PNG or JPEG image"),
        (encoded(np.zeros((40, 40), np.uint8), "JPEG")[:-20], "the image: cannot be read (image file is truncated"),
        (png(40, 40, bytes(41 * 40))[:-20], "the image: cannot be read ("),
        (png(0, 4, b""), "the image: is no PNG or JPEG image"),
    ],
)  # fmt: skip
def test_bad_images_get_one_sentence(content, message):
    with pytest.raises(InputError) as error:
        read_image(content)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "0x" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="a.png: cannot be read .No such file or directory.; it must be a whole PNG"):
        read_image(tmp_path / "a.png")


def test_resizing_averages_what_is_larger_and_goes_between_what_is_smaller(rng):
    image = rng.integers(0, 256, (8, 12, 3), np.uint8)
    small, floating = resized(image, (2, 3)), resized(image / 255, (2, 3))
    assert small.shape == (2, 3, 3)
    assert small.dtype == np.uint8
    assert floating.dtype == np.float64
    np.testing.assert_allclose(small / 255, floating, atol=1 / 255)  # two roundings, one for each side
    np.testing.assert_allclose(resized(np.full((9, 5, 1), 0.25), (2, 7)), 0.25, atol=1e-6)
    ramp = np.arange(4, dtype=np.uint8)[:, None, None] * np.uint8(64)
    assert resized(ramp, (8, 1)).ravel().tolist() == [0, 16, 48, 80, 112, 144, 176, 192]
    assert resized(image, (8, 12)) is image


def test_an_image_is_fitted_to_the_channels_of_a_network(rng):
    image = rng.integers(0, 256, (4, 5, 3), np.uint8)
    np.testing.assert_allclose(fitted(image, (4, 5, 3)), image / 255, rtol=1e-6)
    gray = fitted(image, (4, 5, 1))
    assert gray.dtype == np.float32
    np.testing.assert_allclose(gray[..., 0], image @ [0.299, 0.587, 0.114] / 255, rtol=1e-5)
    colour = fitted(image[..., :1], (4, 5, 3))
    np.testing.assert_array_equal(colour, np.repeat(colour[..., :1], 3, axis=2))
    assert fitted(image, (2, 2, 1)).shape == (2, 2, 1)
    assert fitted(image / 255, (4, 5, 3)).dtype == np.float32


@pytest.mark.parametrize(
    ("image", "shape", "message"),
    [
        (np.zeros((4, 4), np.uint8), (4, 4, 1), "an image is uint8 (4, 4) but must be uint8, or floating"),
        (np.zeros((4, 4, 1), int), (4, 4, 1), "an image is int64 (4, 4, 1) but must be"),
        (np.zeros((4, 4, 2), np.uint8), (4, 4, 1), "an image is uint8 (4, 4, 2) but must be"),
        (np.zeros((4, 4, 1), np.uint8), (4, 4, 2), "the shape of an image is (4, 4, 2) but must be (H, W, 1) or"),
        (np.zeros((4, 4, 1), np.uint8), (16,), "the shape of an image is (16,) but must be (H, W, 1) or"),
        (np.zeros((4, 4, 1), np.uint8), (0, 4, 1), "resize is (0, 4) but must be None or height and width"),
    ],
)
def test_what_cannot_be_fitted_is_named(image, shape, message):
    with pytest.raises(InputError) as error:
        fitted(image, shape)
    assert message in str(error.value)
