import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from dcgan_dist.data import transforms
from dcgan_dist.data.transforms import (
    Crop,
    Format,
    Resize,
    Target,
    decode,
    decode_stored,
    encode,
    fitted,
    with_channels,
)
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


@pytest.mark.parametrize("resize", ["area", "bilinear", "lanczos"])
def test_square_pads_with_black(resize: Resize) -> None:
    wide = grey_file(np.full((2, 8), 200))
    assert decode(wide, target(4, 1, crop="square", resize=resize))[:, :, 0].tolist() == [
        [0, 0, 0, 0],
        [200, 200, 200, 200],  # 4 x 1 pixels have the shape of 8 x 2
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    tall = file_of(Image.new("RGB", (2, 4), (10, 20, 30)))
    padded = decode(tall, target(8, crop="square", resize=resize))
    assert (padded[:, 2:6] == (10, 20, 30)).all()
    assert not padded[:, [0, 1, 6, 7]].any()


def test_a_panorama_is_padded_in_little_memory() -> None:
    pixels = decode(grey_file(np.full((1, 60_000), 9)), target(8, 1, crop="square"))
    assert pixels[:, :, 0].tolist() == [[0] * 8] * 3 + [[9] * 8] + [[0] * 8] * 4


def test_plain_numbers_go_the_same_way_as_files() -> None:
    pixels = noise(5, height=20, width=10)
    for crop, resize in (("none", "area"), ("center", "bilinear"), ("square", "lanczos")):
        for channels in (1, 3):
            chosen = target(7, channels, crop=crop, resize=resize)  # type: ignore[arg-type]
            np.testing.assert_array_equal(fitted(pixels, chosen), decode(file_of(Image.fromarray(pixels)), chosen))
    grey = pixels[:, :, :1]
    np.testing.assert_array_equal(fitted(grey, target(7)), np.repeat(fitted(grey, target(7, 1)), 3, 2))


def test_an_image_of_the_right_size_is_unchanged() -> None:
    pixels = noise(1)
    np.testing.assert_array_equal(decode(file_of(Image.fromarray(pixels)), target(8)), pixels)


def palette(*, transparent: bool) -> bytes:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, 10, 200, 30])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **({"transparency": 1} if transparent else {}))
    return buffer.getvalue()


def wide_rgb_png() -> bytes:
    """16 bits a channel, which Pillow cannot write."""
    done, data = cv2.imencode(".png", np.full((4, 4, 3), (0x1E00, 0xC800, 0x0AFF), np.uint16))  # blue, green, red
    assert done
    return bytes(data)


def filled(mode: str, value: Any, *, kind: str = "PNG") -> bytes:
    return file_of(Image.new(mode, (4, 4), value), kind=kind)


MODES: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "grey": (filled("L", 77), (77, 77, 77)),
    "bilevel": (filled("1", 1), (255, 255, 255)),
    "bilevel TIFF": (filled("1", 1, kind="TIFF"), (255, 255, 255)),
    "palette": (palette(transparent=False), (10, 200, 30)),
    "palette with a transparent colour": (palette(transparent=True), (255, 255, 255)),
    "palette GIF": (filled("P", 0, kind="GIF"), (0, 0, 0)),
    "transparent": (filled("RGBA", (255, 0, 0, 0)), (255, 255, 255)),
    "half transparent": (filled("RGBA", (255, 0, 0, 51)), (255, 204, 204)),
    "half transparent TIFF": (filled("RGBA", (255, 0, 0, 51), kind="TIFF"), (255, 204, 204)),
    "transparent WEBP": (filled("RGBA", (255, 0, 0, 0), kind="WEBP"), (255, 255, 255)),
    "grey with alpha": (filled("LA", (100, 255)), (100, 100, 100)),
    "grey, half transparent": (filled("LA", (0, 51)), (204, 204, 204)),
    "16 bits": (file_of(Image.fromarray(np.full((4, 4), 128 * 257, np.uint16))), (128, 128, 128)),
    "16 bits, rounded": (file_of(Image.fromarray(np.full((4, 4), 128 * 257 + 129, np.uint16))), (129, 129, 129)),
    "16 bits TIFF": (file_of(Image.fromarray(np.full((4, 4), 65535, np.uint16)), kind="TIFF"), (255, 255, 255)),
    "16 bits TIFF, big-endian": (
        file_of(Image.frombytes("I;16B", (4, 4), b"\x80\x80" * 16), kind="TIFF"),
        (128, 128, 128),
    ),
    "16 bits a colour": (wide_rgb_png(), (10, 200, 30)),
    "CMYK TIFF": (filled("CMYK", (0, 255, 255, 0), kind="TIFF"), (255, 0, 0)),
    "CMYK with black": (filled("CMYK", (0, 0, 0, 255), kind="TIFF"), (0, 0, 0)),
    "BMP": (filled("RGB", (1, 2, 3), kind="BMP"), (1, 2, 3)),
}


@pytest.mark.parametrize("resize", ["area", "bilinear", "lanczos"])
@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb_and_grey(name: str, resize: Resize) -> None:
    data, expected = MODES[name]
    np.testing.assert_array_equal(decode(data, target(4, resize=resize)), np.broadcast_to(expected, (4, 4, 3)))
    red, green, blue = expected
    luma = round(0.299 * red + 0.587 * green + 0.114 * blue)
    assert decode(data, target(4, 1, resize=resize)).tolist() == [[[luma]] * 4] * 4


@pytest.mark.parametrize(("ink", "expected"), [((0, 255, 255, 0), (254, 0, 0)), ((255, 0, 0, 0), (0, 255, 255))])
def test_cmyk_jpegs_are_not_taken_for_their_negatives(
    ink: tuple[int, int, int, int], expected: tuple[int, int, int]
) -> None:
    data = file_of(Image.new("CMYK", (16, 16), ink), kind="JPEG")  # Adobe's way: stored inverted
    assert np.abs(decode(data, target(4)).astype(int) - expected).max() <= 2


def test_a_photograph_with_a_second_picture_gives_the_first() -> None:
    first, second = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    buffer = io.BytesIO()
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    assert np.abs(decode(buffer.getvalue(), target(4)).astype(int) - (254, 0, 0)).max() <= 2


def test_grey_is_itu_601_luma() -> None:
    # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    assert decode(file_of(Image.new("RGB", (4, 4), (200, 100, 50))), target(2, 1)).tolist() == [[[124]] * 2] * 2
    assert with_channels(np.full((1, 1, 3), (200, 100, 50), np.uint8), 1).tolist() == [[[124]]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    options = {"lossless": True} if kind == "WEBP" else {}
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(buffer).n_frames == 2  # type: ignore[attr-defined]
    assert decode(buffer.getvalue(), target(2, 1)).tolist() == [[[10]] * 2] * 2


@pytest.mark.parametrize("resize", ["area", "bilinear", "lanczos"])
@pytest.mark.parametrize("crop", ["none", "center", "square"])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_one_pixel_fills_the_whole(kind: str, crop: Crop, resize: Resize) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), (10, 20, 30)).save(buffer, kind, **options)
    np.testing.assert_array_equal(
        decode(buffer.getvalue(), target(4, crop=crop, resize=resize)), np.full((4, 4, 3), (10, 20, 30))
    )


@pytest.mark.parametrize("resize", ["area", "bilinear", "lanczos"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_20_000_pixels_wide(kind: str, resize: Resize) -> None:
    row = np.repeat(np.array([40, 80, 120, 160], np.uint8), 5000)
    data = file_of(Image.fromarray(np.tile(row, (16, 1))), kind=kind)
    squashed = decode(data, target(4, 1, resize=resize))[:, :, 0]
    assert np.abs(squashed.astype(int) - [40, 80, 120, 160]).max() <= 2  # Lanczos overshoots
    middle = decode(data, target(4, 1, crop="center", resize=resize))[:, :, 0]  # 16 x 16, on both sides of an edge
    assert np.abs(middle.astype(int) - [80, 80, 120, 120]).max() <= 4
    padded = decode(data, target(8, 1, crop="square", resize=resize))[:, :, 0]
    assert [row.any() for row in padded] == [False, False, False, True, False, False, False, False]


def test_the_longest_side_a_jpeg_can_have_is_read() -> None:
    for size in ((65_535, 2), (2, 65_535)):
        data = file_of(Image.new("L", size, 77))
        for resize in ("area", "bilinear", "lanczos"):
            assert decode(data, target(4, 1, resize=resize)).tolist() == [[[77]] * 4] * 4


UPRIGHT = {1: "abcd", 2: "badc", 3: "dcba", 4: "cdab", 5: "acbd", 6: "cadb", 7: "dbca", 8: "bdac"}
"""What the stored square of the quarters a b / c d is to be seen as, by its EXIF orientation."""


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    greys = {"a": 0, "b": 80, "c": 160, "d": 240}
    quarters = np.array([[greys["a"], greys["b"]], [greys["c"], greys["d"]]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(quarters.repeat(64, 0).repeat(64, 1)).save(buffer, kind, exif=exif)
    seen = decode(buffer.getvalue(), target(2, 1)).ravel()  # the JPEG is decoded at an eighth
    assert np.abs(seen.astype(int) - [greys[quarter] for quarter in UPRIGHT[orientation]]).max() <= 2


def test_broken_exif_is_no_reason_to_refuse_an_image() -> None:
    buffer = io.BytesIO()
    Image.new("L", (16, 16), 50).save(buffer, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(buffer.getvalue(), target(2, 1)).tolist() == [[[50]] * 2] * 2


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "LARGE_PIXELS", 63)
    entered = []

    @contextlib.contextmanager
    def lock() -> Iterator[None]:
        entered.append(True)
        yield

    decode(file_of(Image.fromarray(noise(1, height=7, width=9))), target(4), large=lock())
    assert entered == []
    decode(file_of(Image.fromarray(noise(1))), target(4), large=lock())
    assert entered == [True]
    large = file_of(Image.new("L", (64, 64)), kind="JPEG")
    decode(large, target(2), large=lock())  # an eighth of it: 8 x 8
    assert entered == [True, True]


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
    "20,000 x 20,000": (png_header(20_000, 20_000), "more than 64,000,000"),
    "a long line": (file_of(Image.new("1", (65_536, 1))), "has 65536 x 1 pixels, a side of more than 65,535"),
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
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_stored_png_and_webp_are_lossless_and_deterministic(kind: Format, channels: int) -> None:
    pixels = noise(4)[:, :, :channels]
    data = encode(pixels, kind)
    assert data == encode(pixels, kind)
    np.testing.assert_array_equal(decode_stored(data, 8, channels=channels), pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_stored_jpg_is_close(channels: int) -> None:
    smooth = np.asarray(Image.fromarray(noise(4, height=4, width=4)).resize((32, 32), Image.Resampling.BICUBIC))
    pixels = smooth[:, :, :channels]
    stored = decode_stored(encode(pixels, "jpg"), 32, channels=channels)
    assert np.abs(stored.astype(int) - pixels).mean() < 2


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_stored_jpeg_and_webp_of_others_are_read(kind: str) -> None:
    data = file_of(Image.new("RGB", (8, 8), (250, 120, 10)), kind=kind)
    assert np.abs(decode_stored(data, 8, channels=3).astype(int) - (250, 120, 10)).max() <= 4


def test_a_coloured_webp_is_not_taken_for_grey() -> None:
    with pytest.raises(ValueError, match="must have 1 channels of 8 bits, has 3"):
        decode_stored(encode(noise(1), "webp"), 8, channels=1)


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
