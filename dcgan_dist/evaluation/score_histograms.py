"""How well the discriminator tells: histograms of its scores on reals, on fakes and on reals it never saw."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcgan_dist.data.loader import Loader
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.draws import StepDraws, run_key
from dcgan_dist.gan import Gan
from dcgan_dist.images import to_images

SCORED = 256
"""Images of each kind, about: whole batches, at least one."""
BINS = 20


@dataclass(frozen=True)
class ScoreHistograms:
    """How often D's score, the probability it gives an image of being real, lies between two edges."""

    edges: tuple[float, ...]
    """BINS + 1 of them, from 0 to 1."""
    counts: dict[str, list[int]]
    """Of each kind of images: real, fake, and held_out when the run keeps images back."""


class ScoreCounter:
    """Counts D's scores on the same reals and the same z each time. Every rank makes and calls it."""

    def __init__(self, gan: Gan, loader: Loader, *, rows: tuple[int, int]) -> None:
        self._gan = gan
        self._rows = rows
        self._reals = {"real": self._own(loader.first(self._whole(loader.image_count)))}
        if len(loader.held_out):
            kept_back = loader.held_out[: self._whole(len(loader.held_out))]
            self._reals["held_out"] = self._own(loader.read(kept_back))

    def count(self) -> ScoreHistograms:
        """The histograms now.

        D is in training mode, with the statistics of batches that are all real or all fake, as it is when it
        learns; nothing of it or of G changes.
        """
        gan, network = self._gan, self._gan.config.network
        counts = torch.zeros(1 + len(self._reals), BINS, dtype=torch.int64, device=gan.device)
        with torch.no_grad():
            for draws in self._batches(SCORED):
                fakes = gan.imagine(gan.latent(draws, "z_scores"), draws=draws)
                counts[0] += _histogram(gan.judge(fakes, draws=draws))
            for kind, pixels in enumerate(self._reals.values(), 1):
                for number, draws in enumerate(self._batches(len(pixels) * gan.config.images.batch_size)):
                    reals = to_images(pixels[number].to(gan.device), network.value_range, dtype=gan.dtype)
                    counts[kind] += _histogram(gan.judge(reals, draws=draws))
        found = collectives.all_reduce(counts).tolist()
        return ScoreHistograms(
            tuple(np.linspace(0, 1, BINS + 1).round(6).tolist()),
            dict(zip(("fake", *self._reals), found, strict=True)),
        )

    def _whole(self, images: int) -> int:
        """Of so many images, how many are scored: whole batches."""
        batch_size = self._gan.config.images.batch_size
        return max(1, min(SCORED, images) // batch_size) * batch_size

    def _own(self, pixels: NDArray[np.uint8]) -> Tensor:
        """This process's rows of each batch, (batches, rows, C, H, W); images repeat when there is no whole batch."""
        batch_size = self._gan.config.images.batch_size
        batches = np.resize(pixels, (self._whole(len(pixels)) // batch_size, batch_size, *pixels.shape[1:]))
        own = batches[:, slice(*self._rows)].transpose(0, 1, 4, 2, 3)
        return torch.from_numpy(np.ascontiguousarray(own))

    def _batches(self, images: int) -> Iterator[StepDraws]:
        """The draws of each batch; the same ones whatever the step of the run."""
        batch_size, (start, stop) = self._gan.config.images.batch_size, self._rows
        whole = self._whole(images)
        for first in range(0, whole, batch_size):
            yield StepDraws(
                key=run_key(self._gan.config.seed, self._gan.device),
                step=0,
                batch_size=whole,
                start=first + start,
                stop=first + stop,
                dtype=self._gan.dtype,
            )


def _histogram(logits: Tensor) -> Tensor:
    """(BINS,) counts of scores."""
    places = (logits.sigmoid() * BINS).long().clamp(max=BINS - 1)
    return torch.bincount(places, minlength=BINS)
