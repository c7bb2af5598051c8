"""One rank of four dies, raises or hangs: the job ends soon, and says which rank and why."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.distributed.distributed_c10d import _get_default_store

from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.failure import GRACE_SECONDS, SILENCE_SECONDS, TROUBLE, attended
from tests import jobs
from tests.distributed.ranks import RankError, run_ranks
from tests.shared import REPOSITORY

PROCESSES = 4


@dataclass
class Ending:
    """How a job with a fault ended."""

    seconds: float
    """From the fault to the end of the launcher."""
    errors: list[str]
    """What the trainer said."""
    status: dict[str, str]
    output: str


def ending(how: str, rank: int, shards: Path, run_dir: Path, **settings: object) -> Ending:
    """Run the trainer on four processes with a fault of ``rank`` at step 3."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={PROCESSES}"]
    fault = ["-m", "tests.distributed.failing", how, str(rank), "3"]
    done = subprocess.run(
        [*torchrun, *fault, *jobs.flags(shards, run_dir, **settings)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    now = time.time()
    assert done.returncode != 0
    assert not jobs.processes_of(run_dir)
    fault_at = re.search(r"FAULT ([\d.]+)", done.stdout)
    assert fault_at, done.stdout
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    print(f"{how} rank {rank}: {now - float(fault_at[1]):.1f} s, {errors}")
    return Ending(now - float(fault_at[1]), errors, jobs.status(run_dir), done.stdout)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_killed_rank_ends_the_job_and_is_named(rank: int, flower_shards: Path, tmp_path: Path) -> None:
    found = ending("kill", rank, flower_shards, tmp_path / "run")
    reason = f"rank {rank} died without a word (killed? out of memory?) or is stopped"
    assert found.errors == [f"error: {reason}"]
    assert found.status == {"state": "failed", "reason": reason, "total_steps": 100_000}
    assert found.seconds < 30


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_rank_that_raises_ends_the_job_and_says_why(rank: int, flower_shards: Path, tmp_path: Path) -> None:
    found = ending("raise", rank, flower_shards, tmp_path / "run")
    assert found.output.count("Traceback (most recent call last):\n[rank") <= 1
    assert f"[rank{rank}]: KeyError: 'a bug of ours'" in found.output
    assert found.errors == []  # the traceback says it; the other ranks have nothing to add
    assert found.status["state"] == "failed"
    assert found.status["reason"] == ("" if rank == 0 else f"rank {rank}: ") + "KeyError: 'a bug of ours'"
    assert found.seconds < 30


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("how", ["hang", "stop"])
def test_a_rank_that_hangs_is_ended_by_the_timeout(how: str, rank: int, flower_shards: Path, tmp_path: Path) -> None:
    found = ending(how, rank, flower_shards, tmp_path / "run", timeout=10)
    hangs = f"rank {rank} hangs: the others have waited for it until the timeout"
    stopped = f"rank {rank} died without a word (killed? out of memory?) or is stopped"
    reason = hangs if how == "hang" else stopped
    assert found.errors == [f"error: {reason}"]
    assert found.status == {"state": "failed", "reason": reason, "total_steps": 100_000}
    assert 10 < found.seconds < 10 + 60  # torchrun gives a stopped process 30 s before it kills it


# A rank that stops while nobody waits in a collective, as with NCCL, where waiting for the device raises nothing


def stops_while_the_others_compute(directory: Path) -> None:
    (directory / str(collectives.rank())).write_text(str(os.getpid()))
    with attended():
        if collectives.rank() == 1:
            time.sleep(3)
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(100)


@pytest.mark.slow
def test_a_rank_that_falls_silent_ends_the_others_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    begin = time.monotonic()
    with pytest.raises(RankError, match=r"rank [02] died"):
        run_ranks(stops_while_the_others_compute, 3, tmp_path)
    assert 3 + SILENCE_SECONDS < time.monotonic() - begin < 3 + 30


def works_without_a_collective_for_long() -> str:
    with attended():
        time.sleep(SILENCE_SECONDS + GRACE_SECONDS + 6 if collectives.rank() == 0 else 1)
        collectives.all_reduce(torch.zeros(1))
    return "well"


@pytest.mark.slow
def test_a_rank_that_only_takes_its_time_is_left_alone() -> None:
    assert run_ranks(works_without_a_collective_for_long, 3) == ["well"] * 3


def raises_a_false_alarm() -> str:
    with attended():
        if collectives.rank() == 0:
            _get_default_store().set(TROUBLE, "")
        time.sleep(GRACE_SECONDS + 6)
    return "well"


@pytest.mark.slow
def test_a_false_alarm_ends_nobody() -> None:
    assert run_ranks(raises_a_false_alarm, 3) == ["well"] * 3
