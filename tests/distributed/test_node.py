"""Which processes share a machine, and the memory that they share."""

import contextlib
import mmap
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from dcgan_dist import machine
from dcgan_dist.distributed import collectives, node
from tests.distributed.ranks import run_ranks

BYTES = 100_000


def pretend(nodes: int) -> node.Node:
    """As if the ranks were on several machines."""
    each = collectives.world_size() // nodes
    with mock.patch.object(node, "identity", return_value=f"machine {collectives.rank() // each}"):
        return node.this_node()


def meet(nodes: int) -> tuple[tuple[int, ...], int, list[int], bool]:
    """The ranks that this rank finds on its node and its place among them; what they wrote; whether it has a name."""
    here = pretend(nodes)
    memory = node.shared_memory(here, BYTES)
    assert isinstance(memory, mmap.mmap)
    seen = np.frombuffer(memory, np.uint8)
    assert not seen.any()
    collectives.gathered(None)
    seen[here.rank :: here.size] = 1 + collectives.rank()
    collectives.gathered(None)
    lines = Path("/proc/self/maps").read_text().splitlines()
    named = [line for line in lines if "dcgan_dist" in line.rpartition("/")[2]]  # whatever directories are called
    anonymous = len(named) == 1 and "/memfd:dcgan_dist (deleted)" in named[0]
    return here.ranks, here.rank, np.bincount(seen).tolist(), anonymous


@pytest.mark.parametrize(("world_size", "nodes"), [(2, 1), (4, 2)])
def test_processes_of_a_node_share_memory_that_has_no_name(world_size: int, nodes: int) -> None:
    each = world_size // nodes
    for rank, (ranks, place, counts, anonymous) in enumerate(run_ranks(meet, world_size, nodes)):
        first = rank // each * each
        assert ranks == tuple(range(first, first + each))
        assert place == rank - first
        assert counts == [0] * (1 + first) + [BYTES // each] * each
        assert anonymous


def alone_on_a_node() -> bool:
    """Two nodes, of two processes and of one."""
    with mock.patch.object(node, "identity", return_value="one" if collectives.rank() < 2 else "other"):
        return node.shared_memory(node.this_node(), BYTES) is None


def test_nodes_may_differ_in_size() -> None:
    assert run_ranks(alone_on_a_node, 3) == [False, False, True]


def cannot_be_opened(what: str) -> bool:
    """Whether nobody gets shared memory when one process cannot open it, or finds another file of its name."""
    here = node.this_node()
    patches: list[Any] = []
    if what == "another" and here.rank == 1:  # each process has its own token in mind
        patches.append(mock.patch.object(os, "pread", return_value=b"another token..."))
    if what == "refused" and here.rank == 1:
        patches.append(mock.patch.object(os, "open", side_effect=PermissionError))
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        return node.shared_memory(here, BYTES) is None


@pytest.mark.parametrize("what", ["refused", "another"])
def test_without_sharing_each_has_its_own(what: str) -> None:
    assert run_ranks(cannot_be_opened, 2, what) == [True, True]


SHARES = {
    "shared": ([("a", range(8)), ("a", range(8))], [4, 4]),
    "bound, as by srun": ([("a", range(4)), ("a", range(4, 8))], [4, 4]),
    "bound in pairs": ([("a", range(2)), ("a", range(2)), ("a", range(2, 8)), ("a", range(2, 8))], [1, 1, 3, 3]),
    "two machines": ([("a", range(8)), ("b", range(6))], [8, 6]),
    "more processes than cores": ([("a", range(2))] * 3, [1, 1, 1]),
}
"""The machine and the cores of each rank, and how many of these are its share."""


@pytest.mark.parametrize("name", SHARES)
def test_a_process_shares_cores_with_those_that_may_use_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    places, expected = SHARES[name]
    monkeypatch.setattr(collectives, "gathered", lambda own: [(each, frozenset(cores)) for each, cores in places])
    shares = []
    for rank in range(len(places)):
        monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
        shares.append(node.this_node().cores)
    assert shares == expected


def test_one_process_has_a_node_of_its_own() -> None:
    assert node.this_node() == node.Node((0,), 0, machine.cores())
    assert node.shared_memory(node.this_node(), BYTES) is None
    assert node.identity() == node.identity()


# What the machine has


def test_free_memory_follows_the_tightest_limit(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000000 kB\nMemFree: 1 kB\nMemAvailable: 1000000 kB\n")
    assert machine.free_memory(proc, groups) == 1_024_000_000
    job = groups / "slurm" / "job_7"
    job.mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/slurm/job_7\n")
    (job / "memory.max").write_text("max\n")
    (job / "memory.current").write_text("5\n")
    (job / "memory.stat").write_text("anon 5\ninactive_file 0\n")
    assert machine.free_memory(proc, groups) == 1_024_000_000
    (job / "memory.max").write_text("900000000\n")
    (job / "memory.current").write_text("500000000\n")
    (job / "memory.stat").write_text("anon 5\ninactive_file 100000000\n")
    assert machine.free_memory(proc, groups) == 500_000_000
    for name, text in [("memory.max", "600000000"), ("memory.current", "550000000"), ("memory.stat", "")]:
        (groups / "slurm" / name).write_text(text)
    assert machine.free_memory(proc, groups) == 50_000_000


def test_free_memory_of_an_old_control_group(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemAvailable: 1000000 kB\n")
    (proc / "self" / "cgroup").write_text("5:cpu:/x\n4:memory:/docker/1\n0::/\n")
    (groups / "memory").mkdir(parents=True)
    for name, text in [
        ("limit_in_bytes", "300000000"),
        ("usage_in_bytes", "100000000"),
        ("stat", "total_inactive_file 7"),
    ]:
        (groups / "memory" / f"memory.{name}").write_text(text)
    assert machine.free_memory(proc, groups) == 200_000_007


def test_free_memory_here_is_believable() -> None:
    assert 2**20 < machine.free_memory() < 2**50
    assert 2**20 < machine.free_memory(Path("/no/such/place"), Path("/no/such/place")) < 2**50
