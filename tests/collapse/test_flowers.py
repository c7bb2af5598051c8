"""The rule that tells the modes of drawn flowers, and what is counted with it."""

import math

import numpy as np
import pytest

from dcgan_dist.collapse.flowers import UNKNOWN, flower_modes, found_modes, kl_from_known
from dcgan_dist.data.synthetic import MODES
from tests.collapse.made import flowers


@pytest.mark.parametrize(("size", "count"), [(28, 500), (32, 1000), (64, 300)])
def test_it_is_right_for_drawn_flowers(size: int, count: int) -> None:
    pixels, labels = flowers(count, size=size)
    found = flower_modes(pixels)
    # 18,000 others: 99.4 % at 28 px, 99.5 % and more above; three standard deviations of 500 are 1 %.
    assert np.mean(found == labels) > 0.98
    assert np.array_equal(found // 6, labels // 6)  # colours
    assert np.mean(found // 2 % 3 == labels // 2 % 3) > 0.985  # petals


def test_what_is_no_flower_is_unknown() -> None:
    random = np.random.default_rng(0)
    plain = np.full((2, 32, 32, 3), (30, 90, 20), np.uint8)  # as leaves are
    plain[1] = (250, 220, 20)  # a wall of yellow has no petals
    noise = random.integers(0, 256, (20, 32, 32, 3), np.uint8)
    assert set(flower_modes(np.concatenate([plain, noise])).tolist()) == {UNKNOWN}


def test_modes_are_found_from_a_quarter_of_their_share() -> None:
    shares = np.array([mode.share for mode in MODES])
    counts = np.rint(shares * 10_000).astype(int)
    assert found_modes(np.repeat(np.arange(24), counts)) == 24
    # The commonest has 0.12 and needs 0.03; what is left over is unknown.
    commonest = int(shares.argmax())
    assert found_modes(np.repeat([commonest, UNKNOWN], [30, 970])) == 1
    assert found_modes(np.repeat([commonest, UNKNOWN], [29, 971])) == 0


def test_kl_of_known_distributions() -> None:
    shares = np.array([mode.share for mode in MODES])
    assert kl_from_known(np.repeat(np.arange(24), np.rint(shares * 10_000).astype(int))) == pytest.approx(0, abs=1e-12)
    assert kl_from_known(np.full(100, 2)) == pytest.approx(-math.log(0.12))  # yellow-5-round alone
    two = np.repeat([2, 3, UNKNOWN], [60, 40, 50])  # yellow-5, round to pointed as in the data: 0.12 and 0.08
    assert kl_from_known(two) == pytest.approx(-math.log(0.2))
    assert kl_from_known(np.full(10, UNKNOWN)) == pytest.approx(-math.log(0.0096))
