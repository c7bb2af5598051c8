"""Mean hue goes round the circle; the foreground decides; grey pictures have brightness."""

import numpy as np
import pytest

from dcgan_dist.collapse.colours import (
    brightness_points,
    colour_points,
    hue_and_saturation,
    is_grey,
    mean_colours,
)
from dcgan_dist.collapse.pixels import Pixels


def disc(colour: tuple[int, int, int], behind: tuple[int, int, int] = (40, 60, 40), size: int = 32) -> Pixels:
    """A disc of one colour on another."""
    axis = np.arange(size) + 0.5 - size / 2
    inside = np.hypot(axis[:, None], axis) < size / 4
    return np.where(inside[..., None], colour, behind).astype(np.uint8)


@pytest.mark.parametrize(
    ("hues", "weights", "mean"),
    [([350, 10], [1, 1], 0), ([350, 20], [1, 1], 5), ([0, 90], [1, 1], 45), ([10, 350, 350], [2, 1, 1], 0)],
)
def test_the_mean_of_hues_goes_round_the_circle(hues: list[float], weights: list[float], mean: float) -> None:
    hue, weight = np.array([hues], np.float32), np.array([weights], np.float32)
    point = mean_colours(hue, np.full_like(hue, 0.8), weight)
    found, saturation = hue_and_saturation(point)[0]
    assert (found - mean + 180) % 360 - 180 == pytest.approx(0, abs=1e-4)
    assert saturation == pytest.approx(0.8 * np.abs(np.average(np.exp(1j * np.deg2rad(hues)), weights=weights)))


def test_a_colour_is_that_of_the_foreground() -> None:
    # (200, 100, 0) has hue 30 and saturation 1; (120, 120, 240): 240 and 0.5; red's neighbours lie on both sides of 0.
    images = np.stack([disc((200, 100, 0)), disc((120, 120, 240)), disc((255, 0, 30)), disc((255, 30, 0))])
    found = hue_and_saturation(colour_points(images))
    np.testing.assert_allclose(found[:, 0], [30, 240, 353, 7], atol=2)
    np.testing.assert_allclose(found[:, 1], [1, 0.5, 1, 1], atol=0.02)


def test_two_hues_on_both_sides_of_red_mix_to_red() -> None:
    image = disc((255, 0, 40))
    image[:, 16:] = disc((255, 40, 0))[:, 16:]
    hue = hue_and_saturation(colour_points(image[None]))[0, 0]
    assert min(hue, 360 - hue) < 1


def test_black_white_and_noise_lie_in_the_middle_of_the_wheel() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    images = np.stack([np.zeros((32, 32, 3), np.uint8), disc((255, 255, 255)), noise])
    assert np.all(hue_and_saturation(colour_points(images))[:, 1] < 0.1)


def test_points_do_not_depend_on_the_company() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 12, 14, 3), np.uint8)
    np.testing.assert_array_equal(colour_points(images)[3], colour_points(images[3:4])[0])


def test_grey_is_grey_in_one_channel_or_three() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 1), np.uint8)
    assert is_grey(grey)
    assert is_grey(grey.repeat(3, axis=3))
    coloured = grey.repeat(3, axis=3)
    coloured[2, 5, 5, 0] ^= 1
    assert not is_grey(coloured)
    half = np.zeros((1, 12, 12, 1), np.uint8)
    half[:, :6] = 255
    assert brightness_points(half).tolist() == [[0.5]]
