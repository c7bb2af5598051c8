"""Trains the points of a sweep that are left on this machine, some at a time, each in a process of its own.

Several of these may work on one sweep, on one machine or on many that share its runs: a point's log file is locked by
the one that takes the point, and its run directory by the process that trains there, whoever started it.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from dcgan_dist.distributed.launcher import end_with_parent, without_launcher
from dcgan_dist.machine import cores
from dcgan_dist.run_lock import try_lock
from dcgan_dist.sweeps.file import Point
from dcgan_dist.sweeps.plan import Plan
from dcgan_dist.sweeps.points import Progress, all_settings, eta_seconds, last_row, progress_of, read_status
from dcgan_dist.sweeps.screen import Screen
from dcgan_dist.words import counted

LOOK_SECONDS = 0.2
"""How often to look whether a process has ended."""
WAIT_SECONDS = 1.0
"""How often to look at points that others train, and at how far ours are."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
TAIL_BYTES = 16_384
"""Of a log, in which to look for what went wrong."""


@dataclass(kw_only=True)
class _Job:
    """A point that is being trained."""

    point: Point
    place: int
    process: subprocess.Popen[bytes]
    log: BinaryIO
    log_start: int
    """Where in the log this start begins."""
    before: int
    """When status.json was written that was there before; 0 for none."""


class SweepRun:
    """The points of a plan, from what is left to what has become of them.

    Raises:
        ValueError: when the run of a point had other settings, or there are no shards; nothing is written then.
    """

    def __init__(self, plan: Plan, screen: Screen) -> None:
        self.plan, self.screen = plan, screen
        self.points = [plan.sweep.point(index) for index in range(plan.sweep.count)]
        self.progress = [self._looked_at(point) for point in self.points]
        self._check()
        self._written = [_written(plan.run_dir(point)) for point in self.points]  # before this began
        self._jobs: list[_Job] = []
        self._told: set[int] = set()
        """Points of others that the user knows of."""
        self._signals: list[int] = []
        self._stopping = False
        self._locks = True
        """Whether the file system has locks, as far as is known."""

    def run(self) -> int:
        """Train what is left; the exit code: 0 when nothing failed, else 1."""
        (self.plan.runs / self.plan.sweep.name).mkdir(parents=True, exist_ok=True)
        handlers = {number: signal.signal(number, self._receive) for number in STOP_SIGNALS}
        todo = [point.index for point in self.points if self.progress[point.index].state != "done"]
        done = len(self.points) - len(todo)
        self._say(
            f"sweep {self.plan.sweep.name}: {counted(len(self.points), 'point')}, {done} done, {len(todo)} left; "
            f"{self.plan.jobs} at a time{self._shares()}"
        )
        began = time.monotonic()
        try:
            with self.screen:
                while todo or self._jobs:
                    if not self._stopping:
                        self._start(todo)
                    self._pause(busy=bool(todo) and not self._stopping)
                    self._collect(todo)
                    if self._stop_at_once():
                        return 1
                    if self._stopping and not self._jobs:
                        break
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self._summed_up(time.monotonic() - began)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _shares(self) -> str:
        plan = self.plan
        if plan.gpus:
            shared = ", which some share" if plan.jobs * plan.processes > len(plan.gpus) else ""
            return f", {counted(plan.processes, 'GPU')} each{shared}"
        each = f"{counted(plan.processes, 'process')} each, " if plan.processes > 1 else ""
        return f", {each}on {counted(cores(), 'core')}"

    def _check(self) -> None:
        """Refuse to start what would fail, or would train a point on with other settings."""
        changed = [
            f"\n  {self._run_dir(index)}: {found.reason}"
            for index, found in enumerate(self.progress)
            if found.state == "changed"
        ]
        if changed:
            raise ValueError(
                f"{counted(len(changed), 'run')} had other settings than sweep {self.plan.sweep.name} has now: set "
                f"them back, give the sweep another name, or move the directories away{''.join(changed)}"
            )
        for point, found in zip(self.points, self.progress, strict=True):
            data = self.plan.wanted(point).images.data
            if found.state != "done" and data and "://" not in data and not (Path(data) / "index.json").exists():
                raise ValueError(
                    f"data {data}: not a directory of shards: no index.json; docs/data.md has the commands"
                )

    # ------------------------------------------------------------ points

    def _looked_at(self, point: Point) -> Progress:
        wanted = all_settings(self.plan.wanted(point))
        return progress_of(self.plan.run_dir(point), wanted, metric=self.plan.sweep.metric)

    def _start(self, todo: list[int]) -> None:
        """Begin with as many points as there is room for; those that others train stay in ``todo``."""
        for index in list(todo):
            if len(self._jobs) == self.plan.jobs or self._signals:
                return
            log = self._taken(self.points[index])
            if log is None:
                continue
            found = self.progress[index] = self._looked_at(self.points[index])
            if found.state == "running":  # by one that no dcgan-sweep run watches
                self._tell_of_others(index, found.reason)
                log.close()
                continue
            todo.remove(index)
            failed_elsewhere = found.state == "failed" and _written(self._run_dir(index)) != self._written[index]
            if found.state in ("done", "changed") or failed_elsewhere:
                say = self._say if found.state == "done" else self._tell
                say(f"{found.state}: {self._named(index)}{f', {found.reason}' if found.reason else ''}")
                log.close()
            else:
                self._begin(self.points[index], log)

    def _taken(self, point: Point) -> BinaryIO | None:
        """The log of a point, locked: the point is ours; None when another ``dcgan-sweep run`` has it."""
        log = self.plan.log(point).open("ab+")
        try:
            free = try_lock(log.fileno())
        except OSError as error:
            free = True
            if self._locks:
                self._tell(f"warning: no locks in {self.plan.runs} ({error.strerror}): start no second dcgan-sweep run")
            self._locks = False
        if not free:
            self._tell_of_others(point.index, "another dcgan-sweep run")
            log.close()
            return None
        return log

    def _tell_of_others(self, index: int, who: str) -> None:
        if index not in self._told:
            self._told.add(index)
            self._say(f"left alone for now: {self._named(index)}, {who} trains it")

    def _begin(self, point: Point, log: BinaryIO) -> None:
        place = min(set(range(self.plan.jobs)) - {job.place for job in self._jobs})
        command, variables = self.plan.command(point), self.plan.variables(point, place=place)
        start = log.seek(0, os.SEEK_END)
        log.write(f"$ {self.plan.shell(point, place=place)}\n".encode())
        log.flush()
        before = _written(self.plan.run_dir(point))
        process = subprocess.Popen(
            command,
            env=without_launcher(os.environ) | variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,  # so that a terminal's Ctrl-C reaches this program alone, which hands it on
            preexec_fn=end_with_parent,  # there are no threads here that could hold a lock
        )
        self._jobs.append(_Job(point=point, place=place, process=process, log=log, log_start=start, before=before))
        verb = "resumed" if "--resume" in command else "started"
        self._say(f"{verb}: {self._named(point.index)}, log {self.plan.log(point)}")

    def _collect(self, todo: list[int]) -> None:
        """Note what has become of the points whose processes have ended."""
        for job in [job for job in self._jobs if job.process.poll() is not None]:
            self._jobs.remove(job)
            index, code, said = job.point.index, job.process.returncode, self._said(job)
            found = self.progress[index] = self._looked_at(job.point)
            if found.state == "running" and code:  # another trainer was quicker
                self._tell_of_others(index, found.reason)
                todo.append(index)
            elif code and self._stopping and not said:
                self._say(f"not begun: {self._named(index)}")
            elif said.get("state") == "stopped":  # whatever torchrun makes of the exit code
                self._say(f"stopped: {self._named(index)}, {found.reason}")
            elif found.state == "done":
                self._say(f"done: {self._named(index)}, {self._outcome(found)}")
            else:
                reason = self._reason(job, said)
                self.progress[index] = Progress(
                    state="failed", reason=reason, step=found.step, total_steps=found.total_steps
                )
                self._tell(f"failed: {self._named(index)}, {reason}; log {self.plan.log(job.point)}")
            job.log.close()  # and the point is free
        todo.sort()

    def _said(self, job: _Job) -> Mapping[str, Any]:
        """What this start of a point has written to its status.json; nothing when it did not come so far."""
        run_dir = self.plan.run_dir(job.point)
        return read_status(run_dir) if _written(run_dir) != job.before else {}

    def _reason(self, job: _Job, said: Mapping[str, Any]) -> str:
        """Why a point failed, on one line."""
        if said.get("state") == "failed":
            return " ".join(str(said.get("reason")).split())
        size = job.log.seek(0, os.SEEK_END)
        job.log.seek(max(job.log_start, size - TAIL_BYTES))
        text = job.log.read().decode(errors="replace")
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("$ ")]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        code = job.process.returncode
        if errors or (lines and code > 0):
            return (errors or lines)[-1].strip()
        return f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"

    # ------------------------------------------------------------ time and signals

    def _pause(self, *, busy: bool) -> None:
        """Show how far the points are, and wait until there is something to do."""
        for job in self._jobs:
            self._follow(job)
        self.screen.show([job.point for job in self._jobs], self.progress, self._eta())
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline and not self._signals:
            if any(job.process.poll() is not None for job in self._jobs):
                return
            if not self._jobs and not busy:
                return
            time.sleep(LOOK_SECONDS)

    def _follow(self, job: _Job) -> None:
        """Note how far a job is; its pace is an average that forgets, because that of a row jumps."""
        row, told = last_row(self.plan.run_dir(job.point)), read_status(self.plan.run_dir(job.point))
        before, pace = self.progress[job.point.index].pace, row.get("time/step")
        self.progress[job.point.index] = Progress(
            state="running",
            step=row.get("step", 0),
            total_steps=told.get("total_steps"),
            pace=0.9 * before + 0.1 * pace if before and pace else pace,
        )

    def _eta(self) -> timedelta | None:
        seconds = eta_seconds(self.progress, at_once=self.plan.jobs)
        return None if seconds is None else timedelta(seconds=round(seconds))

    def _stop_at_once(self) -> bool:
        """Hand the first signal on to all processes; whether the same signal came again, and all were ended."""
        if not self._signals:
            return False
        if not self._stopping:
            self._stopping = True
            name = signal.Signals(self._signals[0]).name
            self._tell(f"{name}: {counted(len(self._jobs), 'point')} save and stop; once more ends all at once")
            for job in self._jobs:
                job.process.terminate()
        if len(self._signals) == len(set(self._signals)):
            return False
        for job in self._jobs:
            os.killpg(job.process.pid, signal.SIGKILL)
            job.process.wait()
        self._tell(f"ended at once; go on from the newest checkpoints with: {self.plan.again}")
        return True

    # ------------------------------------------------------------ words

    def _summed_up(self, seconds: float) -> int:
        states = [found.state for found in self.progress]
        told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        self._tell(f"sweep {self.plan.sweep.name}: {told}, after {timedelta(seconds=round(seconds))}")
        if any(state != "done" for state in states):
            self._tell(f"go on with: {self.plan.again}")
        return 1 if {"failed", "changed"} & set(states) else 0

    def _outcome(self, found: Progress) -> str:
        metric = "" if found.metric is None else f", {self.plan.sweep.metric} {found.metric:.4g}"
        eta = f", ETA {eta}" if (eta := self._eta()) else ""
        done = sum(each.state == "done" for each in self.progress)
        return f"{counted(found.step, 'step')}{metric}; {done} of {len(self.points)} done{eta}"

    def _run_dir(self, index: int) -> Path:
        return self.plan.run_dir(self.points[index])

    def _named(self, index: int) -> str:
        return f"point {index} ({self.points[index].name})"

    def _say(self, text: str) -> None:
        self.screen.say(text)

    def _tell(self, text: str) -> None:
        self.screen.tell(text)


def _written(run_dir: Path) -> int:
    """When status.json was written, in nanoseconds; 0 where there is none."""
    try:
        return (run_dir / "status.json").stat().st_mtime_ns
    except OSError:
        return 0
