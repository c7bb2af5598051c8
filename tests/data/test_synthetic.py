"""Synthetic flowers: a known distribution of modes, and pictures that depend on seed, index and size alone."""

import math
import subprocess
import sys

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dcgan_dist.data.synthetic import COLOURS, MODES, Pixels, draw_flower, mode_of


def of_mode(label: int, *, count: int, size: int) -> list[Pixels]:
    indices = [index for index in range(6000) if mode_of(index, seed=5) == label][:count]
    assert len(indices) == count
    return [draw_flower(index, seed=5, size=size)[0] for index in indices]


def petal_pixels(image: Pixels) -> Pixels:
    """The pixels (n, 3) of a ring outside the flower's centre and inside its petals' tips."""
    axis = np.arange(len(image)) + 0.5 - len(image) / 2
    distance = np.hypot(axis, axis[:, None]) / (len(image) / 2)
    ring: Pixels = image[(distance > 0.3) & (distance < 0.6)]
    return ring


def yellow(image: Pixels) -> NDArray[np.bool_]:
    """Where ``image`` (H, W, 3) is yellow as petals are."""
    hue, saturation, value = np.moveaxis(cv2.cvtColor(np.float32(image) / 255, cv2.COLOR_RGB2HSV), 2, 0)
    found: NDArray[np.bool_] = (np.abs(hue - 48) < 15) & (saturation > 0.5) & (value > 0.5)
    return found


def test_there_are_24_modes_and_labels_are_their_places() -> None:
    assert len(MODES) == 24
    assert len({mode.name for mode in MODES}) == 24
    assert MODES[0].name == "yellow-3-round"
    assert MODES[23].name == "red-8-pointed"


def test_shares_sum_to_one_and_are_as_skewed_as_documented() -> None:
    assert math.fsum(mode.share for mode in MODES) == pytest.approx(1, abs=1e-12)
    by_colour = {c.name: math.fsum(mode.share for mode in MODES if mode.colour is c) for c in COLOURS}
    assert by_colour == pytest.approx({"yellow": 0.40, "purple": 0.30, "white": 0.18, "red": 0.12})
    by_petals = {n: math.fsum(mode.share for mode in MODES if mode.petals == n) for n in (3, 5, 8)}
    assert by_petals == pytest.approx({3: 0.2, 5: 0.5, 8: 0.3})
    assert math.fsum(mode.share for mode in MODES if mode.shape == "round") == pytest.approx(0.6)
    shares = {mode.name: mode.share for mode in MODES}
    assert max(shares, key=shares.__getitem__) == "yellow-5-round"
    assert shares["yellow-5-round"] == pytest.approx(0.12)  # 0.4 * 0.5 * 0.6
    assert min(shares, key=shares.__getitem__) == "red-3-pointed"
    assert shares["red-3-pointed"] == pytest.approx(0.0096)  # 0.12 * 0.2 * 0.4


def test_modes_are_drawn_by_their_shares() -> None:
    count = 3000
    counts = np.bincount([mode_of(index, seed=0) for index in range(count)], minlength=len(MODES))
    # The standard deviation of a count is sqrt(3000 p (1 - p)): 17.8 for the commonest mode (360 expected), 5.3 for
    # the rarest (28.8 expected). Four of them on either side; a uniform choice would give 125 of each.
    for mode, found in zip(MODES, counts.tolist(), strict=True):
        tolerance = 4 * math.sqrt(count * mode.share * (1 - mode.share))
        assert abs(found - count * mode.share) < tolerance, mode.name
    assert counts.sum() == count


def test_another_seed_gives_other_modes() -> None:
    # Two independent draws agree with probability sum(p^2) = 0.2968 * 0.38 * 0.52 = 0.0586: 18 of 300, deviation 4.1.
    agree = sum(mode_of(index, seed=0) == mode_of(index, seed=1) for index in range(300))
    assert agree < 18 + 4 * 4.1


def test_an_image_is_a_pure_function_of_seed_and_index() -> None:
    indices = [0, 1, 7, 4_000_000_000, 2**63]
    forward = [draw_flower(index, seed=3, size=32) for index in indices]
    backward = [draw_flower(index, seed=3, size=32) for index in reversed(indices)][::-1]
    for index, (image, label), (again, label_again) in zip(indices, forward, backward, strict=True):
        np.testing.assert_array_equal(image, again)
        assert label == label_again == mode_of(index, seed=3)


def test_a_fresh_process_with_one_thread_draws_the_same_bytes() -> None:
    program = (
        "import sys, cv2; cv2.setNumThreads(1); from dcgan_dist.data.synthetic import draw_flower;"
        "[sys.stdout.buffer.write(draw_flower(i, seed=11, size=64)[0].tobytes()) for i in (5, 4)]"
    )
    fresh = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60).stdout
    assert fresh == b"".join(draw_flower(index, seed=11, size=64)[0].tobytes() for index in (5, 4))


def test_no_two_images_are_alike() -> None:
    first = draw_flower(0, seed=0, size=32)[0].astype(int)
    for index, seed in ((1, 0), (2, 0), (0, 1)):
        assert np.abs(draw_flower(index, seed=seed, size=32)[0] - first).mean() > 8
    # Flowers of one mode differ too, in their background, their tint and their place.
    same = [image.astype(int) for image in of_mode(2, count=8, size=32)]
    assert min(np.abs(a - b).mean() for i, a in enumerate(same) for b in same[:i]) > 5


@pytest.mark.parametrize("size", [8, 28, 32, 64, 100])
def test_size_and_type(size: int) -> None:
    image, label = draw_flower(12, seed=0, size=size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert label == mode_of(12, seed=0)
    assert image.std() > 20  # a picture, not a plain colour


@pytest.mark.parametrize(("small", "large"), [(32, 64), (32, 128), (64, 256)])
def test_it_is_the_same_flower_at_every_size(small: int, large: int) -> None:
    for index in range(6):
        image = draw_flower(index, seed=2, size=small)[0].astype(float)
        shrunk = draw_flower(index, seed=2, size=large)[0].astype(float)
        shrunk = cv2.resize(shrunk, (small, small), interpolation=cv2.INTER_AREA)
        other = draw_flower(index + 1, seed=2, size=small)[0].astype(float)
        # 32 and 64 come from one canvas and differ by rounding. 128 and 256 have finer ones, on which the half pixel
        # that cv2 fills beyond an edge is narrower.
        assert np.abs(image - shrunk).mean() < (1 if large == 64 else 5)
        assert np.abs(image - other).mean() > 15


@pytest.mark.parametrize("label", range(24))
def test_petals_have_the_hue_their_mode_says(label: int) -> None:
    colour = MODES[label].colour
    pixels = np.concatenate([petal_pixels(image) for image in of_mode(label, count=6, size=32)])
    hue, saturation, value = cv2.cvtColor(np.float32(pixels[None]) / 255, cv2.COLOR_RGB2HSV)[0].T
    if colour.name == "white":
        assert np.mean((saturation < 0.2) & (value > 0.6)) > 0.35
        return
    petals = np.abs((hue - colour.hue + 180) % 360 - 180) < 30
    petals &= saturation > 0.25
    assert petals.mean() > 0.35  # at least this much of the ring is petal, however narrow
    mean = np.angle(np.exp(1j * np.deg2rad(hue[petals])).mean(), deg=True) % 360
    distance = abs((mean - colour.hue + 180) % 360 - 180)
    assert distance < 8, f"{mean:.0f} degrees, not {colour.hue}"  # bases are up to 9 degrees off, tips 0


@pytest.mark.parametrize("label", range(6))
def test_petals_can_be_counted(label: int) -> None:
    # How far the yellow reaches in each direction, as harmonics of the angle: the strongest of 3, 5, 8 is the number.
    right = 0
    images = of_mode(label, count=20, size=64)
    for image in images:
        petals = yellow(image).astype(np.float32)
        rows, columns = np.nonzero(petals)
        flags = cv2.WARP_POLAR_LINEAR | cv2.WARP_FILL_OUTLIERS
        polar = cv2.warpPolar(petals, (32, 96), (float(columns.mean()), float(rows.mean())), 32, flags)
        strength = np.abs(np.fft.rfft(polar.sum(axis=1)))
        right += max((3, 5, 8), key=lambda petals: strength[petals]) == MODES[label].petals
    assert right >= 0.9 * len(images)


def test_the_flower_fills_most_of_the_picture() -> None:
    for image in of_mode(2, count=8, size=32):
        rows, columns = np.nonzero(yellow(image))
        assert np.ptp(rows) >= 20
        assert np.ptp(columns) >= 20


def test_wrong_arguments_name_the_field_the_rule_and_the_value() -> None:
    with pytest.raises(ValueError, match="size must be at least 8, got 4"):
        draw_flower(0, seed=0, size=4)
    with pytest.raises(ValueError, match="index must be at least 0 and below 2\\*\\*64, got -1"):
        mode_of(-1, seed=0)
    with pytest.raises(ValueError, match="seed must be at least 0"):
        draw_flower(0, seed=2**64, size=32)
