"""The measures of quality that need features: the table of them, and their names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from dcgan_dist.metrics.features import FeatureSet
from dcgan_dist.metrics.fid import frechet_distance
from dcgan_dist.metrics.inception_score import inception_score
from dcgan_dist.metrics.kid import kernel_distance
from dcgan_dist.metrics.neighbours import neighbourhood

LEAST_IMAGES = 20
"""Of either side, for every measure to be defined."""


@dataclass(frozen=True)
class Number:
    """One number that people compare."""

    better: Literal["lower", "higher"]
    meaning: str
    """In words, for reports."""


@dataclass(frozen=True)
class Measure:
    """A row of QUALITY: one calculation, which gives one or more numbers."""

    measured: Callable[[FeatureSet, FeatureSet], dict[str, float]]
    """From the features of the data and of the fakes to numbers by their short names: those of ``numbers``, as far as
    the extractor allows, each with or without a NAME_std, its deviation. On the features' device."""
    numbers: Mapping[str, Number]


def _fid(real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
    return {"fid": frechet_distance(real.moments, fake.moments)}


def _kid(real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
    mean, deviation = kernel_distance(real.features, fake.features)
    return {"kid": mean, "kid_std": deviation}


def _inception_score(real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
    if fake.logits is None:
        return {}
    mean, deviation = inception_score(fake.logits)
    return {"is": mean, "is_std": deviation}


def _neighbours(real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
    found = neighbourhood(real.features, fake.features)
    return {
        "precision": found.precision,
        "recall": found.recall,
        "density": found.density,
        "coverage": found.coverage,
    }


QUALITY = {
    "fid": Measure(_fid, {"fid": Number("lower", "Fréchet distance of features")}),
    "kid": Measure(_kid, {"kid": Number("lower", "kernel distance of features")}),
    "is": Measure(_inception_score, {"is": Number("higher", "inception score")}),
    "neighbours": Measure(
        _neighbours,
        {
            "precision": Number("higher", "samples that lie among reals"),
            "recall": Number("higher", "reals that lie among samples"),
            "density": Number("higher", "reals around a sample"),
            "coverage": Number("higher", "reals that have a sample near"),
        },
    ),
}
"""Each calculation, in the order of tables."""
NUMBERS = {name: number for measure in QUALITY.values() for name, number in measure.numbers.items()}
"""Every number of QUALITY by its short name."""


def quality(real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
    """Every measure of QUALITY that the extractor allows, by its short name, computed on the features' device.

    Raises:
        ValueError: If either side has fewer than LEAST_IMAGES images.
    """
    for side, found in (("data", real), ("fakes", fake)):
        if len(found.features) < LEAST_IMAGES:
            raise ValueError(f"quality needs at least {LEAST_IMAGES} images of the {side}, got {len(found.features)}")
    return {name: value for row in QUALITY.values() for name, value in row.measured(real, fake).items()}


def full_name(measure: str, extractor: str, count: int) -> str:
    """As numbers are logged: ``eval/MEASURE_EXTRACTOR_nCOUNT``."""
    return f"eval/{measure}_{extractor}_n{count}"
