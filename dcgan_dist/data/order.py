"""Which images make up step k: pure arithmetic on (seed, epoch, shard counts), with no state to save."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.permute import permutation
from dcgan_dist.data.subset import labels_of, names_in


def training_subset(
    labels: NDArray[np.int64], class_names: Sequence[str], *, classes: str, size: int
) -> NDArray[np.int64]:
    """Numbers of the images that a run trains on, rising: of the chosen classes, the first ``size`` in the shards.

    Shards are shuffled when they are made, so the first images are as good as any: the same ones whatever the seed of
    the run, and a smaller subset lies within a larger one.

    Args:
        labels: (images,) class of every image, in the order of the shards.
        class_names: Name of each class, by its number.
        classes: Names of those that are wanted, a comma between them; empty for all.
        size: How many images; 0 for all.

    Raises:
        ValueError: If a class is unknown or there are fewer images.
    """
    kept = np.arange(len(labels))
    if wanted := names_in(classes):
        kept = kept[np.isin(labels, labels_of(wanted, class_names, what="classes"))]
    if not len(kept):
        raise ValueError(f"classes: the data must have images of them, there is none of {classes}")
    if size > len(kept):
        among = f" of the classes {classes}" if wanted else ""
        raise ValueError(f"subset_size must be at most the number of images{among}, {len(kept):,}, got {size:,}")
    return kept[: size or None]


class Order:
    """The endless concatenation of epoch orders; step k of batch size B owns its positions kB to (k + 1)B.

    An epoch has each image once: shards are permuted, cut into windows of ``shuffle_window`` shards, and images are
    permuted inside each window. So every image is used equally often and no batch is short.

    Args:
        shard_counts: images in each shard.
        seed: the run's seed.
        shuffle_window: shards a window.
        subset: numbers of the images there are, rising; by default all. The others do not exist for the order, nor
            do shards that have no image left.
    """

    def __init__(
        self,
        shard_counts: Sequence[int],
        *,
        seed: int,
        shuffle_window: int,
        subset: NDArray[np.int64] | None = None,
    ) -> None:
        self._images = np.arange(sum(shard_counts)) if subset is None else subset
        self.length = len(self._images)
        if self.length == 0:
            raise ValueError("the data set must have at least one image, got 0")
        ends = np.searchsorted(self._images, np.cumsum(shard_counts))  # places in the subset
        self._bounds = np.unique(np.concatenate([[0], ends]))
        self._seed = seed
        self._window = shuffle_window
        self._recent: dict[int, NDArray[np.int64]] = {}

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """(length,) image numbers of one epoch, counted over the shards in the order of the index."""
        if epoch not in self._recent:
            shards = permutation(len(self._bounds) - 1, self._seed, epoch)
            parts = []
            for window, first in enumerate(range(0, len(shards), self._window)):
                chosen = shards[first : first + self._window]
                images = np.concatenate([self._images[self._bounds[s] : self._bounds[s + 1]] for s in chosen])
                parts.append(images[permutation(len(images), self._seed, epoch, window + 1)])
            newest = {e: order for e, order in self._recent.items() if e == epoch - 1}  # a batch may span two
            self._recent = newest | {epoch: np.concatenate(parts)}
        return self._recent[epoch]

    def images(self, start: int, stop: int) -> NDArray[np.int64]:
        """(stop - start,) image numbers at positions ``start`` to ``stop`` of the endless order."""
        parts = []
        while start < stop:
            epoch, offset = divmod(start, self.length)
            part = self.epoch(epoch)[offset : offset + stop - start]
            parts.append(part)
            start += len(part)
        return np.concatenate(parts)
