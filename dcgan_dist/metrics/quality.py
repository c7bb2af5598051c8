"""The measures of quality that need features: the table of them, and their names."""

from collections.abc import Callable, Mapping

from dcgan_dist.metrics.features import FeatureSet
from dcgan_dist.metrics.fid import frechet_distance
from dcgan_dist.metrics.inception_score import inception_score
from dcgan_dist.metrics.kid import kernel_distance
from dcgan_dist.metrics.neighbours import neighbourhood

BETTER = {
    "fid": "lower",
    "kid": "lower",
    "is": "higher",
    "precision": "higher",
    "recall": "higher",
    "density": "higher",
    "coverage": "higher",
}
"""Which way each measure is better, in the order of tables; the others are deviations of these."""
LEAST_IMAGES = 20
"""Of either side, for every measure to be defined."""


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


QUALITY: Mapping[str, Callable[[FeatureSet, FeatureSet], dict[str, float]]] = {
    "fid": _fid,
    "kid": _kid,
    "is": _inception_score,
    "neighbours": _neighbours,
}
"""Functions of the data's features and the fakes'; each gives one or more numbers by name."""


def quality(real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
    """Every measure of QUALITY that the extractor allows, by its short name, computed on the features' device.

    Raises:
        ValueError: If either side has fewer than LEAST_IMAGES images.
    """
    for side, found in (("data", real), ("fakes", fake)):
        if len(found.features) < LEAST_IMAGES:
            raise ValueError(f"quality needs at least {LEAST_IMAGES} images of the {side}, got {len(found.features)}")
    return {name: value for measure in QUALITY.values() for name, value in measure(real, fake).items()}


def full_name(measure: str, extractor: str, count: int) -> str:
    """As numbers are logged: ``eval/MEASURE_EXTRACTOR_nCOUNT``."""
    return f"eval/{measure}_{extractor}_n{count}"
