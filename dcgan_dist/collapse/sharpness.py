"""Sharpness of images: the variance of the Laplacian.

Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000 ("LAPV"). Blurred
images have little of it, noise has the most: so neither end is good, and samples ought to have what the data have. It
depends on the size of the images.
"""

import cv2
import numpy as np

from dcgan_dist.collapse.pixels import Pixels


def median_sharpness(pixels: Pixels) -> float:
    """Median over images (N, H, W, C) of the variance of the Laplacian of their brightness, grey levels squared."""
    return float(np.median([cv2.Laplacian(_brightness(image), cv2.CV_64F).var() for image in pixels]))


def _brightness(image: Pixels) -> Pixels:
    """(H, W) of one image (H, W, C)."""
    return image[..., 0] if image.shape[2] == 1 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
