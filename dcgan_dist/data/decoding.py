"""Images out of shards by their place in them: a bounded number of open files, one read and one decoding each."""

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.transforms import Pixels, decode_stored, with_channels

OPEN_FILES = 64
"""Shards that a decoder keeps open; two windows of the default shuffle_window are 32."""
MAX_OVERHEAD = 2**20
"""Bytes that an image's file may have beyond twice those of its pixels: what is read before it is looked at."""
REQUEST = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("length", "<u4")])
"""An image to decode: number of its shard, place and length of its file in that shard (bytes)."""


class UndecodedError(Exception):
    """A row of images that is not decoded: which one, what happened, and whether its shard can be read."""

    def __init__(self, row: int, why: str, *, is_readable: bool = True) -> None:
        super().__init__(why)
        self.row = row
        self.is_readable = is_readable


@dataclass(frozen=True)
class Stored:
    """The shards of a set, and what their images are."""

    paths: tuple[str, ...]
    size: int
    """Height and width, pixels."""
    channels: int
    """As stored: 1 or 3."""
    wanted_channels: int
    """As decoded: the same, or 1."""


class Decoder:
    """Reads and decodes; one thread at a time may use it."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._files: OrderedDict[int, int] = OrderedDict()  # the one used last comes last

    def close(self) -> None:
        """Close all shards."""
        self.forget(tuple(self._files))

    def decode(self, request: np.void, out: Pixels) -> None:
        """Write the pixels of an image to ``out``, (channels, size, size).

        Raises:
            ValueError: If the image is damaged; what is wrong with it.
            OSError: If the shard cannot be read.
        """
        shard, offset, length = (int(request[name]) for name in ("shard", "offset", "length"))
        stored = self._stored
        longest = MAX_OVERHEAD + 2 * stored.channels * stored.size**2
        if length > longest:
            raise ValueError(f"must have at most {longest:,} bytes, has {length:,}")
        data = os.pread(self._file(shard), length, offset)
        if len(data) != length:
            raise ValueError(f"must have {length:,} bytes, the shard ends after {len(data):,} of them")
        pixels = decode_stored(data, stored.size, channels=stored.channels)
        if stored.wanted_channels != stored.channels:
            pixels = with_channels(np.ascontiguousarray(pixels), stored.wanted_channels)
        out[...] = pixels.transpose(2, 0, 1)

    def forget(self, shards: Iterable[int]) -> None:
        """Close shards, so that what is removed from a cache is gone."""
        for shard in shards:
            if shard in self._files:
                os.close(self._files.pop(shard))

    def _file(self, shard: int) -> int:
        if shard not in self._files:
            self._files[shard] = os.open(self._stored.paths[shard], os.O_RDONLY)
            if len(self._files) > OPEN_FILES:
                self.forget((next(iter(self._files)),))
        self._files.move_to_end(shard)
        return self._files[shard]


def requests_of(entries: NDArray[np.void] | Sequence[np.void]) -> NDArray[np.void]:
    """Entries of an index as requests."""
    entries = np.asarray(entries)
    requests = np.empty(len(entries), REQUEST)
    for name in REQUEST.names or ():
        requests[name] = entries[name]
    return requests
