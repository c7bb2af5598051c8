"""The colour of what is in a picture, as a point on the colour wheel; of grey pictures, their brightness."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.collapse.pixels import Doubles, Floats, Pixels, from_middle, hsv

MODES = 8
"""Clusters of the data's colours. On Flowers-17 they are yellows, whites, purples, pinks and greens; with twice as
many, neighbours differ by less than the light does."""
_BORDER = 1 / 8  # of the side: a frame of this width is taken for background
_MIDDLE = 0.5  # standard deviation of the weight of the picture's middle, in half sides
_CHUNK = 1024  # images at once: 150 MB at 64 pixels
_BLACK = 1e-3  # least weight of a whole picture, so that a black or plain one has a colour: none


@dataclass(frozen=True, kw_only=True)
class ColourMode:
    """A cluster of the data's colours."""

    hue: float
    """Degrees; 0 for grey data."""
    saturation: float
    """0 to 1; 0 for grey data."""
    brightness: float | None
    """0 to 1, for grey data."""
    data_share: float
    sample_share: float
    reached: bool
    """Whether samples have at least a quarter of the data's share."""


def mean_colours(hue: Floats, saturation: Floats, weight: Floats) -> Doubles:
    """(N, 2): weighted mean of s exp(i h) of N images with P pixels each, points of the colour wheel.

    Hues go round the circle: the mean of 350 and 10 degrees is 0.

    Args:
        hue: (N, P), degrees.
        saturation: (N, P), 0 to 1.
        weight: (N, P); an image without any has no colour.
    """
    angle = np.deg2rad(hue)
    axes = [(weight * saturation * turn(angle)).sum(axis=1, dtype=np.float64) for turn in (np.cos, np.sin)]
    means: Doubles = np.stack(axes, axis=1) / np.maximum(weight.sum(axis=1, dtype=np.float64), _BLACK)[:, None]
    return means


def is_grey(pixels: Pixels) -> bool:
    """Whether images (N, H, W, C) have no colour: one channel, or three that are equal."""
    return bool(np.all(pixels == pixels[..., :1]))


def brightness_points(pixels: Pixels) -> Doubles:
    """(N, 1): mean brightness of each image, 0 to 1."""
    means: Doubles = pixels.mean(axis=(1, 2, 3), dtype=np.float64)[:, None] / 255
    return means


def colour_points(pixels: Pixels) -> Doubles:
    """(N, 2): mean colour of the foreground of RGB images, as points of the colour wheel.

    A point's angle is the circular mean of hue, its distance from the middle the mean saturation where hues agree:
    it is the mean of s exp(i h). A pixel weighs as much as it is bright, differs in RGB from the mean of the image's
    border, and lies near the middle (Gaussian).
    """
    height, width = pixels.shape[1:3]
    near = np.exp(-((from_middle(height, width) / _MIDDLE) ** 2) / 2).astype(np.float32)
    border = _border(height, width)
    points = [_chunk_points(pixels[start : start + _CHUNK], near, border) for start in range(0, len(pixels), _CHUNK)]
    return np.concatenate(points)


def hue_and_saturation(points: Doubles) -> Doubles:
    """(N, 2): hue in degrees from 0 to 360 and saturation from 0 to 1 of points (N, 2) of the colour wheel."""
    angle = np.rad2deg(np.arctan2(points[:, 1], points[:, 0])) % 360
    return np.stack([angle, np.hypot(points[:, 0], points[:, 1])], axis=1)


def _border(height: int, width: int) -> NDArray[np.bool_]:
    down, right = (max(1, round(side * _BORDER)) for side in (height, width))
    border = np.ones((height, width), bool)
    border[down : height - down, right : width - right] = False
    return border


def _chunk_points(pixels: Pixels, near: NDArray[np.float32], border: NDArray[np.bool_]) -> Doubles:
    behind = pixels[:, border].mean(axis=1, dtype=np.float32)[:, None, None]
    contrast = np.linalg.norm(pixels - behind, axis=3) / np.float32(255)
    hue, saturation, value = hsv(pixels)
    weight = contrast * near * value
    return mean_colours(*(values.reshape(len(pixels), -1) for values in (hue, saturation, weight)))
