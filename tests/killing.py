"""Starts runs so that they can be killed at a chosen moment, and tells what they were doing then."""

import contextlib
import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from dcgan_dist import train
from tests.distributed.ranks import PRELOADED
from tests.jobs import Job, row_count


class Attempt(Protocol):
    """One start of a run."""

    def ended(self) -> bool:
        """Whether all its processes have ended."""

    def kill(self) -> None:
        """Kill all its processes and wait until they are gone."""

    def code(self) -> int:
        """Exit code of what was started."""


def train_here(arguments: list[str], log: Path) -> None:
    """What runs in the process of a ``Fork``."""
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    torch.set_num_threads(1)
    train.main(arguments)


class Fork:
    """One process, forked from a server that has torch imported, so that it starts in a moment."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.process = context.Process(target=train_here, args=(arguments, log), daemon=True)
        self.process.start()

    def ended(self) -> bool:
        return self.process.exitcode is not None

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def code(self) -> int:
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode


def fork(arguments: list[str], run_dir: Path) -> Fork:
    return Fork(arguments, run_dir.with_name("log"))


class Torchrun:
    """Two processes and their launcher."""

    def __init__(self, arguments: list[str], run_dir: Path, *, order: str = "at once") -> None:
        self.job = Job.start("torchrun", arguments, run_dir=run_dir, log=run_dir.with_name("log"))
        self.order = order

    def ended(self) -> bool:
        return self.job.launcher.poll() is not None and not self.job.alive()

    def kill(self) -> None:
        if self.order == "launcher first":
            self.job.launcher.kill()
            time.sleep(0.2)  # the ranks are asked to stop by now
        if self.order == "rank 1 alone":
            with contextlib.suppress(ProcessLookupError):  # it has not started
                os.kill(self.job.trainer(1), signal.SIGKILL)
                self.job.seconds_to_the_end()
        self.job.__exit__()
        while self.job.alive():
            time.sleep(0.01)

    def code(self) -> int:
        return self.job.launcher.wait()


def unfinished(run_dir: Path) -> set[tuple[str, int, int]]:
    """What is being written or removed, or was when the run was killed: name, and what tells two of a name apart."""
    found = set()
    for directory in (run_dir, run_dir / "samples", run_dir / "checkpoints", run_dir / "best"):
        for path in directory.iterdir() if directory.exists() else []:
            if path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # it is done
                    facts = path.stat()
                    found.add((str(path.relative_to(run_dir)), facts.st_ino, facts.st_ctime_ns))
    return found


@dataclass
class Killer:
    """Kills one attempt at a moment and tells what it was doing."""

    attempt: Attempt
    run_dir: Path
    last_step: int
    chance: random.Random

    def __post_init__(self) -> None:
        self._unfinished = unfinished(self.run_dir)
        self._rows = row_count(self.run_dir)

    def strike(self, moment: float | str) -> str | None:
        """The phase that the kill landed in; None when the run was over before.

        Args:
            moment: seconds, or what to look for: ``writing`` or ``removing`` a checkpoint, ``sample``, ``end``.
        """
        begin = time.monotonic()
        while not (time.monotonic() >= begin + moment if isinstance(moment, float) else self._sees(moment)):
            if self.attempt.ended():
                return None
            assert time.monotonic() < begin + 120, moment
        time.sleep(self.chance.uniform(0, {"writing": 0.012, "end": 0.8}.get(str(moment), 0)))
        if self.attempt.ended():
            return None
        self.attempt.kill()
        return self._phase({name for name, _, _ in unfinished(self.run_dir) - self._unfinished})

    def _sees(self, moment: str) -> bool:
        if moment == "end":
            return self._final.exists()
        start, end = ("samples/.step-", ".tmp") if moment == "sample" else ("checkpoints/.step-", f".{moment}")
        names = {name for name, _, _ in unfinished(self.run_dir) - self._unfinished}
        return any(name.startswith(start) and name.endswith(end) for name in names)

    @property
    def _final(self) -> Path:
        return self.run_dir / "checkpoints" / f"step-{self.last_step:08d}"

    def _phase(self, written: set[str]) -> str:
        kinds = {
            "checkpoints": "checkpoint",
            "best": "checkpoint",
            "samples": "sample",
        }
        if any(name.endswith(".removing") for name in written):
            return "pruning"
        if any(name.startswith((".losses.png.", ".progress.gif.")) for name in written):
            return "end"
        for name in written:
            return kinds.get(name.partition("/")[0], "first files")
        if self._final.exists():
            return "end"
        return "start" if row_count(self.run_dir) <= self._rows else "step"
