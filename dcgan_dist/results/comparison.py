"""Means over seeds, differences from a baseline and how sure they are: pure numbers."""

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from dcgan_dist.words import counted

CONFIDENCE = 0.95
"""Of every interval."""
SIGNIFICANT = 0.05
"""A corrected p below it shows a difference."""
NO_SPREAD = 1e-9
"""Differences that vary by less than this part of the values are the same but for rounding."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The mean of some seeds."""

    mean: float
    n: int
    """How many seeds."""
    deviation: float | None
    """Sample standard deviation; None of one seed."""
    half_width: float | None
    """Of the t interval around the mean; None of one seed."""

    @property
    def low(self) -> float | None:
        """Where the interval begins."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Where the interval ends."""
        return None if self.half_width is None else self.mean + self.half_width


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A setting's difference from the baseline in one measure."""

    difference: float
    """The setting's mean minus the baseline's."""
    counts: tuple[int, int]
    """Seeds of the setting and of the baseline."""
    test: Literal["paired", "welch", ""]
    """Paired by seed where both have the same seeds, else Welch's; empty where there is none to make."""
    half_width: float | None = None
    """Of the difference's interval, not corrected; None without a test."""
    p: float | None = None
    """Two-sided, not corrected; None without a test."""
    p_holm: float | None = None
    """After Holm's correction for all settings that are compared in this measure."""

    @property
    def low(self) -> float | None:
        """Where the difference's interval begins."""
        return None if self.half_width is None else self.difference - self.half_width

    @property
    def high(self) -> float | None:
        """Where the difference's interval ends."""
        return None if self.half_width is None else self.difference + self.half_width


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of one or more values and its 95% t interval, which two values are needed for."""
    n = len(values)
    deviation = statistics.stdev(values) if n > 1 else None
    half_width = None if deviation is None else _t(n - 1) * deviation / math.sqrt(n)
    return Estimate(mean=statistics.fmean(values), n=n, deviation=deviation, half_width=half_width)


def compare(values: Mapping[str, float], baseline: Mapping[str, float]) -> Comparison:
    """The difference of the means of ``values`` and ``baseline``, both by seed, and its test.

    One seed on either side, or differences without any spread, allow no test.
    """
    difference = statistics.fmean(values.values()) - statistics.fmean(baseline.values())
    counts = len(values), len(baseline)
    paired = values.keys() == baseline.keys()
    if paired:
        spread = [[values[seed] - baseline[seed] for seed in values]]
    else:
        spread = [list(values.values()), list(baseline.values())]
    largest = max(map(abs, [*values.values(), *baseline.values()]))
    if min(counts) < 2 or all(max(each) - min(each) <= NO_SPREAD * largest for each in spread):
        return Comparison(difference=difference, counts=counts, test="")
    if paired:
        result = stats.ttest_rel([values[seed] for seed in values], [baseline[seed] for seed in values])
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # one side without spread, which Welch's test allows
            result = stats.ttest_ind(list(values.values()), list(baseline.values()), equal_var=False)
    low, high = result.confidence_interval(CONFIDENCE)
    return Comparison(
        difference=difference,
        counts=counts,
        test="paired" if paired else "welch",
        half_width=float(high - low) / 2,
        p=float(result.pvalue),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p value corrected for there being several, in their order (Holm 1979)."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def verdict(comparison: Comparison, better: str) -> str:
    """What a comparison shows, in words; ``better`` is lower, higher or empty."""
    one, other = comparison.counts
    seeds = counted(one, "seed") if one == other else f"{one} and {counted(other, 'seed')}"
    if not comparison.test:
        if min(comparison.counts) < 2:
            return f"not tested: {seeds}"
        return f"not tested: {'no' if not comparison.difference else 'the same'} difference with every seed"
    assert comparison.p_holm is not None
    if not comparison.p_holm < SIGNIFICANT:  # also when numbers overflow and it is none
        return f"no difference shown with {seeds}"
    way = "lower" if comparison.difference < 0 else "higher"
    if better:
        way = "better" if way == better else "worse"
    p = "p < 0.001" if comparison.p_holm < 0.001 else f"p = {comparison.p_holm:.2g}"
    return f"{way} ({p} after Holm)"


def _t(degrees: int) -> float:
    """Student's t with as much probability as CONFIDENCE within plus and minus it."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))
