"""What a run says of its samples while it trains: their quality and their variety, measured by all ranks together."""

import time
from dataclasses import dataclass, replace
from functools import partial

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

CHUNK = 512
"""Images of the data that are read at once."""


@dataclass(frozen=True)
class Judgement:
    """The numbers of one evaluation."""

    scalars: dict[str, float]
    """As they are logged."""
    best: float
    """What ``best_metric`` says, turned so that lower is better."""
    collapse: float | None
    """The score; None where variety could not be measured."""
    nearest: NDArray[np.uint8] | None
    """A picture of samples beside the images of the data nearest to them; on the main process alone."""

    @property
    def is_alarming(self) -> bool:
        """Whether the samples have collapsed."""
        return self.collapse is not None and self.collapse >= ALARM


class Judge:
    """Everything about the data that evaluations need, prepared once for a run. Every rank makes and calls it.

    Args:
        config: of the run, with everything that was left to be chosen.
        device: where to compute.

    Raises:
        ValueError: on every rank; the setting or file is named.
        OSError: on every rank; images cannot be read.
    """

    def __init__(self, config: TrainConfig, *, device: torch.device) -> None:
        begin = time.perf_counter()
        self._config = config
        self.told: list[str] = []
        """Sentences for the user."""
        reals = open_real_images(config.images, config.network)
        quality = config.evaluation
        self._quality = None if quality.extractor == "none" else prepare(quality, reals, device=device)
        self._data, self._variety, lacking = None, None, collectives.from_main(partial(self._look_at, reals))
        if lacking:
            self.told.append(f"warning: collapse is not measured: {lacking}")
        self._samples = collectives.from_main(lambda: self._variety.samples if self._variety else 0)
        self.seconds = time.perf_counter() - begin
        """That evaluations have taken so far."""

    def judge(self, gan: Gan) -> Judgement:
        """Measure the generator that samples are drawn from; nothing of the run changes."""
        begin = time.perf_counter()
        config, scalars = self._config, dict[str, float]()
        if self._quality is not None:
            found = evaluate(gan.sampled, self._quality, seed=config.seed, network=config.network)
            scalars |= found.scalars()
        collapse, nearest = None, None
        if self._samples:
            pixels = sample_pixels(gan.sampled, range(self._samples), seed=config.seed, network=config.network)
            variety = collectives.from_main(lambda: measure(pixels, self._reference))
            scalars |= variety
            collapse = variety[collectives.from_main(lambda: self._reference.score_name)]
            if collectives.rank() == 0 and self._data is not None:
                nearest = nearest_picture(pixels, self._reference, data=self._data)
        seconds = time.perf_counter() - begin
        self.seconds += seconds
        return Judgement(scalars | {"time/eval": seconds}, self._to_be_lowered(scalars, collapse), collapse, nearest)
