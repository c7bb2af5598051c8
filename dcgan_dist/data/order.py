"""Which images make up step k: pure arithmetic on (seed, epoch, shard counts), with no state to save."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.permute import permutation


class Order:
    """The endless concatenation of epoch orders; step k of batch size B owns its positions kB to (k + 1)B.

    An epoch has each image once: shards are permuted, cut into windows of ``shuffle_window`` shards, and images are
    permuted inside each window. So every image is used equally often and no batch is short.

    Args:
        shard_counts: images in each shard.
        seed: the run's seed.
        shuffle_window: shards a window.
    """

    def __init__(self, shard_counts: Sequence[int], *, seed: int, shuffle_window: int) -> None:
        self.length = sum(shard_counts)
        if self.length == 0:
            raise ValueError("the data set must have at least one image, got 0")
        self._bounds = np.concatenate([[0], np.cumsum(shard_counts)])
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
                images = np.concatenate([np.arange(self._bounds[s], self._bounds[s + 1]) for s in chosen])
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
