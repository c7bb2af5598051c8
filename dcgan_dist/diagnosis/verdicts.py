"""What dcgan-doctor makes of what it found: rows of its table and a sentence for people."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dcgan_dist.diagnosis.probe import LARGE_BYTES, SMALL_BYTES, Facts, Network, bus_bandwidth
from dcgan_dist.diagnosis.trial import Comparison, Outcome
from dcgan_dist.words import counted

OPEN_FILES = 128
OPEN_FILES_PER_RANK = 4
"""Sockets to each other process, over what a process needs by itself."""
SHARED_MEMORY_BYTES = 128 * 2**20
"""For each process; a container has 64 MiB in all unless told otherwise."""
FREE_DISK_BYTES = 5e9
DISK_BYTES_PER_SECOND = 20e6
LATENCY_SECONDS = 1e-3
LINK_BYTES_PER_SECOND = 0.1e9  # a gigabit network


@dataclass(frozen=True)
class Check:
    """One row of the report."""

    name: str
    found: str
    verdict: Literal["ok", "note", "WRONG"] = "ok"
    values: dict[str, Any] = field(default_factory=dict)
    """The numbers behind ``found``, for programs."""


def judge_facts(ranks: Sequence[Facts]) -> list[Check]:
    """Processes, versions, devices, and what each machine allows them; ``ranks`` in order."""
    return [
        _judge_processes(ranks),
        _judge_versions(ranks),
        _judge_devices(ranks),
        _judge_open_files(ranks),
        _judge_shared_memory(ranks),
        _judge_disks(ranks),
    ]


def _judge_processes(ranks: Sequence[Facts]) -> Check:
    hosts = _grouped(ranks, lambda rank: rank.host)
    more = f" and {len(hosts) - 4} more" if len(hosts) > 4 else ""
    fewest, most = min(rank.threads for rank in ranks), max(rank.threads for rank in ranks)
    each = f"{fewest} to {counted(most, 'thread')}" if fewest < most else counted(most, "thread")
    found = f"{len(ranks)} on {', '.join(list(hosts)[:4])}{more}, {each} each"
    values = {"world_size": len(ranks), "hosts": {host: len(members) for host, members in hosts.items()}}
    for host, members in hosts.items():
        threads = sum(rank.threads for rank in members)
        cores = len(frozenset[int]().union(*(rank.cores for rank in members)))
        if members[0].device_type == "cpu" and not cores / 2 <= threads <= cores:
            found += f"; {counted(threads, 'thread')} in all for the {counted(cores, 'core')} of {host}"
            return Check("processes", found, "note", values)
    return Check("processes", found, values=values)


def _judge_versions(ranks: Sequence[Facts]) -> Check:
    wrong = []
    for name in dict.fromkeys(name for rank in ranks for name in rank.versions):
        groups = _grouped(ranks, lambda rank, name=name: rank.versions.get(name, "none"))  # type: ignore[misc]
        if len(groups) > 1:
            wrong.append(f"{name} is " + ", ".join(f"{value} on {_who(group)}" for value, group in groups.items()))
    if wrong:
        return Check("versions", "; ".join(wrong), "WRONG")
    versions = ranks[0].versions
    return Check("versions", ", ".join(f"{name} {value}" for name, value in versions.items()), values=dict(versions))


def _judge_devices(ranks: Sequence[Facts]) -> Check:
    kinds = _grouped(ranks, lambda rank: rank.device_type)
    if len(kinds) > 1:
        return Check("devices", ", ".join(f"{kind} on {_who(group)}" for kind, group in kinds.items()), "WRONG")
    names = _grouped(ranks, lambda rank: rank.device)
    found = f"{ranks[0].device_type}: " + ", ".join(
        f"{name} on {_who(group)}" if len(names) > 1 else name for name, group in names.items()
    )
    memory = [rank.device_bytes for rank in ranks if rank.device_bytes]
    if memory:
        free, total = min(memory)
        found += f"; at least {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    busy = any(free < total / 2 for free, total in memory)
    return Check("devices", found, "note" if busy or len(names) > 1 else "ok")


def _judge_open_files(ranks: Sequence[Facts]) -> Check:
    limits = [(rank.open_files, rank.host) for rank in ranks if rank.open_files is not None]
    if not limits:
        return Check("open files", "any number a process")
    least, host = min(limits)
    needed = OPEN_FILES + OPEN_FILES_PER_RANK * len(ranks)
    if least < needed:
        told = f"{least:,} a process on {host}, fewer than the {needed:,} it may need: ulimit -n {needed}"
        return Check("open files", told, "WRONG", {"limit": least})
    return Check("open files", f"{least:,} a process", values={"limit": least})


def _judge_shared_memory(ranks: Sequence[Facts]) -> Check:
    machines = [
        (*members[0].shared_memory, SHARED_MEMORY_BYTES * len(members), host)
        for host, members in _grouped(ranks, lambda rank: rank.host).items()
        if members[0].shared_memory
    ]
    if not machines:
        return Check("shared memory", "there is no /dev/shm")
    free, total, wanted, host = min(machines, key=lambda machine: machine[0] - machine[2])
    found = f"{free / 2**20:,.0f} of {total / 2**20:,.0f} MiB free in /dev/shm of {host}"
    values = {"free_bytes": free, "total_bytes": total}
    if free < wanted:
        return Check("shared memory", f"{found}, little for NCCL; docker run --shm-size 1g", "note", values)
    return Check("shared memory", found, values=values)


def _judge_disks(ranks: Sequence[Facts]) -> Check:
    disks = [(rank.disk, rank.host) for rank in ranks if rank.disk]
    for disk, host in disks:
        if disk.error:
            return Check("disk", f"{disk.path} on {host}: {disk.error}", "WRONG")
    disk, host = min(disks, key=lambda pair: pair[0].bytes_per_second)
    free = min(each.free_bytes for each, _ in disks)
    least = "at least " if len(disks) > 1 else ""
    found = f"{least}{free / 1e9:,.1f} GB free, {disk.bytes_per_second / 1e6:,.0f} MB/s written and synced on {host}"
    values = {"path": disk.path, "free_bytes": free, "bytes_per_second": disk.bytes_per_second}
    poor = free < FREE_DISK_BYTES or disk.bytes_per_second < DISK_BYTES_PER_SECOND
    return Check("disk", found, "note" if poor else "ok", values)


def judge_network(network: Network, *, ranks: Sequence[Facts]) -> list[Check]:
    """Backend, latencies and bandwidth of collectives."""
    device = ranks[0].device_type
    backend = Check("backend", f"{network.backend} for {device}")
    if not network.sums_right:
        backend = Check("backend", f"{network.backend}: an all-reduce gave a wrong sum", "WRONG")
    elif device == "cuda" and network.backend != "nccl":
        backend = Check("backend", f"{network.backend} for {device}; nccl is made for it", "note")

    def latency(name: str, seconds: float) -> Check:
        slow = seconds > LATENCY_SECONDS
        found = f"{seconds * 1e3:.3f} ms for {SMALL_BYTES // 2**10} KiB" + ("; a step waits for dozens" if slow else "")
        return Check(name, found, "note" if slow else "ok", {"seconds": seconds})

    seconds = network.all_reduce_large
    rate = bus_bandwidth(LARGE_BYTES, seconds, world_size=len(ranks))
    found = (
        f"{rate / 1e9:.2f} GB/s a link, if {LARGE_BYTES // 2**20} MiB go round in a ring: 2 (N - 1) / N of them each"
    )
    poor = rate < LINK_BYTES_PER_SECOND
    return [
        backend,
        latency("all-reduce", network.all_reduce_small),
        latency("all-gather", network.all_gather_small),
        Check("bandwidth", found, "note" if poor else "ok", {"bytes_per_second": rate, "seconds": seconds}),
    ]


def judge_comparison(comparison: Comparison, *, limit: float) -> list[Check]:
    """Losses and networks against those of one process; with limit 0 they must have the same bits."""
    since = next((step for step, difference in enumerate(comparison.losses, 1) if difference > limit), 0)
    differences = {"losses": max(comparison.losses), **comparison.networks}
    rows = []
    for name, difference in differences.items():
        found = f"{difference:.1e} off the run of one, limit {limit:g}" if difference else "the bits of the run of one"
        if name == "losses" and since:
            found += f", since step {since}"
        values = {"relative_difference": difference if math.isfinite(difference) else None, "limit": limit}  # for JSON
        rows.append(Check(name, found, "WRONG" if difference > limit else "ok", values))
    return rows


def judge_digests(digests: Sequence[str]) -> list[Check]:
    """Whether all ranks ended with the same bits; nothing for a single one."""
    others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if others:
        return [Check("ranks", f"{_listed(others)} ended with other networks than the main process", "WRONG")]
    return [Check("ranks", "the same bits on all")] if len(digests) > 1 else []


def judge_pace(outcome: Outcome) -> Check:
    """How long a step took and what it told the others; no verdict, because the steps are few and perhaps narrow."""
    found = (
        f"{outcome.step_seconds * 1e3:.1f} ms, {outcome.step_calls} collectives of {outcome.step_bytes:,} bytes in all"
    )
    values = {"seconds": outcome.step_seconds, "collectives": outcome.step_calls, "bytes": outcome.step_bytes}
    return Check("step", found, values=values)


def verdict(checks: Sequence[Check], *, processes: int) -> str:
    """One sentence for people: fit or not, and what is wrong."""
    wrong = [check for check in checks if check.verdict == "WRONG"]
    if wrong:
        also = f"; also see {', '.join(check.name for check in wrong[1:])}" if wrong[1:] else ""
        return f"not fit: {wrong[0].name}: {wrong[0].found}{also}"
    notes = [check.name for check in checks if check.verdict == "note"]
    told = f"; notes on {', '.join(notes)}" if notes else ""
    if processes > 1:
        return f"fit: {processes} processes give the run of one{told}"
    return f"fit: one process gives the same run again{told}"


def _grouped(ranks: Sequence[Facts], key: Callable[[Facts], str]) -> dict[str, list[Facts]]:
    groups: dict[str, list[Facts]] = {}
    for rank in ranks:
        groups.setdefault(key(rank), []).append(rank)
    return groups


def _who(ranks: Sequence[Facts]) -> str:
    return _listed([rank.rank for rank in ranks])


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:4])) + (f" and {len(numbers) - 4} more" if len(numbers) > 4 else "")
    return f"rank {shown}" if len(numbers) == 1 else f"ranks {shown}"
