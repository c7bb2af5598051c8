"""The loader for sets larger than memory: images are read by their place in the shards and decoded ahead of need."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcgan_dist.data.cache import CacheFullError
from dcgan_dist.data.decoding import REQUEST, Decoder, Stored, UndecodedError, requests_of
from dcgan_dist.data.order import Order
from dcgan_dist.data.shard_files import ShardFiles, decode_images, image_name, stored_images
from dcgan_dist.data.windows import Windows
from dcgan_dist.data.workers import Workers
from dcgan_dist.distributed.node import Node

STEPS_AHEAD = 8
"""Batches that are being decoded or lie ready, when they take no more than AHEAD_BYTES."""
AHEAD_BYTES = 2**28
"""Pixels ahead, of one process; two batches at least."""


class IndexedLoader:
    """Batches of images that are decoded as they are needed, in a bounded part of memory.

    Args:
        files: the shards.
        order: of the images.
        batch_size: over all processes.
        rows: start and stop of this process's rows of it.
        channels: of the images wanted.
        workers: processes that decode; 0: this one.
        node: the processes that share the work of fetching.
        device: where batches are wanted.
        digest: identity of the images.
        held_out: numbers of those that are never trained on.
    """

    def __init__(
        self,
        files: ShardFiles,
        order: Order,
        *,
        batch_size: int,
        rows: tuple[int, int],
        channels: int,
        workers: int,
        node: Node,
        device: torch.device,
        digest: str,
        held_out: NDArray[np.int64],
    ) -> None:
        self.digest = digest
        self.held_out = held_out
        self.image_count = order.length
        plural = "" if workers == 1 else "es"
        self.description = f"indexed, {workers or 'no'} worker process{plural}{files.description}"
        self.settings: dict[str, Any] = {"loader": "indexed", "workers": workers}
        self._files = files
        self._order = order
        self._batch_size = batch_size
        self._rows = rows
        self._device = device
        self._stored = stored_images(files, channels)
        local = rows[1] - rows[0]
        batch_bytes = local * channels * self._stored.size**2
        self._ahead = max(2, min(STEPS_AHEAD, AHEAD_BYTES // batch_bytes)) if workers else 1
        self._worker_count = workers
        self._decoding: Workers | _Here | None = None  # begins with the first batch
        self._windows = Windows(
            files,
            order.window_shards,
            first_share=lambda shard: shard % node.size == node.rank,
            let_go=self._let_go,
        )
        self._images = np.zeros(self._ahead * local, np.int64)  # of each row that is decoded or being so
        self._next = 0  # step that will be asked for, if nothing jumps
        self._begun = 0  # steps that are decoded or being so are from _next up to this

    def positions(self, step: int) -> NDArray[np.int64]:
        return self._order.images(step * self._batch_size, (step + 1) * self._batch_size)

    def batch(self, step: int) -> Tensor:
        decoding = self._started()
        try:
            if step != self._next:
                decoding.drain()
                self._next = self._begun = step
            self._begin(decoding, wait=True)
            start, stop = self._slot(step)
            decoding.wait(start, stop)
            pixels = decoding.pixels[start:stop]
            if self._device.type == "cuda":
                batch = torch.from_numpy(pixels).pin_memory().to(self._device, non_blocking=True)
            else:
                batch = torch.from_numpy(pixels.copy())  # not torch's copy: its threads would wait for each other
            self._next = step + 1
            self._begin(decoding, wait=False)
        except UndecodedError as error:
            name = image_name(self._files, int(self._images[error.row]), look=error.is_readable)
            raise OSError(f"{name} {error}") from None
        return batch

    def first(self, count: int) -> NDArray[np.uint8]:
        return self.read(self._order.images(0, min(count, self.image_count)))

    def read(self, images: NDArray[np.int64]) -> NDArray[np.uint8]:
        pixels = np.empty((len(images), self._stored.wanted_channels, *[self._stored.size] * 2), np.uint8)
        places = {int(image): row for row, image in enumerate(images)}
        try:
            decode_images(self._files, self._stored, images, out=lambda image: pixels[places[image]])
        except (ValueError, CacheFullError) as error:
            raise OSError(str(error)) from None
        return pixels.transpose(0, 2, 3, 1)

    def close(self) -> None:
        if self._decoding is not None:
            self._decoding.close()
            self._decoding = None
        self._windows.close()

    def _started(self) -> "Workers | _Here":
        if self._decoding is None:
            rows = len(self._images)
            if self._worker_count:
                self._decoding = Workers(self._stored, count=self._worker_count, rows=rows)
            else:
                self._decoding = _Here(self._stored, rows)
        return self._decoding

    def _slot(self, step: int) -> tuple[int, int]:
        """The rows of memory that the images of a step are decoded into."""
        local = self._rows[1] - self._rows[0]
        start = step % self._ahead * local
        return start, start + local

    def _begin(self, decoding: "Workers | _Here", *, wait: bool) -> None:
        """Begin to decode as many steps as there is memory for; with ``wait`` the next one at least."""
        first = self._order.window_at(self._next * self._batch_size + self._rows[0])
        while self._begun < self._next + self._ahead:
            start, stop = (self._begun * self._batch_size + row for row in self._rows)
            last = self._order.window_at(stop - 1)
            if not self._windows.ready(first, last, wait=wait and self._begun == self._next):
                return
            images = self._order.images(start, stop)
            slot = self._slot(self._begun)
            self._images[slice(*slot)] = images
            decoding.decode(slot[0], requests_of(self._files.index.entries[images]))
            self._begun += 1

    def _let_go(self, shards: Sequence[int]) -> None:
        if self._decoding is not None:
            self._decoding.forget(shards)


class _Here:
    """What ``Workers`` are, in this process: images are decoded when they are waited for."""

    def __init__(self, stored: Stored, rows: int) -> None:
        self.pixels = np.empty((rows, stored.wanted_channels, stored.size, stored.size), np.uint8)
        self._requests = np.empty(rows, REQUEST)
        self._decoder = Decoder(stored)

    def decode(self, start: int, requests: NDArray[np.void]) -> None:
        self._requests[start : start + len(requests)] = requests

    def wait(self, start: int, stop: int) -> None:
        for row in range(start, stop):
            try:
                self._decoder.decode(self._requests[row], self.pixels[row])
            except (ValueError, OSError) as error:
                raise UndecodedError(row, str(error)) from None

    def drain(self) -> None:
        return

    def forget(self, shards: Sequence[int]) -> None:
        self._decoder.forget(shards)

    def close(self) -> None:
        self._decoder.close()
