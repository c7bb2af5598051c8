"""Between a model's value range and uint8 pixels; grids of images; PNG files."""

import io
import math
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.files import write_whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CELL_PIXELS = 64
"""Images smaller than this are enlarged in a grid, by a whole factor."""
MARGIN_PIXELS = 2
"""White line between the images of a grid and around it."""


def to_images(pixels: "Tensor", value_range: tuple[float, float], *, dtype: "torch.dtype") -> "Tensor":
    """Images of type ``dtype``, any shape, from uint8 pixels: 0 is the low end of ``value_range``, 255 the high."""
    low, high = value_range
    return pixels.to(dtype) / 255 * (high - low) + low


def to_pixels(images: "Tensor", value_range: tuple[float, float]) -> "Tensor":
    """Pixels, uint8, the nearest to float ``images`` of any shape; what lies outside ``value_range`` is clamped."""
    import torch

    low, high = value_range
    exact = images.to(torch.promote_types(images.dtype, torch.float32))
    return ((exact - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)


def grid(pixels: NDArray[np.uint8], columns: int | None = None, *, scale: int | None = None) -> NDArray[np.uint8]:
    """One picture (height, width, 3) of all images, row by row with a thin white margin; grey becomes RGB.

    Args:
        pixels: (N, H, W, C) with C 1 or 3.
        columns: Images in a row; by default as many as make the grid square.
        scale: Whole factor of enlargement (nearest); by default what makes an image at least CELL_PIXELS wide.

    Raises:
        ValueError: If there is no image, or the shape is another.
    """
    if pixels.ndim != 4 or 0 in pixels.shape or pixels.shape[3] not in (1, 3):
        raise ValueError(f"a grid needs images of shape (N, H, W, 1 or 3), at least one, got {pixels.shape}")
    count, height, width, _ = pixels.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    scale = scale or math.ceil(CELL_PIXELS / width)
    cell_height, cell_width = height * scale + MARGIN_PIXELS, width * scale + MARGIN_PIXELS
    rows = math.ceil(count / columns)
    picture = np.full((rows * cell_height + MARGIN_PIXELS, columns * cell_width + MARGIN_PIXELS, 3), 255, np.uint8)
    for position, image in enumerate(pixels):
        top = position // columns * cell_height + MARGIN_PIXELS
        left = position % columns * cell_width + MARGIN_PIXELS
        picture[top : top + height * scale, left : left + width * scale] = image.repeat(scale, 0).repeat(scale, 1)
    return picture


def write_png(path: str | PathLike[str], pixels: NDArray[np.uint8]) -> None:
    """Write ``pixels``, (H, W) grey or (H, W, 3) RGB, as a PNG file that is whole or absent.

    Raises:
        OSError: If the file cannot be written.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    write_whole(Path(path), buffer.getvalue())
