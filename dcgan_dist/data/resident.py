"""The loader for sets that fit into memory: all images decoded once, one copy on a machine or on a GPU."""

import time
from collections import deque
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcgan_dist.data.order import Order
from dcgan_dist.data.shard_files import ShardFiles, decode_images, stored_images
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.node import Node, shared_memory

ROUND_SECONDS = 60.0
"""After so much decoding a process meets the others, which else would wait for a slower one until their timeout."""


NONE = np.empty(0, np.int64)
"""No image."""


class ResidentLoader:
    """All images decoded once into one uint8 tensor on the device; a batch is one gather.

    Args:
        pixels: (images, channels, size, size) uint8.
        order: of the images.
        batch_size: over all processes.
        rows: start and stop of this process's rows of it.
        digest: identity of the images.
        held_out: numbers of the images that are never trained on.
        images: (images,) numbers that the order knows them by, rising; by default all from 0.
        sharers: processes that have the memory in common.
    """

    def __init__(
        self,
        pixels: Tensor,
        order: Order,
        *,
        batch_size: int,
        rows: tuple[int, int],
        digest: str,
        images: NDArray[np.int64] | None = None,
        held_out: NDArray[np.int64] = NONE,
        sharers: int = 1,
    ) -> None:
        self.digest = digest
        self.image_count = order.length
        shared = f" shared by {sharers} processes" if sharers > 1 else ""
        self.description = f"resident, {pixels.nbytes / 2**20:.1f} MiB on {pixels.device}{shared}"
        self.settings: dict[str, Any] = {"loader": "resident"}
        self.held_out = held_out
        self._pixels = pixels
        self._images = np.arange(len(pixels)) if images is None else images
        self._order = order
        self._batch_size = batch_size
        self._rows = rows

    def positions(self, step: int) -> NDArray[np.int64]:
        return self._order.images(step * self._batch_size, (step + 1) * self._batch_size)

    def batch(self, step: int) -> Tensor:
        start, stop = (step * self._batch_size + row for row in self._rows)
        chosen = self._places(self._order.images(start, stop))
        if self._pixels.device.type != "cpu":
            chosen = chosen.pin_memory().to(self._pixels.device, non_blocking=True)
        return self._pixels[chosen]

    def first(self, count: int) -> NDArray[np.uint8]:
        return self.read(self._order.images(0, min(count, self.image_count)))

    def read(self, images: NDArray[np.int64]) -> NDArray[np.uint8]:
        chosen = self._places(images).to(self._pixels.device)
        return self._pixels[chosen].permute(0, 2, 3, 1).cpu().numpy()

    def close(self) -> None:
        return

    def _places(self, images: NDArray[np.int64]) -> Tensor:
        """Where in memory some images are."""
        return torch.from_numpy(np.searchsorted(self._images, images))


def decoded(
    files: ShardFiles, images: NDArray[np.int64], node: Node, *, channels: int, device: torch.device
) -> tuple[Tensor, int]:
    """Images by their numbers, (images, channels, size, size) uint8 on the device, and how many processes share them.

    On the CPU the processes of a node share the memory and the work; on GPUs the work, and each has its copy. Every
    rank calls it.

    Raises:
        ValueError: on every rank, if a shard or an image is damaged, or there is no memory.
        OSError: on every rank, if a shard cannot be had.
    """
    stored = stored_images(files, channels)
    shape = (len(images), channels, stored.size, stored.size)
    memory = shared_memory(node, int(np.prod(shape)))
    pixels = np.empty(shape, np.uint8) if memory is None else np.frombuffer(memory, np.uint8).reshape(shape)
    shard_of = files.index.entries["shard"][images]
    shards = np.unique(shard_of)
    if memory is not None:
        shards = np.array_split(shards, node.size)[node.rank]
    threads = max(1, min(max(files.fetches, node.cores), files.room // node.size))
    parts = deque(shards[start : start + 4 * threads] for start in range(0, len(shards), 4 * threads))

    def decode() -> None:
        deadline = time.monotonic() + ROUND_SECONDS
        while parts and time.monotonic() < deadline:
            part = parts.popleft()
            own = images[slice(*np.searchsorted(shard_of, [part[0], part[-1] + 1]))]
            decode_images(files, stored, own, out=lambda image: pixels[np.searchsorted(images, image)], threads=threads)

    while any(collectives.gathered(len(parts))):  # nobody goes on before all have done their part
        collectives.on_all(decode)
    tensor = collectives.on_all(partial(_moved, torch.from_numpy(pixels), device))
    return tensor, node.size if memory is not None and device.type != "cuda" else 1


def _moved(pixels: Tensor, device: torch.device) -> Tensor:
    try:
        return pixels.to(device)
    except torch.OutOfMemoryError:
        needed = f"{pixels.nbytes / 2**30:.1f} GiB"
        raise ValueError(f"loader resident needs {needed} on {device}; use --loader indexed") from None
