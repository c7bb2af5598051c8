"""How to train the points of a sweep on this machine: commands, variables, directories."""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dcgan_dist.config import TrainConfig
from dcgan_dist.distributed.launcher import EXPECTED
from dcgan_dist.machine import cores
from dcgan_dist.sweeps.file import Point, Sweep
from dcgan_dist.sweeps.points import config_of

FOR_LAUNCHERS = {
    "PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2",
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "110",
}
"""So that torchrun hands signals on and leaves time to save."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train the points of a sweep."""

    sweep: Sweep
    runs: Path
    """Where run directories are; those of the sweep are in a folder of its name."""
    flags: tuple[str, ...] = ()
    """Arguments of ``dcgan_dist.train`` for all points."""
    jobs: int
    """Points at a time."""
    processes: int
    """Of each point."""
    gpus: tuple[str, ...] = ()
    """As CUDA_VISIBLE_DEVICES names them."""
    again: str
    """The command that goes on."""

    def __post_init__(self) -> None:
        if self.gpus and self.processes > len(self.gpus):
            raise ValueError(
                f"--processes must be at most the number of GPUs here, {len(self.gpus)}, got {self.processes}"
            )

    def run_dir(self, point: Point) -> Path:
        """The run directory of a point."""
        return self.runs / self.sweep.name / point.name

    def log(self, point: Point) -> Path:
        """All that the trainers of a point print; beside its run directory."""
        return self.runs / self.sweep.name / f"{point.name}.log"

    def wanted(self, point: Point) -> TrainConfig:
        """The settings of a point's run."""
        return config_of(point, self.flags)

    def command(self, point: Point) -> list[str]:
        """What trains a point, or goes on with it."""
        run_dir, flags = self.run_dir(point), [*point.flags, *self.flags]
        saved = any((run_dir / "checkpoints").glob("step-*"))
        if not self.gpus and not saved and not self.wanted(point).compute.threads:  # one that goes on keeps its own
            flags.append(f"--threads={max(1, cores() // (self.jobs * self.processes))}")
        if run_dir.exists():
            flags.append("--resume")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        return [
            *(sys.executable, *(launcher if self.processes > 1 else ())),
            *("-m", "dcgan_dist.train", f"--run_dir={run_dir}", *flags),
        ]

    def shell(self, point: Point, *, place: int) -> str:
        """What to type to train a point as it is trained in this place."""
        variables = self.variables(point, place=place).items()
        shown = [f"{name}={value}" for name, value in variables if name in ("CUDA_VISIBLE_DEVICES", EXPECTED)]
        return " ".join([*shown, shlex.join(self.command(point))])

    def variables(self, point: Point, *, place: int) -> dict[str, str]:
        """Environment variables of a point's processes.

        Args:
            point: the point.
            place: 0 to ``jobs`` - 1; it says which GPUs are the point's. More jobs than GPUs share them.
        """
        found = {EXPECTED: str(self.processes), **FOR_LAUNCHERS, "WANDB_RUN_GROUP": point.group}
        if point.job_type:
            found["WANDB_JOB_TYPE"] = point.job_type
        for name in ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE"):
            if os.environ.get(name):
                found[name] = os.environ[name]  # the user knows better
        if self.gpus:
            own = (self.gpus[(place * self.processes + i) % len(self.gpus)] for i in range(self.processes))
            found["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        return found


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that torch sees, by the names that CUDA_VISIBLE_DEVICES takes."""
    program = "import torch; print(torch.cuda.device_count())"  # by a process of its own: torch has threads
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    names, count = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name], int(said)
    return tuple(names[:count] if names else map(str, range(count)))
