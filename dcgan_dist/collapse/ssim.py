"""Multi-scale structural similarity (MS-SSIM) of pairs of images: 1 for equal images.

Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", Asilomar 2003; as a
measure of a GAN's variety, Odena, Olah and Shlens, "Conditional image synthesis with auxiliary classifier GANs", ICML
2017: the mean over pairs of samples, beside that over pairs of real images.

Differs from the paper: small images have fewer than its five scales (2 at 28 and 32 pixels, 3 at 64), with its first
weights divided by their sum. Colour: each channel by itself, then the mean, scale by scale, as torchmetrics does.
"""

import numpy as np

from dcgan_dist.collapse.pixels import Doubles, Integers, Pixels
from dcgan_dist.data.permute import permutation

WINDOW = 11
"""Side of the Gaussian window, pixels; where it would not lie inside the image, nothing is measured."""
_DEVIATION = 1.5  # of the window, pixels
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales from fine to coarse, the paper's
_C1, _C2 = 0.01**2, 0.03**2  # keep quotients of small numbers steady, the paper's; pixels are from 0 to 1
_PARTNERS = 4  # of each image; twice as many pairs for each would tell little more, as they share images
_CHUNK = 256  # pairs at once: 200 MB at 64 pixels


def scales(side: int) -> int:
    """How many scales an image whose smaller side is ``side`` is measured on: the window fits on the coarsest."""
    return sum(side >> scale >= WINDOW for scale in range(len(_WEIGHTS)))


def mean_similarity(pixels: Pixels, *, seed: int) -> float:
    """Mean MS-SSIM over 4 N pairs of N images (N, H, W, C), at least 6.

    The pairs are those of images one to four apart on a ring in an order drawn by ``seed``, so that each image is in
    eight; the standard error is about the pairs' deviation / sqrt(4 N).
    """
    ring = permutation(len(pixels), seed)
    first = np.tile(ring, _PARTNERS)
    second = np.concatenate([np.roll(ring, -distance) for distance in range(1, _PARTNERS + 1)])
    return float(similarities(pixels, first, second).mean())


def similarities(pixels: Pixels, first: Integers, second: Integers) -> Doubles:
    """(P,) MS-SSIM of the images ``first[i]`` and ``second[i]`` of (N, H, W, C), each from 0 to 1."""
    chunks = range(0, len(first), _CHUNK)
    parts = [_similarities(pixels[first[at : at + _CHUNK]], pixels[second[at : at + _CHUNK]]) for at in chunks]
    return np.concatenate(parts)


def _similarities(left: Pixels, right: Pixels) -> Doubles:
    count = scales(min(left.shape[1:3]))
    weights = np.array(_WEIGHTS[:count]) / sum(_WEIGHTS[:count])
    a, b = (pixels.transpose(0, 3, 1, 2) / 255 for pixels in (left, right))  # (P, C, H, W)
    product = np.ones(len(a))
    for scale, weight in enumerate(weights):
        whole, contrast = _terms(a, b)
        last = scale == count - 1
        product *= np.maximum(whole if last else contrast, 0) ** weight  # a negative one has no root
        if not last:
            a, b = _halved(a), _halved(b)
    return product


def _terms(a: Doubles, b: Doubles) -> tuple[Doubles, Doubles]:
    """(P,) means of SSIM and of its contrast and structure term over pixels and channels of (P, C, H, W)."""
    down, right = _window(a.shape[2]), _window(a.shape[3]).T

    def blurred(x: Doubles) -> Doubles:
        found: Doubles = down @ x @ right
        return found

    mean_a, mean_b = blurred(a), blurred(b)
    covariance = blurred(a * b) - mean_a * mean_b
    variances = blurred(a * a + b * b) - mean_a**2 - mean_b**2
    contrast = (2 * covariance + _C2) / (variances + _C2)
    whole = contrast * (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return whole.mean(axis=(1, 2, 3)), contrast.mean(axis=(1, 2, 3))


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
