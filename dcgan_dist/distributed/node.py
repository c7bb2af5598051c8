"""The processes of a run that share a machine, and memory that they share."""

import mmap
import os
import platform
import secrets
from dataclasses import dataclass
from pathlib import Path

from dcgan_dist.distributed import collectives
from dcgan_dist.machine import anonymous_file, core_numbers

_TOKEN_BYTES = 16


@dataclass(frozen=True)
class Node:
    """The processes of this run on this machine, seen from one of them."""

    ranks: tuple[int, ...]
    """Their numbers in the run."""
    rank: int
    """Place of this process among them, from 0."""
    cores: int
    """CPU cores for this process: those it may use, shared with the processes that may use some of them too."""

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.ranks)


def this_node() -> Node:
    """The node of this process. Every rank calls it."""
    found = collectives.gathered((identity(), core_numbers()))
    own = collectives.rank()
    name, cores = found[own]
    ranks = tuple(rank for rank, (node, _) in enumerate(found) if node == name)
    sharers = sum(not cores.isdisjoint(found[rank][1]) for rank in ranks)  # one where each is bound to its own
    return Node(ranks, ranks.index(own), max(1, len(cores) // sharers))


def identity() -> str:
    """A text that is the same in processes that see each other: one boot of one machine, one process namespace."""
    parts = [platform.node()]
    for path in (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")):
        try:
            parts.append(str(path.readlink()) if path.is_symlink() else path.read_text(encoding="ascii").strip())
        except OSError:  # not Linux
            continue
    return " ".join(parts)


def shared_memory(node: Node, size: int) -> mmap.mmap | None:
    """Zero bytes that all processes of a node see; None on all of them where that cannot be. Every rank calls it.

    They never have a name in a file system, so whatever ends the processes frees them. The first process of the node
    makes them, the others find them among its open files.
    """
    if collectives.world_size() == 1:
        return None
    handle, offer = -1, None
    if node.rank == 0 and node.size > 1:
        try:
            handle = anonymous_file(_TOKEN_BYTES + size)
            token = secrets.token_bytes(_TOKEN_BYTES)
            os.pwrite(handle, token, size)
            offer = (f"/proc/{os.getpid()}/fd/{handle}", token)
        except OSError:
            pass
    offers = collectives.gathered(offer)
    memory = _mapped(offers[node.ranks[0]], size)
    everybody = collectives.gathered(memory is not None)  # afterwards nobody needs the file any more
    if handle != -1:
        os.close(handle)
    return memory if all(everybody[rank] for rank in node.ranks) else None


def _mapped(offer: tuple[str, bytes] | None, size: int) -> mmap.mmap | None:
    """The memory of an offer; None when there is none, or another process's file of that name."""
    if offer is None:
        return None
    path, token = offer
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(handle).st_size != size + _TOKEN_BYTES or os.pread(handle, _TOKEN_BYTES, size) != token:
            return None
        return mmap.mmap(handle, size)
    except (OSError, ValueError):
        return None
    finally:
        os.close(handle)
