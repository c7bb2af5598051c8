"""The quality of a generator's images in numbers, measured by all ranks together: the same on any number of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dcgan_dist.config import EvaluationConfig, NetworkConfig
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.draws import sample_latent
from dcgan_dist.evaluation.progress import Report, silent
from dcgan_dist.evaluation.real_features import RealFeatures, RealImages, real_features
from dcgan_dist.metrics.extractors import build_extractor
from dcgan_dist.metrics.features import extract
from dcgan_dist.metrics.quality import LEAST_IMAGES, full_name, quality
from dcgan_dist.sampling import CHUNK, chunk_of


@dataclass(frozen=True)
class Quality:
    """Numbers on a generator, each with its floor."""

    measures: dict[str, float]
    """By their short names: fid, kid, kid_std, ...; docs/metrics.md."""
    floor: dict[str, float]
    """The same between two parts of the data."""
    extractor: str
    """As in names."""
    count: int
    """Images that were generated."""
    images: int
    """Real images they were compared with."""
    floor_images: int
    """In each of the two parts."""

    def scalars(self) -> dict[str, float]:
        """All numbers as they are logged: ``eval/fid_efflite0_n2048``, ``eval/fid_floor_efflite0_n680``."""
        found = {full_name(name, self.extractor, self.count): value for name, value in self.measures.items()}
        for name, value in self.floor.items():
            found[full_name(f"{name}_floor", self.extractor, self.floor_images)] = value
        return found


def prepare_quality(
    settings: EvaluationConfig,
    reals: RealImages,
    *,
    device: torch.device,
    report: Report = silent,
) -> RealFeatures:
    """The real side of evaluations with these settings, once for a run. Every rank calls it.

    Args:
        settings: the extractor and how many images.
        reals: those of ``open_real_images``.
        device: where to compute.
        report: of progress.

    Raises:
        ValueError: on every rank; the setting or file is named.
        OSError: on every rank; something cannot be read.
    """
    if settings.eval_count < LEAST_IMAGES:
        raise ValueError(f"eval_count must be at least {LEAST_IMAGES}, got {settings.eval_count}")
    extractor = collectives.on_all(
        lambda: build_extractor(
            settings.extractor, resize=settings.eval_resize, weights=settings.extractor_weights, device=device
        )
    )
    collectives.check_equal({"the extractor": extractor.identity, "the images": reals.digest})
    return real_features(
        extractor,
        reals,
        count=settings.eval_count,
        device=device,
        report=lambda done, total: report("real images", done, total),
    )


def measure_quality(
    generator: nn.Module,
    real: RealFeatures,
    *,
    seed: int,
    network: NetworkConfig,
    report: Report = silent,
) -> Quality:
    """Every measure of ``real.count`` images of ``generator`` against the data, on every rank. Every rank calls it.

    The images' z are a stream of their own, the same for a seed each time, so nothing random in a run is touched and
    two generators of a run are compared on equal terms. All ranks generate and extract; the main process computes the
    measures.

    Args:
        generator: network from z to images in ``network.value_range``, not wrapped; it stays as it is.
        real: what ``prepare_quality`` returned.
        seed: the run's.
        network: of the generator.
        report: of progress.
    """

    def latents(numbers: Sequence[int]) -> Tensor:
        dim, prior = network.latent_dim, network.prior
        return sample_latent(seed, numbers, latent_dim=dim, prior=prior, stream="evaluation")

    def pixels(start: int, stop: int) -> Tensor:
        chunks = (range(first, min(first + CHUNK, stop)) for first in range(start, stop, CHUNK))
        return torch.cat([chunk_of(generator, latents(chunk), network=network) for chunk in chunks])

    fakes = extract(
        real.extractor,
        real.count,
        pixels=pixels,
        device=next(generator.parameters()).device,
        report=lambda done: report("fakes", done, real.count),
    )

    def judge() -> dict[str, float]:
        assert real.features is not None
        return quality(real.features, fakes)

    measures = collectives.from_main(judge)
    return Quality(
        measures=measures,
        floor=real.floor,
        extractor=real.extractor.name,
        count=real.count,
        images=real.images,
        floor_images=real.floor_images,
    )
