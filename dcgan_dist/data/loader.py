"""From shards to batches: this process's rows of step k, as uint8 pixels on its device."""

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcgan_dist.config import DataConfig, NetworkConfig
from dcgan_dist.data.cache import Cache
from dcgan_dist.data.indexed import IndexedLoader
from dcgan_dist.data.order import Order, training_subset
from dcgan_dist.data.remote import parse_place
from dcgan_dist.data.resident import ResidentLoader, decoded
from dcgan_dist.data.shard_files import FetchedShards, LocalShards, ShardFiles, fetch_index
from dcgan_dist.data.shards import INDEX_NAME, Index, read_index
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.node import Node, this_node
from dcgan_dist.machine import free_memory

RESIDENT_SHARE = 0.5
"""Of the free memory: what all images may take for ``auto`` to keep them there."""
MOST_WORKERS = 4
"""Worker processes that a training process has unless it is told how many."""


class Loader(Protocol):
    """Batches by step, in an order that no loader, rank or interruption changes."""

    digest: str
    """Identity of the images: changes with any pixel, label or place of theirs."""
    image_count: int
    """Of the training subset."""
    description: str
    """For people: what was loaded and how."""
    settings: dict[str, Any]
    """What was left to be chosen, by the names of the settings."""

    def positions(self, step: int) -> NDArray[np.int64]:
        """(batch_size,) numbers of the images of a step (from 0), over all processes."""

    def batch(self, step: int) -> Tensor:
        """Pixels of this process's rows of a step (from 0), (rows, channels, size, size) uint8, on the device.

        Raises:
            OSError: when a shard or an image cannot be read, naming it.
        """

    held_out: NDArray[np.int64]
    """Numbers of the images that are never trained on."""

    def read(self, images: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(len(images), H, W, C) uint8: images of the training subset or held out, by their numbers.

        Raises:
            OSError: as batch.
        """

    def first(self, count: int) -> NDArray[np.uint8]:
        """(count or fewer, H, W, C) uint8: the first images of the whole order, as the run sees them.

        Raises:
            OSError: as batch.
        """

    def close(self) -> None:
        """End what works ahead: threads, processes, locks on shards."""


def open_loader(
    data: DataConfig, network: NetworkConfig, *, seed: int, rows: tuple[int, int], device: torch.device
) -> Loader:
    """The loader of a run. Every rank calls it.

    Args:
        data: which shards, how, and the batch size.
        network: which size and channels the images must have; colour becomes grey for one channel.
        seed: the run's seed.
        rows: start and stop of this process's rows of the global batch.
        device: where batches are wanted.

    Raises:
        ValueError: on every rank; no shards, shards of another size, or damaged ones; the field or file is named.
        OSError: on every rank; something cannot be read or fetched.
    """
    node = this_node()
    files = open_shards(data)
    collectives.on_all(partial(check_fit, files.index, data, network))
    counts = [shard.images for shard in files.index.contents.shards]
    subset, held_out = collectives.on_all(partial(training_images, files.index, data))
    order = Order(counts, seed=seed, shuffle_window=data.shuffle_window, subset=subset)
    digest = digest_of(files.index)
    resident = _is_resident(data, network, order.length + len(held_out), node, device)
    at_once = min(node.size, len(order.shards)) if resident else _shards_at_once(order.shard_counts, data)
    collectives.on_all(lambda: files.check(order.shards[node.rank :: node.size], at_once=at_once))
    if resident:
        images = np.arange(order.length) if subset is None else np.concatenate([subset, held_out])
        pixels, sharers = decoded(files, images, node, channels=network.channels, device=device)
        return ResidentLoader(
            pixels,
            order,
            batch_size=data.batch_size,
            rows=rows,
            digest=digest,
            images=images,
            held_out=held_out,
            sharers=sharers,
        )
    workers = collectives.from_main(lambda: max(0, min(MOST_WORKERS, node.cores - 1)))
    return IndexedLoader(
        files,
        order,
        batch_size=data.batch_size,
        rows=rows,
        channels=network.channels,
        workers=workers if data.workers is None else data.workers,
        node=node,
        device=device,
        digest=digest,
        held_out=held_out,
    )


def training_images(index: Index, data: DataConfig) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
    """The images that the run trains on, None for all; and those that it never sees."""
    if not (data.classes or data.subset_size or data.held_out):
        return None, np.empty(0, np.int64)
    return training_subset(
        index.labels,
        index.contents.settings.classes,
        classes=data.classes,
        size=data.subset_size,
        held_out=data.held_out,
    )


def open_shards(data: DataConfig) -> ShardFiles:
    """The shards that the settings name, the same on all ranks."""
    place = collectives.on_all(partial(parse_place, data.data))
    collectives.check_equal({"data": "a directory" if isinstance(place, Path) else place.url})
    if isinstance(place, Path):
        return LocalShards(collectives.on_all(partial(read_index, place)))
    remote = place

    def connected() -> Cache:
        remote.connect()
        return Cache(cache_directory(data.cache_dir), limit_bytes=int(data.cache_gigabytes * 1e9))

    cache = collectives.on_all(connected)
    text = collectives.from_main(partial(remote.read_index, INDEX_NAME))
    return FetchedShards(remote, cache, collectives.on_all(partial(fetch_index, remote, cache, text)))


def cache_directory(setting: str) -> Path:
    """Where fetched shards are kept: cache_dir, or below TMPDIR where that is set, or below the user's cache."""
    if setting:
        return Path(os.path.expandvars(setting)).expanduser()
    if os.environ.get("TMPDIR"):
        return Path(os.environ["TMPDIR"]) / f"dcgan_dist-{os.getuid()}"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dcgan_dist"


def check_fit(index: Index, data: DataConfig, network: NetworkConfig) -> None:
    """Raise ValueError unless the images are of the size and have the channels that the networks need."""
    _, _, size, channels = index.shape
    if size != network.image_size:
        raise ValueError(
            f"data {data.data} has images of {size} x {size} pixels, the model makes {network.image_size} x "
            f"{network.image_size}: convert again with dcgan-shard ... --size {network.image_size}"
        )
    if channels < network.channels:
        raise ValueError(f"data {data.data} is grey, the model makes colour: convert without --gray or use channels 1")


def _is_resident(data: DataConfig, network: NetworkConfig, images: int, node: Node, device: torch.device) -> bool:
    """Whether so many images are to be kept in memory, decoded; the same on all ranks.

    Raises:
        ValueError: if that is asked for and there is no room.
    """
    needed = images * network.channels * network.image_size**2
    machine = free_memory()
    room = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else machine

    def check() -> bool:
        if data.loader == "auto":
            return needed <= RESIDENT_SHARE * min(room, machine / (1 if device.type == "cuda" else node.size))
        if data.loader == "resident" and needed > min(room, machine):
            raise ValueError(
                f"loader resident needs {needed / 2**30:.1f} GiB for {images:,} images, "
                f"{min(room, machine) / 2**30:.1f} GiB are free; use --loader indexed"
            )
        return data.loader == "resident"

    return all(collectives.gathered(collectives.on_all(check)))


def _shards_at_once(counts: list[int], data: DataConfig) -> int:
    """How many shards the windows that one batch touches may have, at most."""
    window, ordered = data.shuffle_window, sorted(counts)
    windows = 2 + data.batch_size // max(1, sum(ordered[:window]))
    rest = len(counts) % window
    if rest and data.batch_size > sum(ordered[:rest]):
        windows += 1  # the last one of an epoch is smaller
    return min(len(counts), window * windows)


def digest_of(index: Index) -> str:
    """Identity of the images, as a loader's ``digest``."""
    parts = [index.contents.entries_sha256, *(shard.sha256 for shard in index.contents.shards)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
