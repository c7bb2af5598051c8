"""The one path from an image file's bytes to pixels of the size that is trained on, and the files in shards."""

import contextlib
import io
import logging
import math
import struct
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]
Crop = Literal["none", "center", "square"]
Resize = Literal["area", "bilinear", "lanczos"]
Format = Literal["png", "jpg", "webp"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""What is decoded. Nothing else is tried: Pillow would run Ghostscript on an EPS file."""
MAX_PIXELS = 64_000_000
"""An image whose header claims more is refused before anything is decoded."""
MAX_SIDE = 65_535
"""Pixels, as in a JPEG. Pillow's Lanczos takes memory for the number of pixels that one becomes."""
LARGE_PIXELS = 8_000_000
"""Images with more take hundreds of megabytes while they are decoded; a caller with many workers lets one at a time."""
SCALED_SIDE = 1.5
"""A JPEG is decoded at a half, a quarter or an eighth of its size while both sides keep so many times the target's."""
PNG_OPTIONS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 6),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FAST_FILTERS),
)
"""Of images in shards, all stated, because bytes must not depend on a default. Flowers of 64 px are encoded in 0.4 of
the time that zlib's default strategy takes, and are 1 % larger."""
JPEG_QUALITY = 95
"""Of ``jpg`` in shards, with colour at full resolution (4:4:4)."""
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it prints what it raises too
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@dataclass(frozen=True)
class Target:
    """What every image of a set is made into."""

    size: int
    """Height and width, pixels."""
    channels: int
    """3 for RGB, 1 for grey (ITU-R 601 luma)."""
    crop: Crop
    """none: the whole image is squashed to the square. center: the square in its middle is cut out first. square:
    the whole image is padded with black to a square, and so keeps its shape."""
    resize: Resize
    """area: mean of the pixels covered. bilinear: between the four nearest, no smoothing. lanczos: Pillow's."""
    format: Format = "png"
    """Of the files in shards. png and webp are lossless, jpg is not."""


def decode(data: bytes, target: Target, *, large: AbstractContextManager[None] | None = None) -> Pixels:
    """Pixels (size, size, channels) of an image file.

    Orientation from EXIF is applied, what is transparent lies on white, an animation gives its first frame, 16 bits
    become 8. A JPEG is decoded at a smaller size (SCALED_SIDE), except for ``bilinear``, which would not be plain any
    more.

    Args:
        data: The file.
        target: What it is made into.
        large: Entered while an image of more than LARGE_PIXELS is decoded.

    Raises:
        ValueError: If the file is damaged, cut short, too large (MAX_PIXELS) or of no known format.
    """
    # A decoder fed with broken files raises almost anything, struct.error and SyntaxError included; nothing but
    # memory running out is worth telling apart. Its warnings concern metadata, and sizes that are checked here.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image)
                if target.resize != "bilinear":
                    image.draft(None, (math.ceil(SCALED_SIDE * target.size),) * 2)
                is_large = image.width * image.height > LARGE_PIXELS
                with large if large and is_large else contextlib.nullcontext():
                    image.load()
                    _turn_upright(image)
                    return _fitted(image, target)
    except UnidentifiedImageError:
        raise ValueError(f"is not an image in one of the formats {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ValueError(f"has more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"cannot be decoded: {error}") from error


def with_channels(pixels: Pixels, channels: int) -> Pixels:
    """RGB pixels (H, W, 3) as (H, W, channels): unchanged for 3, ITU-R 601 luma for 1."""
    return pixels if channels == 3 else np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


def fitted(pixels: Pixels, target: Target) -> Pixels:
    """Pixels (size, size, channels) of an image that was stored as plain numbers, (H, W, 1 or 3)."""
    return _fitted(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels), target)


def encode(pixels: Pixels, kind: Format) -> bytes:
    """An image file of pixels (H, W, 1 or 3), the same bytes every time with the same version of OpenCV."""
    options = {
        "png": [*PNG_OPTIONS],
        "jpg": [
            *(cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY),
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
        ],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, 101],  # above 100: lossless
    }
    stored = pixels if pixels.shape[2] == 1 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, file = cv2.imencode(f".{kind}", stored, options[kind])
    assert done
    return bytes(file)


def decode_stored(data: bytes, size: int, *, channels: int) -> Pixels:
    """Pixels (size, size, channels) of an image in a shard: PNG, JPEG or WEBP of exactly that shape, as it is.

    Runs in many threads at once: OpenCV decodes without the interpreter's lock.

    Raises:
        ValueError: If the image is damaged, of another format or of another shape.
    """
    found = _stored_size(data)
    if found != (size, size):
        raise ValueError(f"must be {size} x {size} pixels, is {found[0]} x {found[1]}")
    if data.startswith(_PNG_START):
        _check_chunks(data)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"cannot be decoded: {error}") from error
    if pixels is None:
        raise ValueError("cannot be decoded")
    shaped: Pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if channels == 1 and data[8:12] == b"WEBP" and _is_grey(shaped):  # WEBP has no grey of its own
        shaped = shaped[:, :, :1]
    if shaped.shape[2] != channels or shaped.dtype != np.uint8:
        raise ValueError(f"must have {channels} channels of 8 bits, has {shaped.shape[2]} of {shaped.dtype}")
    return shaped if channels == 1 else shaped[:, :, ::-1]


def _stored_size(data: bytes) -> tuple[int, int]:
    """Width and height from the header alone, so that a lie about the size costs no memory."""
    if data.startswith(_PNG_START) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "WEBP")) as image:
            return image.size
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError("is not a PNG, JPEG or WEBP image") from error


def _check_chunks(data: bytes) -> None:
    """Raise ValueError unless a PNG's chunks lie inside it: OpenCV takes as much memory as a chunk says it has."""
    place = 8
    while place < len(data):
        kind = data[place + 4 : place + 8]
        place += 12 + int.from_bytes(data[place : place + 4], "big")
        if kind == b"IEND" and place <= len(data):
            return
    raise ValueError("cannot be decoded: is not a whole PNG file")


def _is_grey(pixels: Pixels) -> bool:
    return pixels.shape[2] == 3 and bool(np.all(pixels == pixels[:, :, :1]))


def _turn_upright(image: Image.Image) -> None:
    """Turn a loaded image as its EXIF says; leave it when that cannot be read."""
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"has {width} x {height} pixels, more than {MAX_PIXELS:,}")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"has {width} x {height} pixels, a side of more than {MAX_SIDE:,}")


def _fitted(image: Image.Image, target: Target) -> Pixels:
    """Pixels (size, size, channels)."""
    image = _flattened(image, target.channels)
    size, (width, height) = target.size, image.size
    if target.crop != "square" or width == height:
        shaped = _centre(image) if target.crop == "center" else image
        return _resized(shaped, (size, size), target.resize).reshape(size, size, target.channels)
    # shrunk first and padded then: a panorama's square could be larger than memory
    longest = max(width, height)
    inner_width, inner_height = (max(1, round(side * size / longest)) for side in (width, height))
    inner = _resized(image, (inner_width, inner_height), target.resize)
    left, top = (size - inner_width) // 2, (size - inner_height) // 2
    padded = np.zeros((size, size, target.channels), np.uint8)
    padded[top : top + inner_height, left : left + inner_width] = inner.reshape(inner_height, inner_width, -1)
    return padded


def _flattened(image: Image.Image, channels: int) -> Image.Image:
    """The image in mode RGB or L, 8 bits, opaque."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        values *= 255
        values += 32767
        values //= 65535
        image = Image.fromarray(values.astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits (mode {image.mode}) have no known white")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)  # convert copies even when there is nothing to do


def _centre(image: Image.Image) -> Image.Image:
    """The largest square in the middle."""
    width, height = image.size
    if width == height:
        return image
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _resized(image: Image.Image, size: tuple[int, int], resize: Resize) -> Pixels:
    """Pixels (height, width) or (height, width, 3); ``size`` is width and height, as Pillow's and OpenCV's."""
    if resize == "lanczos":
        return np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    pixels: Pixels = np.asarray(image)
    if resize == "area":  # each side that shrinks by area, then each side that grows by bilinear
        smaller = (min(image.width, size[0]), min(image.height, size[1]))
        pixels = cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA)
        if smaller == size:
            return pixels
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)  # type: ignore[no-any-return]
