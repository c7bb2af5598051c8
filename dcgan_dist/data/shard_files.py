"""The shards of a set as files of this machine, each checked before it is read: those of a directory, or fetched."""

import contextlib
import hashlib
import io
import os
import random
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.cache import Cache, CacheFullError
from dcgan_dist.data.decoding import Decoder, Stored, requests_of
from dcgan_dist.data.remote import Expected, Remote, StoppedError
from dcgan_dist.data.shards import (
    ENTRIES_NAME,
    ENTRY,
    INDEX_NAME,
    Index,
    check_shard,
    member_name,
    path_of_stated_size,
    read_contents,
    read_index,
)
from dcgan_dist.data.transforms import Pixels

FULL_SECONDS = 60.0
"""How long a shard waits for room in a cache that is full of shards in use, by this run or another."""
_NEVER = threading.Event()


class ShardFiles(Protocol):
    """Where an index's shards can be read. All methods may be called from several threads."""

    index: Index
    fetches: int
    """How many shards one process should ``hold`` at once, to be quick."""
    room: int
    """How many shards can be held at once, by all processes of this machine."""
    description: str
    """For people: where copies are kept; empty when there are none."""

    def name(self, shard: int) -> str:
        """Where a shard comes from: a path or a URL."""

    def hold(self, shard: int, stop: threading.Event) -> None:
        """Have a whole shard at ``index.path(shard)``, until it is let go; once for each ``let_go``.

        Raises:
            ValueError: If it is damaged or missing.
            CacheFullError: If there is no room for it now.
            StoppedError: If ``stop`` is set.
            OSError: If it cannot be had.
        """

    def let_go(self, shard: int) -> None:
        """Say that a shard is not needed for now."""

    def check(self, shards: Iterable[int], *, at_once: int) -> None:
        """Refuse what cannot work, as far as that is quick to see.

        Args:
            shards: which to look at.
            at_once: how many must be there at once, at most.

        Raises:
            ValueError: naming the file or the setting.
        """


class LocalShards:
    """The shards of a directory; each is compared with its sha256 the first time it is used."""

    fetches = 1
    description = ""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.room = sys.maxsize
        self._whole: set[int] = set()

    def name(self, shard: int) -> str:
        return str(self.index.path(shard))

    def hold(self, shard: int, stop: threading.Event) -> None:
        if shard in self._whole:
            return
        check_shard(self.index, shard)
        self._whole.add(shard)

    def let_go(self, shard: int) -> None:
        return

    def check(self, shards: Iterable[int], *, at_once: int) -> None:
        for shard in shards:
            path_of_stated_size(self.index, shard)


class FetchedShards:
    """Shards behind a URL, in a cache on this machine; each is locked there while it is in use."""

    fetches = 4

    def __init__(self, remote: Remote, cache: Cache, index: Index) -> None:
        self.index = index
        self._sizes = list(accumulate(sorted((shard.bytes for shard in index.contents.shards), reverse=True)))
        self.room = bisect_right(self._sizes, cache.limit_bytes)
        self.description = f", copies of shards in {cache.directory}"
        self._remote = remote
        self._cache = cache
        self._whole: set[int] = set()
        self._handles: dict[int, list[int]] = {}
        self._lock = threading.Lock()

    def name(self, shard: int) -> str:
        return self._remote.name(self.index.contents.shards[shard].file)

    def hold(self, shard: int, stop: threading.Event) -> None:
        stated = self.index.contents.shards[shard]
        handle = self._cache.hold(
            self.index.path(shard),
            expected := Expected(stated.bytes, stated.sha256),
            fetch=lambda target: self._remote.download(stated.file, target, expected=expected, stop=stop),
            known_whole=shard in self._whole,
            stop=stop,
        )
        with self._lock:
            self._whole.add(shard)
            self._handles.setdefault(shard, []).append(handle)

    def let_go(self, shard: int) -> None:
        with self._lock:
            os.close(self._handles[shard].pop())

    def check(self, shards: Iterable[int], *, at_once: int) -> None:
        if at_once > self.room:
            raise ValueError(
                f"cache_gigabytes must hold {at_once} shards at once, {self._sizes[at_once - 1] / 1e9:.3g} GB, got "
                f"{self._cache.limit_bytes / 1e9:g}; raise it, or lower shuffle_window"
            )


def fetch_index(remote: Remote, cache: Cache, text: bytes) -> Index:
    """The checked index of a directory behind a URL; its files go to a directory of their own in the cache.

    Args:
        remote: where the directory is.
        cache: where to.
        text: the bytes of its index.json.

    Raises:
        ValueError: As read_index.
        OSError: If index.npy does not come.
    """
    digest = hashlib.sha256(text).hexdigest()
    directory = cache.place(digest)

    def keep(name: str, expected: Expected, fetch: Callable[[int], None]) -> int:
        return cache.hold(directory / name, expected, fetch=fetch, known_whole=False, stop=_NEVER)

    held = []
    try:
        expected = Expected(len(text), digest)
        held.append(keep(INDEX_NAME, expected, lambda target: _write(target, text)))
        contents = read_contents(directory)
        rest = Expected(_entries_bytes(contents.images), contents.entries_sha256)
        held.append(keep(ENTRIES_NAME, rest, partial(remote.download, ENTRIES_NAME, expected=rest, stop=_NEVER)))
        return read_index(directory)
    except ValueError as error:
        raise ValueError(str(error).replace(str(directory), remote.url)) from None
    except CacheFullError as error:
        raise ValueError(f"cache_gigabytes must hold the index of {remote.url}: {error}") from None
    finally:
        for handle in held:
            os.close(handle)


def image_name(files: ShardFiles, image: int, *, look: bool = True) -> str:
    """For people: which image this is, by its number in the index: file, member and place.

    Args:
        files: the shards.
        image: its number.
        look: read the member's name in the shard, which may take for ever where a file system hangs.
    """
    entry = files.index.entries[image]
    shard, offset = int(entry["shard"]), int(entry["offset"])
    member = member_name(files.index.path(shard), offset) if look else ""
    return f"{files.name(shard)}: image {member}{' ' * bool(member)}(number {image}, at byte {offset:,})"


def stored_images(files: ShardFiles, channels: int) -> Stored:
    """What a decoder must know of the images, to give them with so many channels."""
    index = files.index
    paths = tuple(str(index.path(shard)) for shard in range(len(index.contents.shards)))
    return Stored(paths, index.shape[1], channels=index.shape[3], wanted_channels=channels)


def decode_images(
    files: ShardFiles, stored: Stored, images: NDArray[np.int64], *, out: Callable[[int], Pixels], threads: int = 1
) -> None:
    """Decode images by their numbers, shard by shard.

    Args:
        files: the shards.
        stored: what the images are.
        images: their numbers in the index.
        out: where to, (channels, size, size), for a number.
        threads: shards at a time.

    Raises:
        ValueError: If a shard is missing or damaged, or an image is; which one, and what is wrong with it.
        OSError: If a shard cannot be had.
    """
    images = np.sort(images)
    entries = files.index.entries[images]
    stop = threading.Event()

    def decode(shard: int) -> None:
        first, last = np.searchsorted(entries["shard"], [shard, shard + 1])
        if stop.is_set():
            return
        with contextlib.closing(Decoder(stored)) as decoder, _held(files, shard, stop):
            for image, request in zip(images[first:last], requests_of(entries[first:last]), strict=True):
                try:
                    decoder.decode(request, out(int(image)))
                except ValueError as error:
                    raise ValueError(f"{image_name(files, int(image))} {error}") from None

    with ThreadPoolExecutor(threads) as pool:
        try:
            for _ in pool.map(decode, np.unique(entries["shard"]).tolist()):
                pass  # so that an error in a thread is raised here
        finally:
            stop.set()  # after an error nobody wants the rest


@contextlib.contextmanager
def _held(files: ShardFiles, shard: int, stop: threading.Event) -> Iterator[None]:
    """Hold a shard, after waiting for other runs to let go of theirs if there is no room."""
    deadline = time.monotonic() + FULL_SECONDS
    while True:
        try:
            files.hold(shard, stop)
            break
        except CacheFullError as error:
            if time.monotonic() > deadline:
                raise ValueError(f"cache_gigabytes is too small, or other runs fill the cache: {error}") from None
            if stop.wait(random.uniform(0.1, 0.3)):  # noqa: S311
                raise StoppedError from None
    try:
        yield
    finally:
        files.let_go(shard)


def _write(handle: int, data: bytes) -> None:
    with open(handle, "wb", closefd=False) as file:
        file.write(data)


def _entries_bytes(images: int) -> int:
    """The length of index.npy."""
    header = io.BytesIO()
    shape = {"descr": np.lib.format.dtype_to_descr(ENTRY), "fortran_order": False, "shape": (images,)}
    np.lib.format.write_array_header_1_0(header, shape)
    return header.tell() + images * ENTRY.itemsize
