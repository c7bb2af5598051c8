"""Job arrays on a Slurm of two nodes: a sweep, and a conversion in parts."""

import time
from pathlib import Path

import pytest

from dcgan_dist.sweeps.file import read_sweep
from tests.jobs import row_count, status
from tests.slurm.cluster import Job, Project

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(500)]

SWEEP = """
method: grid
parameters:
  lr_ratio: {values: [1, 2]}
  seed: {values: [0, 1, 2]}
"""
SHORT = (
    *("--config", "configs/flowers17-arch1.yaml", "--base_channels", "4", "--batch_size", "8", "--eval_every", "0"),
    *("--log_every", "1", "--sample_every", "1000", "--sample_count", "4", "--threads", "1", "--tracker", "none"),
)


def test_six_points_on_two_nodes(project: Project) -> None:
    (project.path / "six.yaml").write_text(SWEEP)
    began = time.monotonic()
    words = ("launchers/submit-sweep", "-j", "2", "six.yaml", "--nodes=1", "--exclusive", "--gpus-per-node=1")
    flags = (*SHORT, "--data", str(project.shards), "--max_steps", "60")
    said = project.cluster.command("bash", *words, "--", *flags, cwd=project.path)
    assert "6 points of six.yaml" in said
    number = said.split("batch job ")[1].strip()
    points = [read_sweep(project.path / "six.yaml").point(index) for index in range(6)]
    tasks = [
        Job(
            project.cluster,
            f"{number}_{p.index}",
            project.path / "logs" / f"dcgan-sweep-{number}_{p.index}.out",
            project.runs / "six" / p.name,
        )
        for p in points
    ]
    last = tasks[5]  # which has the array's own id
    last.wait_for(lambda: row_count(last.run_dir) >= 3, limit_seconds=300)
    project.cluster.command("scancel", "--batch", "--signal=USR2", last.number)
    for task in tasks:
        state, _ = task.ended(limit_seconds=300)
        assert state == "COMPLETED", task.output
        assert status(task.run_dir)["state"] == "done"
        assert row_count(task.run_dir) == 60
    assert [task.restarts for task in tasks] == [0, 0, 0, 0, 0, 1]
    seconds = time.monotonic() - began
    print(f"\nslurm | array of 6 points on 2 nodes, the last one warned | all done | {seconds:.0f} s")
    again = project.sbatch("--array=0-5", "launchers/sweep.sbatch", "six.yaml", *flags)
    for index in range(6):
        task = Job(
            project.cluster,
            f"{again}_{index}",
            project.path / "logs" / f"dcgan-sweep-{again}_{index}.out",
            project.runs,
        )
        assert task.ended()[0] == "COMPLETED"
        assert "is done" in task.output


def test_two_tasks_on_one_node_have_their_own_rendezvous(project: Project) -> None:
    (project.path / "six.yaml").write_text(SWEEP)
    flags = (*SHORT, "--data", str(project.shards), "--max_steps", "60")
    words = (
        "--array=0-1",
        "--nodes=1",
        "--nodelist=dcgan-n1",
        "--ntasks-per-node=2",
        "launchers/sweep.sbatch",
        "six.yaml",
    )
    number = project.sbatch(*words, *flags)
    ports = set()
    for index in range(2):
        log = project.path / "logs" / f"dcgan-sweep-{number}_{index}.out"
        task = Job(project.cluster, f"{number}_{index}", log, project.runs)
        assert task.ended()[0] == "COMPLETED", task.output
        assert "1 x 2 processes" in task.output
        ports.add(task.output.split("rendezvous at dcgan-n1:")[1].split(",")[0])
    assert len(ports) == 2


def test_a_conversion_in_parts(project: Project, tmp_path: Path) -> None:
    began = time.monotonic()
    words = ("synthetic", "--out", "shards/parts/x", "--size", "32", "--count", "400", "--shard-images", "50")
    array = project.sbatch("--array=1-4", "launchers/shard.sbatch", *words)
    end = project.sbatch(f"--dependency=afterok:{array}", "launchers/shard.sbatch", "finish", "shards/parts/x")
    finish = Job(project.cluster, end, project.path / "logs" / f"dcgan-shard-{end}.out", tmp_path)
    state, _ = finish.ended()
    assert state == "COMPLETED", project.logs()
    seconds = time.monotonic() - began
    whole = project.sbatch(
        "launchers/shard.sbatch", *("shards/whole/x" if word == "shards/parts/x" else word for word in words)
    )
    one = Job(project.cluster, whole, project.path / "logs" / f"dcgan-shard-{whole}.out", tmp_path)
    assert one.ended()[0] == "COMPLETED", one.output
    parts = sorted((project.path / "shards" / "parts" / "x").glob("*.tar"))
    assert len(parts) == 8
    for path in parts:
        assert path.read_bytes() == (project.path / "shards" / "whole" / "x" / path.name).read_bytes()
    print(f"\nslurm | array conversion in 4 parts, then finish | bytes of one process | {seconds:.0f} s")
