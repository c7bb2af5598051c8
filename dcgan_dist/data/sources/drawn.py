"""The synthetic flowers as a source."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from dcgan_dist.data import synthetic
from dcgan_dist.data.sources.base import Record, Records, Request, SourceSet
from dcgan_dist.data.transforms import Pixels, Target, with_channels


@dataclass(frozen=True, slots=True)
class Drawing:
    """An image of the synthetic flowers, drawn at the size that is asked for."""

    index: int
    seed: int

    def pixels(self, target: Target, *, large: AbstractContextManager[None] | None = None) -> Pixels:
        image, _ = synthetic.draw_flower(self.index, seed=self.seed, size=target.size)
        return with_channels(image, target.channels)


def synthetic_flowers(request: Request) -> SourceSet:
    """``count`` flowers drawn by a program, labelled with their mode.

    Raises:
        ValueError: If ``count`` is not positive or ``seed`` is out of range.
    """
    count, seed = request.number("count"), request.number("seed")
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    synthetic.mode_of(0, seed=seed)  # so that a wrong seed is told now

    def make(index: int) -> Record:
        name = f"synthetic-{index:06d}"
        return Record(name, synthetic.mode_of(index, seed=seed), name, Drawing(index, seed))

    return SourceSet(Records(count, make), tuple(mode.name for mode in synthetic.MODES))
