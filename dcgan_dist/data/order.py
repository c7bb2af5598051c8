"""Which images make up step k: pure arithmetic on (seed, epoch, shard counts), with no state to save."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.permute import permutation
from dcgan_dist.data.subset import labels_of, names_in

T = TypeVar("T")
_KEPT = 4  # epochs' shards and windows' images that are remembered; a batch may span two


def training_subset(
    labels: NDArray[np.int64], class_names: Sequence[str], *, classes: str, size: int, held_out: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the images that a run trains on, and of those it never sees, both rising.

    Of the chosen classes, the first ``size`` in the shards are trained on and the last ``held_out`` are kept back.

    Shards are shuffled when they are made, so the first images are as good as any: the same ones whatever the seed of
    the run, and a smaller subset lies within a larger one.

    Args:
        labels: (images,) class of every image, in the order of the shards.
        class_names: Name of each class, by its number.
        classes: Names of those that are wanted, a comma between them; empty for all.
        size: How many images to train on; 0 for all that are not held out.
        held_out: How many images to keep back.

    Raises:
        ValueError: If a class is unknown or there are fewer images.
    """
    kept = np.arange(len(labels))
    if wanted := names_in(classes):
        kept = kept[np.isin(labels, labels_of(wanted, class_names, what="classes"))]
    if not len(kept):
        raise ValueError(f"classes: the data must have images of them, there is none of {classes}")
    among = f" of the classes {classes}" if wanted else ""
    if held_out >= len(kept):
        raise ValueError(f"held_out must leave images to train on{among}, of {len(kept):,}, got {held_out:,}")
    kept, back = kept[: len(kept) - held_out], kept[len(kept) - held_out :]
    if size > len(kept):
        among += " that are not held out" if held_out else ""
        raise ValueError(f"subset_size must be at most the number of images{among}, {len(kept):,}, got {size:,}")
    return kept[: size or None], back


class Order:
    """The endless concatenation of epoch orders; step k of batch size B owns its positions kB to (k + 1)B.

    An epoch has each image once: shards are permuted, cut into windows of ``shuffle_window`` shards, and images are
    permuted inside each window. So every image is used equally often and no batch is short. Windows are counted over
    all epochs, from 0; memory is that of a few windows, whatever the size of the set.

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
        ends = np.cumsum(shard_counts)
        if subset is not None:
            ends = np.searchsorted(subset, ends)  # places in the subset
        bounds = np.concatenate([[0], ends])
        self.length = int(bounds[-1])
        if self.length == 0:
            raise ValueError("the data set must have at least one image, got 0")
        self.shard_counts = [int(count) for count in np.diff(bounds) if count]
        """Images of each shard that has any."""
        self.shards: list[int] = np.flatnonzero(np.diff(bounds)).tolist()
        """Their numbers in the index."""
        self._bounds = np.unique(bounds)
        self._subset = subset
        self._seed = seed
        self._shuffle_window = shuffle_window
        self._per_epoch = -(-len(self.shards) // shuffle_window)  # windows
        self._epochs: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._windows: dict[int, NDArray[np.int64]] = {}

    def images(self, start: int, stop: int) -> NDArray[np.int64]:
        """(stop - start,) image numbers, counted over all shards in the order of the index.

        Args:
            start: first position of the endless order.
            stop: position after the last.
        """
        parts = []
        while start < stop:
            window = self.window_at(start)
            images = self._window(window)
            offset = start - self._begin(window)
            part = images[offset : offset + stop - start]
            parts.append(part)
            start += len(part)
        return np.concatenate(parts)

    def window_at(self, position: int) -> int:
        """The window that a position of the endless order lies in."""
        epoch, offset = divmod(position, self.length)
        _, begins = self._epoch(epoch)
        return epoch * self._per_epoch + int(np.searchsorted(begins, offset, side="right")) - 1

    def window_shards(self, window: int) -> list[int]:
        """The shards whose images a window has, by their numbers in the index."""
        return [self.shards[place] for place in self._places(window)]

    def _places(self, window: int) -> NDArray[np.int64]:
        """The shards of a window, by their places among those that have images."""
        epoch, place = divmod(window, self._per_epoch)
        first = place * self._shuffle_window
        return self._epoch(epoch)[0][first : first + self._shuffle_window]

    def _begin(self, window: int) -> int:
        """The position of a window's first image."""
        epoch, place = divmod(window, self._per_epoch)
        return epoch * self.length + int(self._epoch(epoch)[1][place])

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The permuted shards of an epoch, and how many images come before each of its windows."""
        if epoch not in self._epochs:
            shards = permutation(len(self._bounds) - 1, self._seed, epoch)
            counts = np.diff(self._bounds)[shards]
            before = np.concatenate([[0], np.cumsum(counts)[:-1]])
            _remember(self._epochs, epoch, (shards, before[:: self._shuffle_window]))
        return self._epochs[epoch]

    def _window(self, window: int) -> NDArray[np.int64]:
        """The images of a window, permuted."""
        if window not in self._windows:
            epoch, place = divmod(window, self._per_epoch)
            images = np.concatenate([np.arange(self._bounds[s], self._bounds[s + 1]) for s in self._places(window)])
            if self._subset is not None:
                images = self._subset[images]
            _remember(self._windows, window, images[permutation(len(images), self._seed, epoch, place + 1)])
        return self._windows[window]


def _remember(recent: dict[int, T], key: int, value: T) -> None:
    """Add to ``recent``, and forget the oldest when there are too many."""
    recent[key] = value
    if len(recent) > _KEPT:
        del recent[next(iter(recent))]
