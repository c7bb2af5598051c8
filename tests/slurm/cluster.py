"""The throwaway Slurm of DCGAN_SHARED/slurm, and jobs on it in a directory that looks like a checkout."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.jobs import row_count, status
from tests.shared import REPOSITORY, SHARED

LOCAL_CLUSTER = SHARED / "slurm" / "local-cluster"
STEPS = 40
FLAGS = (
    *("--config", "configs/flowers17-arch1.yaml", "--base_channels", "4", "--batch_size", "8", "--dtype", "float64"),
    *("--eval_every", "0", "--log_every", "1", "--sample_every", "1000", "--sample_count", "4"),
    *("--checkpoint_every", "10", "--threads", "1", "--tracker", "none"),
)
"""A narrow architecture 1 in float64, in which the number of processes makes no difference but rounding."""
ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "NODE_FAIL",
    "TIMEOUT",
    "PREEMPTED",
    "DEADLINE",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
)


@dataclass(frozen=True)
class Cluster:
    """A running cluster of two nodes."""

    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's commands need."""
        return {"SLURM_CONF": str(self.directory / "etc" / "slurm.conf"), "DCGAN_SLURM_DIR": str(self.directory)}

    def control(self, *words: str) -> str:
        """The output of local-cluster."""
        return self.command(str(LOCAL_CLUSTER), *words)

    def command(self, *words: str, cwd: Path | None = None) -> str:
        """The output of one of Slurm's commands.

        Raises:
            AssertionError: when it fails.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        done = subprocess.run(
            words, cwd=cwd, env=environment | self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """What Slurm says of a job."""
        text = self.command("scontrol", "show", "job", "--oneliner", number)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)


@dataclass
class Job:
    """A job that was submitted."""

    cluster: Cluster
    number: str
    """As Slurm's commands take it: 12, or 12_3 for a task of an array."""
    log: Path
    run_dir: Path
    began: float = field(default_factory=time.monotonic)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def restarts(self) -> int:
        return int(self.cluster.job(self.number)["Restarts"])

    def state(self) -> str:
        return self.cluster.job(self.number)["JobState"]

    def ended(self, *, limit_seconds: float = 240) -> tuple[str, float]:
        """The state it ended in, and the seconds since it was submitted."""
        self.wait_for(lambda: self.state() in ENDED, limit_seconds=limit_seconds, pause_seconds=0.3)
        return self.state(), time.monotonic() - self.began

    def wait_for(self, happened: Callable[[], Any], *, limit_seconds: float = 120, pause_seconds: float = 0.05) -> None:
        """Wait until something has happened."""
        deadline = time.monotonic() + limit_seconds
        while not happened():
            assert time.monotonic() < deadline, (
                f"not in {limit_seconds} s: {self.cluster.job(self.number)} {self.output}"
            )
            time.sleep(pause_seconds)

    def wait_for_steps(self, count: int) -> None:
        """Wait until the run has done so many steps; it must not have ended by then."""
        self.wait_for(lambda: row_count(self.run_dir) >= count or self.state() in ENDED)
        assert self.state() == "RUNNING", self.output

    def finished(self) -> float:
        """Seconds from its submission to its end, which must be a good one."""
        state, seconds = self.ended()
        assert state == "COMPLETED", self.output
        assert status(self.run_dir)["state"] == "done", self.output
        assert row_count(self.run_dir) == STEPS
        return seconds


class Project:
    """A project's directory with the launchers and a site file."""

    def __init__(self, directory: Path, cluster: Cluster, shards: Path) -> None:
        self.path, self.cluster, self.shards = directory, cluster, shards
        self.runs = directory / "runs"
        shutil.copytree(REPOSITORY / "launchers", directory / "launchers", ignore=shutil.ignore_patterns("site.env"))
        (directory / "logs").mkdir()
        for name in ("configs", "dcgan_dist"):
            (directory / name).symlink_to(REPOSITORY / name)
        self.site()

    def site(self, *lines: str) -> None:
        """Write the site file: this Python, runs by their whole path, and these lines."""
        own = [f"PYTHON={sys.executable}", f"RUNS={self.runs}", f"export PYTHONPATH={REPOSITORY}"]
        (self.path / "launchers" / "site.env").write_text("\n".join([*own, *lines]) + "\n")

    def submit(self, options: tuple[str, ...], *flags: object) -> Job:
        """A job of launchers/train.sbatch."""
        words = [*FLAGS, "--data", self.shards, "--max_steps", STEPS, *flags]
        number = self.sbatch(*options, "launchers/train.sbatch", *words)
        return Job(
            self.cluster,
            number,
            self.path / "logs" / f"dcgan-train-{number}.out",
            self.runs / f"flowers17-arch1-{number}",
        )

    def sbatch(self, *words: object) -> str:
        """The number of a job that was submitted."""
        return self.cluster.command("sbatch", "--parsable", *map(str, words), cwd=self.path).strip()

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted((self.path / "logs").iterdir()))


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """Tensors of the last checkpoint, by file and name."""
    last = max((run_dir / "checkpoints").iterdir())
    assert re.fullmatch(r"step-\d{8}", last.name)
    assert int(last.name[5:]) == STEPS
    names = ("generator", "discriminator", "optimizer_g", "optimizer_d")
    return {f"{n}.{key}": value for n in names for key, value in load_file(last / f"{n}.safetensors").items()}


def difference(run_dir: Path, other: Path) -> float:
    """Largest relative difference of the networks of two runs, each as one vector; 0 is equal to the bit."""
    found, wanted = weights(run_dir), weights(other)
    assert found.keys() == wanted.keys()
    if all(torch.equal(found[key], wanted[key]) for key in wanted):
        return 0.0

    def vector(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        return torch.cat(
            [value.double().flatten() for key, value in sorted(tensors.items()) if key.startswith(f"{name}.")]
        )

    pairs = [(vector(found, name), vector(wanted, name)) for name in ("generator", "discriminator")]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)
