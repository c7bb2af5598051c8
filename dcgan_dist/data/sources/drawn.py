"""The synthetic flowers as a source."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from dcgan_dist.data import synthetic
from dcgan_dist.data.sources.base import Record, Request, SourceSet
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
    names = [f"synthetic-{index:06d}" for index in range(count)]
    records = [
        Record(name, synthetic.mode_of(index, seed=seed), name, Drawing(index, seed))
        for index, name in enumerate(names)
    ]
    return SourceSet(records, tuple(mode.name for mode in synthetic.MODES))
