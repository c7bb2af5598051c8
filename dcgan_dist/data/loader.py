"""From shards to batches: this process's rows of step k, as uint8 pixels on its device."""

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcgan_dist.config import DataConfig, NetworkConfig
from dcgan_dist.data.order import Order, training_subset
from dcgan_dist.data.shards import Index, read_index, read_pixels
from dcgan_dist.data.transforms import with_channels


class Loader(Protocol):
    """Batches by step, in an order that no loader, rank or interruption changes."""

    digest: str
    """Identity of the images: changes with any pixel, label or place of theirs."""
    image_count: int
    """Of the training subset."""
    description: str
    """For people: what was loaded and how."""

    def positions(self, step: int) -> NDArray[np.int64]:
        """(batch_size,) numbers of the images of a step (from 0), over all processes."""

    def batch(self, step: int) -> Tensor:
        """Pixels of this process's rows of a step (from 0), (rows, channels, size, size) uint8, on the device."""

    def first(self, count: int) -> NDArray[np.uint8]:
        """(count or fewer, H, W, C) uint8: the first images of the whole order, as the run sees them."""


class ResidentLoader:
    """All images decoded once into one uint8 tensor on the device; a batch is one gather."""

    def __init__(self, pixels: Tensor, order: Order, *, batch_size: int, rows: tuple[int, int], digest: str) -> None:
        self.digest = digest
        self.image_count = order.length
        self.description = f"resident, {pixels.nbytes / 2**20:.1f} MiB on {pixels.device}"
        self._pixels = pixels
        self._order = order
        self._batch_size = batch_size
        self._rows = rows

    def positions(self, step: int) -> NDArray[np.int64]:
        return self._order.images(step * self._batch_size, (step + 1) * self._batch_size)

    def batch(self, step: int) -> Tensor:
        chosen = torch.from_numpy(self.positions(step)[slice(*self._rows)])
        if self._pixels.is_cuda:
            chosen = chosen.pin_memory().to(self._pixels.device, non_blocking=True)
        return self._pixels[chosen]

    def first(self, count: int) -> NDArray[np.uint8]:
        images = torch.from_numpy(self._order.images(0, min(count, self.image_count)))
        return self._pixels[images.to(self._pixels.device)].permute(0, 2, 3, 1).cpu().numpy()


def open_loader(
    data: DataConfig, network: NetworkConfig, *, seed: int, rows: tuple[int, int], device: torch.device
) -> Loader:
    """The loader of a run.

    Args:
        data: which shards, and the batch size.
        network: which size and channels the images must have; colour becomes grey for one channel.
        seed: the run's seed.
        rows: start and stop of this process's rows of the global batch.
        device: where batches are wanted.

    Raises:
        ValueError: no shards, shards of another size, or damaged ones; the field or file is named.
    """
    index = _checked_index(data, network)
    pixels = read_pixels(index)
    if network.channels != index.shape[3]:
        pixels = np.stack([with_channels(image, network.channels) for image in pixels])
    resident = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device)
    counts = [shard.images for shard in index.contents.shards]
    names = index.contents.settings.classes
    subset = training_subset(index.labels, names, classes=data.classes, size=data.subset_size)
    order = Order(counts, seed=seed, shuffle_window=data.shuffle_window, subset=subset)
    return ResidentLoader(resident, order, batch_size=data.batch_size, rows=rows, digest=_digest(index))


def _checked_index(data: DataConfig, network: NetworkConfig) -> Index:
    if not data.data:
        raise ValueError("data must be a directory of shards, got none; make one with dcgan-shard")
    index = read_index(Path(data.data))
    _, _, size, channels = index.shape
    if size != network.image_size:
        raise ValueError(
            f"data {data.data} has images of {size} x {size} pixels, the model makes {network.image_size} x "
            f"{network.image_size}: convert again with dcgan-shard ... --size {network.image_size}"
        )
    if channels < network.channels:
        raise ValueError(f"data {data.data} is grey, the model makes colour: convert without --gray or use channels 1")
    return index


def _digest(index: Index) -> str:
    parts = [index.contents.entries_sha256, *(shard.sha256 for shard in index.contents.shards)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
