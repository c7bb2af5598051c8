"""What dcgan-doctor measures: this process and its machine, the network between ranks, a few steps of a run."""

import hashlib
import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from dcgan_dist import __version__
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.runtime import Runtime, wait_for
from dcgan_dist.machine import core_numbers, cpu_model

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  asked for its size, nothing is written
DISK_BYTES = 64 * 2**20
DISK_SECONDS = 5.0
"""A disk that has not taken DISK_BYTES by then is judged by what it took."""

SMALL_BYTES = 4 * 2**10
"""A message that takes the network's latency and no more: batch norm's statistics are of this size."""
LARGE_BYTES = 16 * 2**20
"""A message whose time is all bandwidth, about a bucket of gradients."""
WARM_UP_CALLS = 2
FEWEST_CALLS, MOST_CALLS = 3, 500
TIMING_SECONDS = 1.0
"""For each thing timed, if FEWEST_CALLS do not take longer."""

# This process and its machine


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The disk of a directory."""

    path: str
    free_bytes: int = 0
    bytes_per_second: float = 0.0
    error: str = ""
    """Why nothing could be written."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One process and the machine it runs on."""

    rank: int
    host: str
    versions: dict[str, str]
    """Of all that numbers may depend on, by name; ``source`` is a hash of this package's own files."""
    device_type: str
    device: str
    """Name of the GPU, or of the CPU."""
    device_bytes: tuple[int, int] | None
    """Free and total memory of the GPU."""
    threads: int
    cores: frozenset[int]
    """Numbers of the CPU cores this process may use."""
    open_files: int | None
    """How many files and sockets it may have open; None is any number."""
    shared_memory: tuple[int, int] | None
    """Free and total bytes of /dev/shm, where there is one."""
    disk: Disk | None
    """From one process of each machine."""


def facts(runtime: Runtime, directory: Path) -> Facts:
    """What this process sees; the first of each machine also tries the disk of ``directory``."""
    cuda = runtime.device.type == "cuda"
    shared = None
    if SHARED_MEMORY.is_dir():
        usage = shutil.disk_usage(SHARED_MEMORY)
        shared = (usage.free, usage.total)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Facts(
        rank=runtime.rank,
        host=socket.gethostname(),
        versions=versions(cuda=cuda),
        device_type=runtime.device.type,
        device=torch.cuda.get_device_name(runtime.device) if cuda else cpu_model(),
        device_bytes=torch.cuda.mem_get_info(runtime.device) if cuda else None,
        threads=torch.get_num_threads(),
        cores=core_numbers(),
        open_files=None if limit == resource.RLIM_INFINITY else limit,
        shared_memory=shared,
        disk=tried_disk(directory) if runtime.accelerator.is_local_main_process else None,
    )


def versions(*, cuda: bool) -> dict[str, str]:
    """Versions by name, of this package, Python and the libraries; with those of CUDA and NCCL for a GPU."""
    found = {
        "dcgan_dist": __version__,
        "source": source_hash(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "accelerate": importlib.metadata.version("accelerate"),
        "numpy": np.__version__,
    }
    if cuda:
        found["cuda"] = str(torch.version.cuda)
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    return found


def source_hash(package: Path) -> str:
    """Eight hexadecimal digits that change with any Python file below ``package``: a stale copy has other ones."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def tried_disk(directory: Path) -> Disk:
    """Free space of ``directory``, and how fast a temporary file gets through to its disk."""
    block = os.urandom(DISK_BYTES // 8)
    written = 0
    try:
        with tempfile.TemporaryFile(dir=directory) as file:  # has no name where the system allows it
            begin = time.perf_counter()
            while written < DISK_BYTES and time.perf_counter() - begin < DISK_SECONDS:
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
                written += len(block)
            seconds = time.perf_counter() - begin
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return Disk(path=str(directory), error=error.strerror or str(error))
    return Disk(path=str(directory), free_bytes=free, bytes_per_second=written / seconds)


# The network


@dataclass(frozen=True, kw_only=True)
class Network:
    """What collectives cost, medians in seconds, and whether they add up."""

    backend: str
    all_reduce_small: float
    all_gather_small: float
    all_reduce_large: float
    sums_right: bool


def network(device: torch.device) -> Network:
    """Timed collectives of all ranks; there must be several."""
    small, large = (torch.zeros(size // 4, device=device) for size in (SMALL_BYTES, LARGE_BYTES))
    ranks = torch.full_like(large, collectives.rank() + 1)
    world_size = collectives.world_size()
    right = bool((collectives.all_reduce(ranks) == world_size * (world_size + 1) / 2).all())
    return Network(
        backend=str(dist.get_backend()),
        all_reduce_small=_median_seconds(partial(collectives.all_reduce, small), device),
        all_gather_small=_median_seconds(partial(collectives.all_gather, small), device),
        all_reduce_large=_median_seconds(partial(collectives.all_reduce, large), device),
        sums_right=all(collectives.gathered(right)),
    )


def bus_bandwidth(size_bytes: int, seconds: float, *, world_size: int) -> float:
    """Bytes a second over each link when an all-reduce goes round in a ring: each rank sends 2 (N - 1) / N of it."""
    return size_bytes * 2 * (world_size - 1) / world_size / seconds


def _median_seconds(collective: Callable[[], object], device: torch.device) -> float:
    """What one call takes; all ranks make equally many."""
    for _ in range(WARM_UP_CALLS):
        collective()
    slowest = max(collectives.gathered(_seconds(collective, device)))
    calls = min(MOST_CALLS, max(FEWEST_CALLS, int(TIMING_SECONDS / slowest)))
    return statistics.median(_seconds(collective, device) for _ in range(calls))


def _seconds(collective: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    begin = time.perf_counter()
    collective()
    wait_for(device)
    return time.perf_counter() - begin
