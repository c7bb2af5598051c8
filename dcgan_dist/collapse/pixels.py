"""What the measures take: uint8 images (N, H, W, C); their thumbnails; colours as hue and saturation."""

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""Images (N, H, W, C), C 1 for grey or 3 for RGB, as shards hold them and ``sample_pixels`` makes them."""
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

SMALLEST_SIDE = 11
"""Pixels: MS-SSIM's window."""
THUMBNAIL_SIDE = 16
"""Pixels. Enough to tell two flowers or two digits; no more, because 16 * 16 * 3 is the largest size at which inner
products of thumbnails are exact in float32, see ``neighbours``."""


def check_pixels(pixels: Pixels, what: str) -> None:
    """Raise ValueError, naming ``what``, unless these are images that can be measured."""
    shape_is_right = pixels.ndim == 4 and pixels.shape[3] in (1, 3) and min(pixels.shape[1:3]) >= SMALLEST_SIDE
    if pixels.dtype != np.uint8 or not shape_is_right:
        raise ValueError(
            f"{what} must be uint8 of shape (N, H, W, 1 or 3), H and W at least {SMALLEST_SIDE}, "
            f"got {pixels.dtype} of shape {pixels.shape}"
        )


def thumbnails(pixels: Pixels) -> Pixels:
    """(N, D) uint8: area averages of at most 16 x 16 pixels, flattened; D is at most 768."""
    count, height, width, channels = pixels.shape
    size = (min(width, THUMBNAIL_SIDE), min(height, THUMBNAIL_SIDE))
    small = np.empty((count, size[1], size[0], channels), np.uint8)
    for place, image in enumerate(pixels):
        small[place] = cv2.resize(image, size, interpolation=cv2.INTER_AREA).reshape(small.shape[1:])
    return small.reshape(count, -1)


def mirrored_thumbnails(thumbs: Pixels, shape: tuple[int, int, int]) -> Pixels:
    """(N, D): the thumbnails of the same images, of ``shape`` (H, W, C), mirrored left to right."""
    width = min(shape[1], THUMBNAIL_SIDE)
    return np.ascontiguousarray(thumbs.reshape(len(thumbs), -1, width, shape[2])[:, :, ::-1]).reshape(thumbs.shape)


def hsv(pixels: Pixels) -> tuple[Floats, Floats, Floats]:
    """Hue in degrees, saturation and value from 0 to 1, each (N, H, W), of RGB (N, H, W, 3)."""
    flat = np.float32(pixels.reshape(-1, 1, 3)) / np.float32(255)
    converted = cv2.cvtColor(flat, cv2.COLOR_RGB2HSV).reshape(pixels.shape)
    return converted[..., 0], converted[..., 1], converted[..., 2]


def from_middle(height: int, width: int) -> Doubles:
    """(H, W): distance of each pixel from the picture's middle, in half sides."""
    down, right = ((np.arange(side) + 0.5) / side * 2 - 1 for side in (height, width))
    return np.hypot(down[:, None], right)
