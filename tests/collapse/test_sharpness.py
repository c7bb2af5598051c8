"""The variance of the Laplacian, by hand and on blur and noise."""

import cv2
import numpy as np
import pytest

from dcgan_dist.collapse.sharpness import median_sharpness
from tests.collapse.made import flowers


@pytest.mark.parametrize("channels", [1, 3])
def test_a_single_bright_pixel_by_hand(channels: int) -> None:
    pixels = np.zeros((1, 11, 11, channels), np.uint8)
    pixels[0, 5, 5] = 10  # its Laplacian is -40, its four neighbours' 10; the mean is 0
    assert median_sharpness(pixels) == pytest.approx((40**2 + 4 * 10**2) / 121)


def test_it_is_the_median_over_images() -> None:
    pixels = np.zeros((3, 11, 11, 1), np.uint8)
    pixels[1, 5, 5], pixels[2, 5, 5] = 10, 200
    assert median_sharpness(pixels) == pytest.approx(2000 / 121)


def test_blur_has_less_and_noise_more() -> None:
    data, _ = flowers(100)
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), 2) for image in data])
    noise = np.random.default_rng(0).integers(-40, 40, data.shape)
    noisy = np.clip(data + noise, 0, 255).astype(np.uint8)
    assert 3 * median_sharpness(blurred) < median_sharpness(data) < median_sharpness(noisy) / 3
