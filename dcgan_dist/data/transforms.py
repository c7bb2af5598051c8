"""The one path from an image file's bytes to pixels of the size that is trained on, and shards' own PNG."""

import io
import struct
import warnings
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]
Crop = Literal["none", "center"]
Resize = Literal["area", "bilinear", "lanczos"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""What is decoded. Nothing else is tried: Pillow would run Ghostscript on an EPS file."""
MAX_PIXELS = 64_000_000
"""An image whose header claims more is refused before anything is decoded."""
PNG_COMPRESSION = 6
"""zlib's level in shards; a constant, because the bytes of a shard must not depend on a default."""
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@dataclass(frozen=True)
class Target:
    """What every image of a set is made into."""

    size: int
    """Height and width, pixels."""
    channels: int
    """3 for RGB, 1 for grey (ITU-R 601 luma)."""
    crop: Crop
    """none: the whole image is squashed to the square. center: the square in its middle is cut out first."""
    resize: Resize
    """area: mean of the pixels covered. bilinear: between the four nearest, no smoothing. lanczos: Pillow's."""


def decode(data: bytes, target: Target) -> Pixels:
    """Pixels (size, size, channels) of an image file.

    Orientation from EXIF is applied, what is transparent lies on white, an animation gives its first frame. A JPEG
    is decoded at a half, a quarter or an eighth of its size as long as both sides keep twice the target's, except
    for ``bilinear``, which would not be plain any more.

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
                    image.draft(None, (2 * target.size, 2 * target.size))
                return _resized(_cropped(_flattened(_upright(image), target.channels), target.crop), target)
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


def encode_png(pixels: Pixels) -> bytes:
    """A PNG file of pixels (H, W, 1 or 3), the same bytes every time."""
    stored = pixels if pixels.shape[2] == 1 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, png = cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])
    assert done
    return bytes(png)


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


def _upright(image: Image.Image) -> Image.Image:
    """``image`` turned as its EXIF says; as it is when that cannot be read."""
    image.load()  # so that what is caught below concerns metadata alone
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"has {width} x {height} pixels, more than {MAX_PIXELS:,}")


def _flattened(image: Image.Image, channels: int) -> Image.Image:
    """The image in mode RGB or L, 8 bits, opaque."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits (mode {image.mode}) have no known white")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _cropped(image: Image.Image, crop: Crop) -> Image.Image:
    if crop == "none":
        return image
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _resized(image: Image.Image, target: Target) -> Pixels:
    """Pixels (size, size, channels)."""
    size = (target.size, target.size)
    if target.resize == "lanczos":
        pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    elif target.resize == "bilinear":
        pixels = cv2.resize(np.asarray(image), size, interpolation=cv2.INTER_LINEAR)
    else:  # each side that shrinks by area, then each side that grows by bilinear
        width, height = image.size
        shrunk = cv2.resize(
            np.asarray(image), (min(width, target.size), min(height, target.size)), interpolation=cv2.INTER_AREA
        )
        pixels = cv2.resize(shrunk, size, interpolation=cv2.INTER_LINEAR)
    return pixels.reshape(target.size, target.size, target.channels)
