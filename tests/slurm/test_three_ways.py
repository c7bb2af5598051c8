"""The same sweep file by W&B's agent, as a job array, and by dcgan-sweep run: the same numbers."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dcgan_dist.sweeps.file import read_sweep
from tests.jobs import EXPORTED, flags, rows, status
from tests.shared import REPOSITORY, needs_shared
from tests.slurm.cluster import Job, Project
from tests.wandb_server import STAND_IN, served, wandb_command

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900), needs_shared(str(STAND_IN))]

STEPS = 40
PARAMETERS: dict[str, Any] = {"lr_ratio": [1, 2], "seed": [0, 1, 2]}


def metrics(run_dir: Path) -> list[dict[str, float]]:
    """The rows of a run without times, and without exchanges, which a torchrun of one process has with itself."""
    assert status(run_dir)["state"] == "done", run_dir
    aside = ("time/", "comm/")
    return [{name: value for name, value in row.items() if not name.startswith(aside)} for row in rows(run_dir)]


def test_three_ways_give_the_same_metrics(project: Project) -> None:
    settings = {"max_steps": STEPS, "eval_every": 20, "extractor": "pixels", "eval_count": 40, "tracker": "wandb"}
    words = [word for word in flags(project.shards, project.path, **settings) if not word.startswith("--run_dir")]
    file = project.path / "three.yaml"
    content = {
        "method": "grid",
        "parameters": {name: {"values": values} for name, values in PARAMETERS.items()},
        "command": ["${env}", sys.executable, "-m", "dcgan_dist.train", *words, "${args}"],
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    points = [read_sweep(file).point(index) for index in range(6)]

    number = project.sbatch("--array=0-5%2", "launchers/sweep.sbatch", "three.yaml")
    for index in range(6):
        log = project.path / "logs" / f"dcgan-sweep-{number}_{index}.out"
        task = Job(project.cluster, f"{number}_{index}", log, project.runs)
        assert task.ended(limit_seconds=400)[0] == "COMPLETED", task.output

    here = project.path / "here"
    subprocess.run(
        [sys.executable, "-m", "dcgan_dist.sweep", "run", "three.yaml", "--jobs", "2", "--runs", str(here)],
        cwd=project.path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        timeout=400,
        check=True,
    )

    handed = [
        {"run_id": f"p{p.index}", "program": "x", "args": {name: {"value": v} for name, v in p.parameters.items()}}
        for p in points
    ]
    with served(project.path / "server", sweep=file, runs=handed) as server:
        subprocess.run(
            [wandb_command(), "agent", "--forward-signals", "ent/project/swp00001"],
            cwd=project.path,
            env=server.environment() | EXPORTED,
            timeout=400,
            check=True,
        )

    for point in points:
        slurm, local = (metrics(runs / "three" / point.name) for runs in (project.runs, here))
        agent = metrics(project.path / "runs" / "swp00001" / f"p{point.index}")
        assert len(slurm) == STEPS
        assert any(name.startswith("eval/kid") for name in slurm[19])
        assert slurm == local == agent
