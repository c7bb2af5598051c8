"""Statistics of sweeps against numbers worked out by hand, tables of Student's t, and scipy's raw formulas."""

import math

import pytest
from scipy import stats

from dcgan_dist.results.comparison import Comparison, compare, estimate, holm, verdict


def seeds(*values: float) -> dict[str, float]:
    return {str(seed): value for seed, value in enumerate(values)}


def test_an_interval_is_that_of_the_table() -> None:
    found = estimate([1, 2, 3])  # deviation 1, t(2) = 4.303 in every table
    assert (found.mean, found.n, found.deviation) == (2, 3, 1)
    assert found.half_width == pytest.approx(4.303 / math.sqrt(3), abs=5e-4)
    assert [found.low, found.high] == pytest.approx([-0.4843, 4.4843], abs=1e-3)
    interval = stats.t.interval(0.95, 2, loc=2, scale=stats.sem([1, 2, 3]))
    assert [found.low, found.high] == pytest.approx(list(interval), rel=1e-12)


def test_one_seed_has_no_interval() -> None:
    found = estimate([5.0])
    assert (found.mean, found.n) == (5, 1)
    assert (found.deviation, found.half_width, found.low, found.high) == (None, None, None, None)


def test_the_same_seeds_are_paired() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1, t = 2 sqrt(3) with 2 degrees; there p = 1 - t / sqrt(t^2 + 2).
    found = compare({"0": 11, "1": 22, "2": 33}, {"2": 30, "1": 20, "0": 10})
    assert (found.test, found.difference, found.counts) == ("paired", 2, (3, 3))
    assert found.half_width == pytest.approx(4.303 / math.sqrt(3), abs=5e-4)
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-9)
    interval = stats.t.interval(0.95, 2, loc=2, scale=stats.sem([1, 2, 3]))
    assert [found.low, found.high] == pytest.approx(list(interval), rel=1e-12)


def test_other_seeds_are_compared_by_welch() -> None:
    # Variances 1 and 4 of 3 and 3: error sqrt(5/3), degrees (5/3)^2 / ((1/3)^2 + (4/3)^2) * 2 = 50/17.
    found = compare({"0": 1, "1": 2, "2": 3}, {"3": 4, "4": 6, "5": 8})
    assert (found.test, found.difference) == ("welch", -4)
    degrees, error = 50 / 17, math.sqrt(5 / 3)
    assert found.p == pytest.approx(2 * stats.t.sf(4 / error, degrees), rel=1e-9)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, degrees) * error, rel=1e-9)


def test_a_missing_seed_makes_it_welch() -> None:
    found = compare(seeds(1, 2, 4), seeds(1, 2))
    assert (found.test, found.counts) == ("welch", (3, 2))


def test_one_side_without_spread_is_compared() -> None:
    # Variances 0 and 1 of 2 and 3: error sqrt(1/3) and 2 degrees, those of the second side alone.
    found = compare({"3": 5.5, "4": 5.5}, seeds(1, 2, 3))
    assert found.half_width == pytest.approx(4.303 / math.sqrt(3), abs=5e-4)


def test_without_spread_or_with_one_seed_nothing_is_tested() -> None:
    for one, other, difference in (
        (seeds(0.3, 0.4, 0.7), seeds(0.2, 0.3, 0.6), 0.1),  # rounding is no spread
        (seeds(1, 1), {"7": 1.0, "8": 1.0}, 0),
        (seeds(0, 0), seeds(0, 0), 0),
        (seeds(3), seeds(1), 2),
        (seeds(3), seeds(1, 2), 1.5),
    ):
        found = compare(one, other)
        assert found.difference == pytest.approx(difference)
        assert (found.test, found.p, found.half_width, found.low, found.high) == ("", None, None, None, None)


def test_holm_is_the_step_down_of_bonferroni() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 x 0.01, 2 x 0.03, then no less
    assert holm([0.9, 0.6]) == [1, 1]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("difference", "p_holm", "better", "words"),
    [
        (-0.1, 0.012, "lower", "better (p = 0.012 after Holm)"),
        (-0.1, 0.012, "higher", "worse (p = 0.012 after Holm)"),
        (0.1, 0.0001, "", "higher (p < 0.001 after Holm)"),
        (-0.1, 0.05, "lower", "no difference shown with 3 seeds"),
    ],
)
def test_verdicts_are_plain_words(difference: float, p_holm: float, better: str, words: str) -> None:
    found = Comparison(difference=difference, counts=(3, 3), test="paired", half_width=0.2, p=0.01, p_holm=p_holm)
    assert verdict(found, better) == words


def test_what_is_not_tested_says_why() -> None:
    assert verdict(compare(seeds(1), seeds(2)), "lower") == "not tested: 1 seed"
    assert verdict(compare(seeds(1), seeds(2, 3)), "lower") == "not tested: 1 and 2 seeds"
    assert verdict(compare(seeds(1, 2), seeds(2, 3)), "lower") == "not tested: the same difference with every seed"
    assert verdict(compare(seeds(1, 2), seeds(1, 2)), "lower") == "not tested: no difference with every seed"
