"""Training jobs in processes of their own, started as people start them, and which processes belong to one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.shared import REPOSITORY

LAUNCHERS = {
    "python": [],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "accelerate, 1 process": [
        *("-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
    ],
    "accelerate, 2 processes": [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    ],
}
"""What stands between python and ``-m dcgan_dist.train``."""

EXPORTED = {
    "ACCELERATE_USE_CPU": "true",
    "PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2",
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "110",
}
"""What our launch scripts export."""


def flags(shards: Path, run_dir: Path, **settings: object) -> list[str]:
    """Arguments of a run of architecture 1 at a sixth of its width, with an average of the generator."""
    values: dict[str, object] = {
        "config": REPOSITORY / "configs" / "flowers17-arch1.yaml",
        "data": shards,
        "run_dir": run_dir,
        "base_channels": 4,
        "batch_size": 8,
        "ema_decay": 0.9,
        "max_steps": 100_000,
        "log_every": 1,
        "sample_every": 100_000,
        "sample_count": 4,
        "checkpoint_every": 100_000,
        "threads": 1,
        "tracker": "none",
    }
    return [f"--{name}={value}" for name, value in (values | settings).items()]


def processes_of(run_dir: Path) -> set[int]:
    """Ids of all processes that were started with ``run_dir`` as an argument and have not ended."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended
                words = (entry / "cmdline").read_bytes().split(b"\0")  # nothing for one that has ended
                if f"--run_dir={run_dir}".encode() in words:
                    found.add(int(entry.name))
    return found


def row_count(run_dir: Path) -> int:
    """Rows of metrics.jsonl: steps done, when each step is logged."""
    try:
        return (run_dir / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def rows(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def status(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "status.json").read_text())  # type: ignore[no-any-return]


@dataclass
class Job:
    """A job with a process group of its own, like one that a terminal runs in the foreground."""

    launcher: subprocess.Popen[bytes]
    """What was started; the trainer itself without a launcher."""
    run_dir: Path
    log: Path
    """All that it printed."""

    @classmethod
    def start(cls, launcher: str, arguments: list[str], *, run_dir: Path, log: Path) -> Self:
        """A job of ``python LAUNCHER -m dcgan_dist.train ARGUMENTS``."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "ACCELERATE"))}
        command = [sys.executable, *LAUNCHERS[launcher], "-m", "dcgan_dist.train", *arguments]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=kept | EXPORTED,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(process, run_dir, log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        """Leave nothing behind, whatever the test found."""
        for process in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.launcher.wait()

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def alive(self) -> set[int]:
        """Processes of this job that have not ended."""
        own = {self.launcher.pid} if self.launcher.poll() is None else set()
        return processes_of(self.run_dir) | own

    def trainers(self) -> set[int]:
        """The processes that train."""
        if self.launcher.args[1:3] == ["-m", "dcgan_dist.train"]:  # type: ignore[index]
            return self.alive()
        return self.alive() - {self.launcher.pid}

    def trainer(self, rank: int) -> int:
        """The process of a rank.

        Raises:
            ProcessLookupError: when there is none.
        """
        name = f"RANK={rank}".encode()
        for pid in self.trainers():
            with contextlib.suppress(OSError):  # it has just ended
                if name in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    return pid
        raise ProcessLookupError(f"no process of rank {rank}")

    def wait_for(self, happened: Callable[[], bool], *, seconds: float = 90.0, pause_seconds: float = 0.005) -> None:
        """Wait until something has happened, while the job runs."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert self.launcher.poll() is None, f"ended with {self.launcher.returncode}: {self.output}"
            assert time.monotonic() < deadline, f"not in {seconds} s: {self.output}"
            time.sleep(pause_seconds)

    def wait_for_steps(self, count: int) -> None:
        self.wait_for(lambda: row_count(self.run_dir) >= count)

    def seconds_to_the_end(self, *, limit_seconds: float = 60.0) -> tuple[float, float]:
        """Seconds from now to the end of the last trainer and to the end of the launcher."""
        begin = time.monotonic()
        trainers = launcher = None
        while trainers is None or launcher is None:
            now = time.monotonic() - begin
            if trainers is None and not self.trainers():
                trainers = now
            if launcher is None and self.launcher.poll() is not None:
                launcher = now
            assert now < limit_seconds, f"still there: {self.alive()}; {self.output}"
            time.sleep(0.02)
        return trainers, launcher


@contextlib.contextmanager
def started(launcher: str, arguments: list[str], *, run_dir: Path, log: Path | None = None) -> Iterator[Job]:
    """A job that does not outlive the block."""
    with Job.start(launcher, arguments, run_dir=run_dir, log=log or run_dir.with_name("log")) as job:
        yield job
