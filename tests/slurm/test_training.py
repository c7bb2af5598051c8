"""Training jobs on a Slurm of two nodes, disturbed in every way, end in the weights of an undisturbed run."""

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.jobs import processes_of, row_count, status
from tests.slurm.cluster import Job, Project, difference

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]

TWO = ("--nodes=2", "--ntasks-per-node=1")
LIMIT = 1e-9
"""Relative difference of runs on different numbers of processes, in float64."""


def told(
    scenario: str, outcome: str, *, seconds: float, run_dir: Path, alone: Path, together: Path | None = None
) -> None:
    """Print a row of the table in docs/clusters.md, and check the weights."""
    off = difference(run_dir, alone)
    same = together is not None and difference(run_dir, together) == 0
    compared = "bitwise" if same else "not compared"
    print(f"\nslurm | {scenario} | {outcome} | {seconds:.0f} s | one process: {off:.1e} | two: {compared}")
    assert off <= LIMIT
    assert together is None or same


def rank(run_dir: Path, number: int) -> int:
    """The process of a rank, wherever it runs."""
    for pid in processes_of(run_dir):
        with contextlib.suppress(OSError):
            if f"RANK={number}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return pid
    raise ProcessLookupError(f"no process of rank {number}")


def test_two_nodes_of_two_ranks_make_the_run_of_one(project: Project, alone: Path) -> None:
    job = project.submit(("--nodes=2", "--gpus-per-node=2"))
    seconds = job.finished()
    assert "4 processes on cpu" in job.output
    assert "2 x 2 processes" in job.output
    told("2 nodes x 2 ranks", "completed", seconds=seconds, run_dir=job.run_dir, alone=alone)


def went_on_from(job: Job) -> int:
    """Steps that the last start of a job found done."""
    found = re.search(r"^step (\d+)/", job.output.rpartition("launcher: job ")[2], re.MULTILINE)
    assert found, job.output
    return int(found[1]) - 1


def test_the_warning_before_the_time_limit(project: Project, alone: Path, together: Path) -> None:
    job = project.submit(TWO)
    job.wait_for_steps(13)
    project.cluster.command("scancel", "--batch", "--signal=USR2", job.number)
    job.wait_for(lambda: job.restarts == 1)
    assert status(job.run_dir)["state"] == "stopped"
    done = row_count(job.run_dir)
    assert f"stopped at step {done}, saved" in job.output
    seconds = job.finished()
    assert (job.restarts, job.output.count("stopped at step")) == (1, 1)
    assert job.output.count("2 processes on cpu, 1 thread each") == 2  # as --threads says
    assert went_on_from(job) == done
    told(
        "warning signal",
        f"saved at step {done}, requeued",
        seconds=seconds,
        run_dir=job.run_dir,
        alone=alone,
        together=together,
    )


def test_a_preemption(project: Project, alone: Path, together: Path) -> None:
    job = project.submit(("--partition=preempt", *TWO))
    job.wait_for_steps(13)
    urgent = project.sbatch("--partition=gpu", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 3")
    job.wait_for(lambda: job.restarts == 1)
    done = row_count(job.run_dir)
    assert f"stopped at step {done}, saved" in job.output
    seconds = job.finished()
    assert project.cluster.job(urgent)["JobState"] == "COMPLETED"
    assert (job.restarts, went_on_from(job)) == (1, done)
    told(
        "preemption",
        f"saved at step {done}, requeued",
        seconds=seconds,
        run_dir=job.run_dir,
        alone=alone,
        together=together,
    )


def test_a_preemption_while_the_trainer_starts(project: Project, alone: Path, together: Path) -> None:
    job = project.submit(("--partition=preempt", *TWO))
    job.wait_for(lambda: processes_of(job.run_dir))
    project.sbatch("--partition=gpu", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    job.wait_for(lambda: job.restarts == 1)
    assert "stopped at step" not in job.output
    assert "is to go on: queueing job" in job.output
    told(
        "preemption at the start",
        "requeued",
        seconds=job.finished(),
        run_dir=job.run_dir,
        alone=alone,
        together=together,
    )


def test_scontrol_requeue(project: Project, alone: Path, together: Path) -> None:
    job = project.submit(TWO)
    job.wait_for_steps(13)
    project.cluster.command("scontrol", "requeue", job.number)
    job.wait_for(lambda: job.restarts == 1)
    seconds = job.finished()
    assert job.restarts == 1
    told(
        "scontrol requeue",
        f"went on from step {went_on_from(job)}",
        seconds=seconds,
        run_dir=job.run_dir,
        alone=alone,
        together=together,
    )


def test_a_job_that_is_cancelled_stays_cancelled(project: Project) -> None:
    job = project.submit(TWO)
    job.wait_for_steps(5)
    project.cluster.command("scancel", job.number)
    state, _ = job.ended()
    assert state == "CANCELLED"
    time.sleep(15)  # a requeued job starts after 11 s
    assert job.state() == "CANCELLED"


def test_a_rank_that_dies(project: Project) -> None:
    job = project.submit(TWO)
    job.wait_for_steps(5)
    began = time.monotonic()
    os.kill(rank(job.run_dir, 1), signal.SIGKILL)
    state, _ = job.ended(limit_seconds=60)
    seconds = time.monotonic() - began
    print(f"\nslurm | a rank dies | {state}, named | {seconds:.0f} s")
    assert state == "FAILED"
    assert "rank 1 died without a word" in job.output
    assert "rank 1 died" in status(job.run_dir)["reason"]
    assert job.restarts == 0


def test_a_node_that_vanishes(project: Project, alone: Path, together: Path) -> None:
    if "netns" not in project.cluster.control("status"):
        pytest.skip("nodes cannot vanish without network namespaces")
    job = project.submit(TWO)
    job.wait_for_steps(13)
    project.cluster.control("crash", "dcgan-n2")
    job.wait_for(lambda: job.restarts == 1 or job.state() in ("FAILED", "NODE_FAIL"), limit_seconds=150)
    noticed = time.monotonic() - job.began
    assert job.restarts == 1, job.output
    project.cluster.control("start")
    seconds = job.finished()
    told(
        "a node vanishes",
        f"requeued after {noticed:.0f} s",
        seconds=seconds,
        run_dir=job.run_dir,
        alone=alone,
        together=together,
    )


def test_an_empty_environment_and_a_container(project: Project, alone: Path, together: Path) -> None:
    box = project.path / "box"
    box.write_text('#!/bin/bash\necho "in the box: $2 $3"; export IN_BOX=1; exec "$@"\n')
    box.chmod(0o755)
    project.site(f'CONTAINER_CMD="{box}"')
    job = project.submit((*TWO, "--export=NONE"))
    seconds = job.finished()
    assert job.output.count("in the box: -m torch.distributed.run") == 2
    told(
        "--export=NONE, in a stand-in container",
        "completed",
        seconds=seconds,
        run_dir=job.run_dir,
        alone=alone,
        together=together,
    )


def test_a_launcher_that_starts_each_process_alone(project: Project) -> None:
    box = project.path / "box"  # throws torchrun away
    box.write_text(
        '#!/bin/bash\npython=$1\nwhile [[ $1 != dcgan_dist.train ]]; do shift; done\nexec "$python" -m "$@"\n'
    )
    box.chmod(0o755)
    project.site(f'CONTAINER_CMD="{box}"')
    job = project.submit(TWO)
    state, seconds = job.ended()
    print(f"\nslurm | each process alone | {state}, named | {seconds:.0f} s")
    assert state == "FAILED"
    assert job.output.count("DCGAN_EXPECT_WORLD_SIZE=2 asks for 2 processes, but 1 process runs alone here") == 1
    assert not job.run_dir.exists()


def test_a_batch_that_the_processes_cannot_share(project: Project) -> None:
    job = project.submit(TWO, "--batch_size", 7)
    state, seconds = job.ended()
    print(f"\nslurm | batch of 7 on 2 processes | {state}, named | {seconds:.0f} s")
    assert state == "FAILED"
    assert job.output.count("batch_size must be a multiple of the number of processes: 7 / 2 = 3.5 images each") == 1
    assert job.restarts == 0


def test_no_site_file(project: Project) -> None:
    (project.path / "launchers" / "site.env").unlink()
    (project.path / ".venv" / "bin").mkdir(parents=True)
    python = project.path / ".venv" / "bin" / "python"
    python.write_text("#!/bin/bash\nexit 1\n")
    python.chmod(0o755)
    job = project.submit(("--nodes=1",))
    state, seconds = job.ended()
    print(f"\nslurm | no site file, no torch | {state}, named | {seconds:.0f} s")
    assert state == "FAILED"
    assert "there is no launchers/site.env: defaults" in job.output
    assert "error: .venv/bin/python has no torch or no dcgan_dist: make setup, or set PYTHON" in job.output
    assert project.cluster.job(job.number)["ExitCode"] == "2:0"


def test_a_requeued_run_goes_on_in_wandb(project: Project, alone: Path, together: Path) -> None:
    project.site("export WANDB_MODE=offline")
    job = project.submit(TWO, "--tracker", "wandb")
    job.wait_for_steps(13)
    project.cluster.command("scancel", "--batch", "--signal=USR2", job.number)
    seconds = job.finished()
    assert job.restarts == 1
    segments = sorted(path.name for path in (job.run_dir / "wandb").glob("offline-run-*"))
    assert len(segments) == 2
    assert len({name.rpartition("-")[2] for name in segments}) == 1  # one id
    told(
        "W&B offline, warning signal",
        "two segments of one run",
        seconds=seconds,
        run_dir=job.run_dir,
        alone=alone,
        together=together,
    )
