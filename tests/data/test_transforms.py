import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcgan_dist.data.transforms import Crop, Resize, Target, decode, decode_stored, encode_png, with_channels
from tests.data.made import file_of, noise


def target(size: int, channels: int = 3, *, crop: Crop = "none", resize: Resize = "area") -> Target:
    return Target(size, channels, crop, resize)


def grey_file(values: Any) -> bytes:
    return file_of(Image.fromarray(np.array(values, np.uint8)))


def test_area_takes_the_mean_of_what_a_pixel_covers() -> None:
    data = grey_file([[0, 100, 10, 10], [100, 200, 10, 10], [0, 0, 255, 255], [0, 0, 255, 255]])
    assert decode(data, target(2, 1))[:, :, 0].tolist() == [[100, 10], [0, 255]]


def test_bilinear_looks_at_the_nearest_four_alone() -> None:
    row = [0, 0, 0, 80, 40, 0, 0, 0] * 2  # 16 wide to 2: centres at 3.5 and 11.5, between 80 and 40
    assert decode(grey_file([row] * 16), target(2, 1, resize="bilinear"))[:, :, 0].tolist() == [[60, 60], [60, 60]]


def test_lanczos_is_pillows() -> None:
    image = Image.fromarray(noise(0, height=20, width=30))
    expected = np.asarray(image.resize((8, 8), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(decode(file_of(image), target(8, resize="lanczos")), expected)


def test_area_enlarges_by_bilinear() -> None:
    # centres of 4 pixels over 2: -0.25, 0.25, 0.75, 1.25; the outer ones stay at the border
    assert decode(grey_file([[0, 100]] * 2), target(4, 1))[0, :, 0].tolist() == [0, 25, 75, 100]


def test_squash_and_center_crop() -> None:
    data = grey_file([[0, 0, 50, 60, 0, 0], [0, 0, 70, 80, 0, 0]])
    assert decode(data, target(2, 1, crop="center"))[:, :, 0].tolist() == [[50, 60], [70, 80]]
    squashed = decode(data, target(2, 1))[:, :, 0].tolist()
    assert squashed == [[round(50 / 3), 20], [round(70 / 3), round(80 / 3)]]


def test_an_image_of_the_right_size_is_unchanged() -> None:
    pixels = noise(1)
    np.testing.assert_array_equal(decode(file_of(Image.fromarray(pixels)), target(8)), pixels)


MODES = {
    "transparent": (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), (255, 255, 255)),
    "half transparent": (Image.new("RGBA", (4, 4), (255, 0, 0, 51)), (255, 204, 204)),
    "grey with alpha": (Image.new("LA", (4, 4), (100, 255)), (100, 100, 100)),
    "palette": (Image.new("RGB", (4, 4), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE), (10, 200, 30)),
    "bilevel": (Image.new("1", (4, 4), 1), (255, 255, 255)),
    "16 bits": (Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)), (128, 128, 128)),
    "grey": (Image.new("L", (4, 4), 77), (77, 77, 77)),
}


@pytest.mark.parametrize("name", MODES)
def test_modes_become_rgb(name: str) -> None:
    image, expected = MODES[name]
    np.testing.assert_array_equal(decode(file_of(image), target(4)), np.broadcast_to(expected, (4, 4, 3)))


def test_cmyk_becomes_rgb() -> None:
    data = file_of(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), kind="TIFF")
    np.testing.assert_array_equal(decode(data, target(4)), np.broadcast_to((255, 0, 0), (4, 4, 3)))


def test_grey_is_itu_601_luma() -> None:
    # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    assert decode(file_of(Image.new("RGB", (4, 4), (200, 100, 50))), target(2, 1)).tolist() == [[[124]] * 2] * 2
    assert with_channels(np.full((1, 1, 3), (200, 100, 50), np.uint8), 1).tolist() == [[[124]]]


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert decode(buffer.getvalue(), target(2, 1)).tolist() == [[[10]] * 2] * 2


def test_exif_orientation_is_applied() -> None:
    image = Image.fromarray(np.repeat(np.repeat(np.array([[0, 255], [0, 255]], np.uint8), 8, 0), 8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    assert decode(buffer.getvalue(), target(2, 1))[:, :, 0].tolist() == [[0, 0], [255, 255]]


def test_a_large_jpeg_decodes_at_reduced_scale_close_to_the_whole() -> None:
    smooth = Image.fromarray(noise(2, height=8, width=8)).resize((800, 640), Image.Resampling.BICUBIC)
    exact = np.asarray(smooth.resize((32, 32), Image.Resampling.BOX), np.int16)
    assert np.abs(decode(file_of(smooth, kind="JPEG"), target(32)) - exact).mean() < 2


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has hardly any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9)))


JPEG = file_of(Image.fromarray(noise(3, height=64, width=64)), kind="JPEG")
BAD = {
    "a bomb": (png_header(50_000, 50_000), "more than 64,000,000"),
    "above the limit": (png_header(8_001, 8_000), "has 8001 x 8000 pixels, more than 64,000,000"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "half a PNG": (file_of(Image.fromarray(noise(3)))[:100], "cannot be decoded"),
    "text": (b"hello", "is not an image in one of the formats"),
    "nothing": (b"", "is not an image"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "is not an image"),
    "32 bits": (file_of(Image.fromarray(np.zeros((4, 4), np.float32)), kind="TIFF"), "no known white"),
}


@pytest.mark.parametrize("resize", ["area", "bilinear"])
@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused(name: str, resize: Resize) -> None:
    data, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        decode(data, target(8, resize=resize))


@pytest.mark.parametrize("channels", [1, 3])
def test_stored_png_is_lossless_and_deterministic(channels: int) -> None:
    pixels = noise(4)[:, :, :channels]
    data = encode_png(pixels)
    assert data == encode_png(pixels)
    np.testing.assert_array_equal(decode_stored(data, 8, channels=channels), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_stored_jpeg_and_webp_are_read(kind: str) -> None:
    data = file_of(Image.new("RGB", (8, 8), (250, 120, 10)), kind=kind)
    assert np.abs(decode_stored(data, 8, channels=3).astype(int) - (250, 120, 10)).max() <= 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (file_of(Image.new("RGB", (8, 9))), "must be 8 x 8 pixels, is 8 x 9"),
        (png_header(50_000, 50_000), "is 50000 x 50000"),
        (png_header(8, 8), "cannot be decoded"),
        (file_of(Image.new("L", (8, 8))), "must have 3 channels of 8 bits, has 1"),
        (file_of(Image.new("RGBA", (8, 8))), "must have 3 channels of 8 bits, has 4"),
        (file_of(Image.new("RGB", (8, 8)), kind="BMP"), "is not a PNG, JPEG or WEBP"),
        (b"", "is not a PNG"),
    ],
)
def test_stored_images_of_another_kind_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_stored(data, 8, channels=3)
