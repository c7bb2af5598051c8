"""Features of a set of images, computed on all ranks: the same whatever their number."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dcgan_dist.distributed import collectives
from dcgan_dist.metrics.extractors import Extractor
from dcgan_dist.metrics.moments import Moments

CHUNK = 16
"""Images computed at once on a CPU. Fixed, and the last one filled up, because the last bits depend on it."""
CHUNK_CUDA = 128


@dataclass(frozen=True)
class FeatureSet:
    """What metrics know of a set of images."""

    features: Tensor
    """(N, dim) float32"""
    logits: Tensor | None
    """(N, classes) float32, of an extractor that classifies, where they were kept."""
    moments: Moments

    def to(self, device: torch.device) -> "FeatureSet":
        """The same on ``device``."""
        moments = Moments(self.moments.count, self.moments.mean.to(device), self.moments.scatter.to(device))
        return FeatureSet(self.features.to(device), None if self.logits is None else self.logits.to(device), moments)

    def part(self, start: int, stop: int) -> "FeatureSet":
        """Images ``start`` to ``stop`` alone."""
        features = self.features[start:stop]
        return FeatureSet(features, None if self.logits is None else self.logits[start:stop], Moments.of(features))


def extract(
    extractor: Extractor,
    count: int,
    *,
    pixels: Callable[[int, int], Tensor],
    device: torch.device,
    report: Callable[[int], None],
) -> FeatureSet:
    """Features of ``count`` images, on every rank. Every rank calls it and does its share of the chunks.

    Memory: all features and logits on each rank. A feature depends on its chunk alone, so with the same device and CPU
    threads its bits are the same on any number of ranks; other threads change the last bits (about 1e-6, relative).

    Args:
        extractor: the network.
        count: how many images; there may be fewer chunks than ranks.
        pixels: (stop - start, 1 or 3, H, W) uint8 on the device, of images ``start`` to ``stop``. Raises ValueError or
            OSError if they cannot be had.
        device: where to compute.
        report: called with about the number of images done, over all ranks.

    Raises:
        ValueError: on every rank, if ``pixels`` raised it on any.
        OSError: likewise.
    """
    chunk = CHUNK_CUDA if device.type == "cuda" else CHUNK
    features = torch.zeros(count, extractor.dim, device=device)
    logits = torch.zeros(count, extractor.classes, device=device) if extractor.classes else None
    rank, ranks, chunks = collectives.rank(), collectives.world_size(), math.ceil(count / chunk)
    first, last = chunks * rank // ranks * chunk, min(count, chunks * (rank + 1) // ranks * chunk)

    def own_share() -> Moments:
        for start in range(first, last, chunk):
            stop = min(start + chunk, last)
            images = pixels(start, stop)
            filled = torch.cat([images, images[-1:].expand(chunk - len(images), -1, -1, -1)])
            found, classified = extractor(filled)
            features[start:stop] = found[: stop - start]
            if logits is not None and classified is not None:
                logits[start:stop] = classified[: stop - start]
            report(min(count, (start + chunk - first) * ranks))
        return Moments.of(features[first:last])

    moments = collectives.on_all(own_share).over_ranks()
    collectives.all_reduce(features)  # each row was computed by one rank and is zero on the others
    if logits is not None:
        collectives.all_reduce(logits)
    return FeatureSet(features, logits, moments)
