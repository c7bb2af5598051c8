"""Nearest images, against distances computed one by one."""

import numpy as np
import pytest

from dcgan_dist.collapse import neighbours
from dcgan_dist.collapse.neighbours import near_distance, nearest, nearest_other, nearest_several
from dcgan_dist.collapse.pixels import Doubles, Pixels, check_pixels, mirrored_thumbnails, thumbnails


def apart(a: Pixels, b: Pixels) -> Doubles:
    """(N, M) root mean square differences."""
    distances: Doubles = np.sqrt(((a[:, None].astype(float) - b[None]) ** 2).mean(axis=2))
    return distances


@pytest.fixture
def images() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (60, 768), np.uint8)


@pytest.mark.parametrize("size", [7, 64, 100])
def test_the_nearest_in_whatever_pieces(images: Pixels, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_ROWS", size)
    monkeypatch.setattr(neighbours, "_COLUMNS", size)
    expected = apart(images[:20], images[20:])
    distance, place = nearest(images[:20], images[20:])
    np.testing.assert_array_equal(place, expected.argmin(axis=1))
    np.testing.assert_allclose(distance, expected.min(axis=1), rtol=1e-12)

    among = apart(images, images) + np.diag(np.full(60, np.inf))
    np.testing.assert_allclose(nearest_other(images), among.min(axis=1), rtol=1e-12)
    assert nearest(images[:3], images)[0].tolist() == [0, 0, 0]
    left_out = nearest(images[:3], images, left_out=np.array([0, -1, 2]))[0]
    np.testing.assert_allclose(left_out, [among[0].min(), 0, among[2].min()])


def test_distances_are_exact_at_the_ends_of_the_range() -> None:
    ends = np.array([[0] * 768, [255] * 768, [0] * 767 + [1], [255] * 767 + [254]], np.uint8)
    np.testing.assert_array_equal(nearest_other(ends), np.sqrt([1 / 768] * 4))
    assert nearest(ends[:1], ends[1:2])[0] == 255


def test_several_nearest_by_rising_distance(images: Pixels) -> None:
    distances, places = nearest_several(images[5], images, 4)
    expected = apart(images[5:6], images)[0]
    np.testing.assert_array_equal(places, expected.argsort()[:4])
    np.testing.assert_allclose(distances, np.sort(expected)[:4])
    assert places[0] == 5


def test_near_is_a_third_of_the_median() -> None:
    assert near_distance(np.array([3.0, 30, 33, 90, 1])) == 10


def test_thumbnails_are_area_averages() -> None:
    image = np.zeros((1, 32, 32, 1), np.uint8)
    image[0, :2, :2, 0] = [[10, 20], [30, 40]]
    assert thumbnails(image).shape == (1, 256)
    assert thumbnails(image)[0, 0] == 25
    small = np.random.default_rng(0).integers(0, 256, (2, 12, 14, 3), np.uint8)
    np.testing.assert_array_equal(thumbnails(small), small.reshape(2, -1))


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (12, 20, 3)])
def test_mirrored_thumbnails_are_those_of_mirrored_images(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    mirrored = mirrored_thumbnails(thumbnails(images), shape)
    np.testing.assert_allclose(mirrored, thumbnails(np.ascontiguousarray(images[:, :, ::-1])), atol=1)  # rounding


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((2, 32, 32)),
        np.zeros((2, 3, 32, 32), np.uint8),
        np.zeros((2, 10, 32, 3), np.uint8),
        np.zeros(3, np.uint8),
    ],
)
def test_what_is_no_image_is_refused(pixels: Pixels) -> None:
    with pytest.raises(
        ValueError, match=r"samples must be uint8 of shape \(N, H, W, 1 or 3\), H and W at least 11, got"
    ):
        check_pixels(pixels, "samples")
