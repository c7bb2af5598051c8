"""What a run says of its samples while it trains: their quality and their variety, measured by all ranks together."""

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dcgan_dist.collapse.picture import nearest_picture
from dcgan_dist.collapse.reference import MOST_IMAGES, Reference, fit, measure
from dcgan_dist.collapse.score import ALARM
from dcgan_dist.config import TrainConfig
from dcgan_dist.data.permute import permutation
from dcgan_dist.distributed import collectives
from dcgan_dist.evaluation import evaluate, prepare
from dcgan_dist.gan import Gan
from dcgan_dist.metrics.quality import BETTER
from dcgan_dist.real_features import RealImages, open_real_images
from dcgan_dist.sampling import sample_pixels


@dataclass(frozen=True)
class Judgement:
    """The numbers of one evaluation; the same on every rank."""

    scalars: dict[str, float]
    """As they are logged."""
    best: float
    """What the run's best checkpoint is chosen by, turned so that lower is better."""
    is_collapsed: bool
    """Whether the score of collapse is that of an alarm."""


@dataclass(frozen=True)
class _Variety:
    """What the main process knows of the data's variety."""

    reference: Reference
    data: NDArray[np.uint8]
    """(N, H, W, C): the images it was fitted on."""


class Judge:
    """What evaluations need to know of the data, prepared once for a run. Every rank makes and calls it.

    Args:
        config: of the run, with everything that was left to be chosen.
        device: where to compute.

    Raises:
        ValueError: on every rank; the setting or file is named.
        OSError: on every rank; images cannot be read.
    """

    def __init__(self, config: TrainConfig, *, device: torch.device) -> None:
        begin = time.perf_counter()
        self.told: list[str] = []
        """Sentences for the user."""
        self._config = config
        self._variety: _Variety | None = None
        settings = config.evaluation
        reals = open_real_images(config.images, config.network)
        self._quality = None if settings.extractor == "none" else prepare(settings, reals, device=device)
        self._samples, self._score_name = collectives.from_main(lambda: self._look_at(reals))
        """How many samples variety is measured with; 0 where it cannot be."""
        if settings.best_metric not in ("auto", "collapse") and self._quality is None:
            raise ValueError(f"best_metric {settings.best_metric} needs an extractor, got none")
        self.seconds = time.perf_counter() - begin
        """What evaluations have taken so far."""

    def judge(self, gan: Gan) -> Judgement:
        """Measure the generator that samples are drawn from; nothing of the run changes."""
        begin = time.perf_counter()
        config, scalars = self._config, dict[str, float]()
        measures: dict[str, float] = {}
        if self._quality is not None:
            found = evaluate(gan.sampled, self._quality, seed=config.seed, network=config.network)
            measures, scalars = found.measures, found.scalars()
        if self._samples:
            pixels = sample_pixels(gan.sampled, range(self._samples), seed=config.seed, network=config.network)
            scalars |= collectives.from_main(lambda: self._measured(pixels))
        seconds = time.perf_counter() - begin
        self.seconds += seconds
        collapse = scalars.get(self._score_name)
        return Judgement(
            scalars=scalars | {"time/eval": seconds},
            best=self._best(measures, collapse),
            is_collapsed=collapse is not None and collapse >= ALARM,
        )

    def nearest(self, gan: Gan) -> NDArray[np.uint8] | None:
        """A picture of samples beside the images of the data that are nearest to them, on the main process."""
        if not self._samples:
            return None
        config = self._config
        pixels = sample_pixels(gan.sampled, range(self._samples), seed=config.seed, network=config.network)
        known = self._variety
        return None if known is None else nearest_picture(pixels, known.reference, data=known.data)

    def _look_at(self, reals: RealImages) -> tuple[int, str]:
        """Fit the measures of variety; how many samples they take, and the name of their score. Main process."""
        chosen = np.sort(permutation(reals.count, 0)[:MOST_IMAGES])
        data = replace(reals, images=reals.images[chosen], flip=False).pixels(0, len(chosen))
        pixels = data.permute(0, 2, 3, 1).contiguous().numpy()
        drawn = reals.files.index.contents.settings.source == "synthetic"
        try:
            reference = fit(pixels, flip=reals.flip, drawn=drawn and reals.channels == 3)
        except ValueError as error:
            self.told.append(f"collapse is not measured: {error}")
            return 0, ""
        self._variety = _Variety(reference, pixels)
        return reference.samples, reference.score_name

    def _measured(self, pixels: NDArray[np.uint8]) -> dict[str, float]:
        assert self._variety is not None
        return measure(pixels, self._variety.reference)

    def _best(self, measures: dict[str, float], collapse: float | None) -> float:
        name = self._config.evaluation.best_metric
        if name == "auto":
            name = "kid" if measures else "collapse"
        if name == "collapse":
            return float("inf") if collapse is None else collapse
        return measures[name] if BETTER[name] == "lower" else -measures[name]
