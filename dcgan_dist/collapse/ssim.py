"""Multi-scale structural similarity (MS-SSIM) of pairs of images: 1 for equal images.

Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", Asilomar 2003; as a
measure of a GAN's variety, Odena, Olah and Shlens, "Conditional image synthesis with auxiliary classifier GANs", ICML
2017: the mean over pairs of samples, beside that over pairs of real images.

Differs from the paper: small images have fewer than its five scales (2 at 28 and 32 pixels, 3 at 64), with its first
weights divided by their sum. Colour: each channel by itself, then the mean, scale by scale, as torchmetrics does.
"""

from dataclasses import dataclass

import numpy as np

from dcgan_dist.collapse.pixels import Doubles, Pixels
from dcgan_dist.data.permute import permutation

WINDOW = 11
"""Side of the Gaussian window, pixels; where it would not lie inside the image, nothing is measured."""
_DEVIATION = 1.5  # of the window, pixels
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales from fine to coarse, the paper's
_C1, _C2 = 0.01**2, 0.03**2  # keep quotients of small numbers steady, the paper's; pixels are from 0 to 1
_PARTNERS = 2  # of each image; more pairs would tell little more, as they share images
_CHUNK = 128  # images at once: 100 MB at 64 pixels


@dataclass(frozen=True, eq=False)
class Level:
    """Images at one scale."""

    images: Doubles
    """(N, C, H, W), from 0 to 1."""
    means: Doubles
    """(N, C, H - 10, W - 10) under the window."""
    squares: Doubles
    """Likewise of the squared images."""


def scales(side: int) -> int:
    """How many scales an image whose smaller side is ``side`` is measured on: the window fits on the coarsest."""
    return sum(side >> scale >= WINDOW for scale in range(len(_WEIGHTS)))


def mean_similarity(pixels: Pixels, *, seed: int) -> float:
    """Mean MS-SSIM over 2 N pairs of N images (N, H, W, C), N at least 5.

    The pairs are those one and two apart on a ring in an order drawn by ``seed``: each image is in four. The standard
    error is about the pairs' deviation / sqrt(2 N), 0.002 for 1,024 images.
    """
    ring, total = permutation(len(pixels), seed), 0.0
    for start in range(0, len(ring), _CHUNK):
        count = min(_CHUNK, len(ring) - start)
        pieces = levels(pixels[ring[np.arange(start, start + count + _PARTNERS) % len(ring)]])
        first = [_rows(level, 0, count) for level in pieces]
        for apart in range(1, _PARTNERS + 1):
            total += similarities(first, [_rows(level, apart, count) for level in pieces]).sum()
    return float(total / (_PARTNERS * len(ring)))


def levels(pixels: Pixels) -> list[Level]:
    """Images (N, H, W, C) at each scale from fine to coarse, half the size each time."""
    images: Doubles = pixels.transpose(0, 3, 1, 2) / 255
    found = []
    for _ in range(scales(min(pixels.shape[1:3]))):
        found.append(Level(images, _blurred(images), _blurred(images * images)))
        images = _halved(images)
    return found


def similarities(a: list[Level], b: list[Level]) -> Doubles:
    """(N,) MS-SSIM, from 0 to 1, of each image of ``a`` and the one at the same place of ``b``."""
    weights = np.array(_WEIGHTS[: len(a)]) / sum(_WEIGHTS[: len(a)])
    product = np.ones(len(a[0].images))
    for scale, (x, y) in enumerate(zip(a, b, strict=True)):
        products = x.means * y.means
        of_both = x.means**2 + y.means**2
        structure = (2 * (_blurred(x.images * y.images) - products) + _C2) / (x.squares + y.squares - of_both + _C2)
        if scale == len(a) - 1:
            structure *= (2 * products + _C1) / (of_both + _C1)  # lightness counts on the coarsest only
        product *= np.maximum(structure.mean(axis=(1, 2, 3)), 0) ** weights[scale]  # a negative one has no root
    return product


def _rows(level: Level, start: int, count: int) -> Level:
    rows = slice(start, start + count)
    return Level(level.images[rows], level.means[rows], level.squares[rows])


def _blurred(x: Doubles) -> Doubles:
    """(N, C, H - 10, W - 10): means of (N, C, H, W) under the window."""
    found: Doubles = _window(x.shape[2]) @ x @ _window(x.shape[3]).T
    return found


def _window(side: int) -> Doubles:
    """(side - 10, side): each row a Gaussian of 11 pixels and sum 1, one pixel further on."""
    gauss = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * _DEVIATION**2))
    rows = np.zeros((side - WINDOW + 1, side))
    for row, values in enumerate(rows):
        values[row : row + WINDOW] = gauss / gauss.sum()
    return rows


def _halved(x: Doubles) -> Doubles:
    """Means over squares of 2 x 2 of (P, C, H, W); an odd last row or column is left out."""
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    x = x[:, :, :height, :width]
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
