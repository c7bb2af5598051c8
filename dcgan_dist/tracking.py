"""What a run says: metrics.jsonl always, the console, and Weights & Biases when wanted, behind one Tracker.

Only the main process has sinks; on the other ranks every method does nothing, so callers need not ask.
"""

import contextlib
import json
import math
import os
import sys
import time
import types
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dcgan_dist.clock import seconds_for_people
from dcgan_dist.distributed.runtime import StopRequest
from dcgan_dist.terminal import can_draw
from dcgan_dist.wandb_sink import AlertLevel, WandbSink

WIDE = 100
"""Columns of a terminal that has room for a bar."""
TOLD_SECONDS = 0.05
"""Shorter pauses between two rows are not worth a word."""


class Sink(Protocol):
    """Somewhere scalars and pictures go."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One row of scalars after ``step`` steps."""

    def picture(self, step: int, name: str, *, path: Path) -> None:
        """A picture or animation (.gif) made after ``step`` steps."""

    def histogram(self, step: int, name: str, *, counts: Sequence[int], edges: Sequence[float]) -> None:
        """Counts between edges, made after ``step`` steps."""

    def close(self, *, failed: bool) -> None:
        """Nothing more will come."""


class JsonLines:
    """metrics.jsonl: one JSON object a row, written line by line; the record of truth."""

    def __init__(self, path: Path, *, keep_bytes: int) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self.rewind(keep_bytes)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        before = self._file.tell()
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no other
        line = (json.dumps({"step": step, **finite}) + "\n").encode()
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            self._file.truncate(before)  # never half a row
            error.filename = str(self._path)
            raise

    def picture(self, step: int, name: str, *, path: Path) -> None:
        """Pictures are files already."""

    def histogram(self, step: int, name: str, *, counts: Sequence[int], edges: Sequence[float]) -> None:
        """The run directory has a file of them."""

    def size(self) -> int:
        """Bytes that have reached the disk."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def rewind(self, keep_bytes: int) -> None:
        """Forget what was written after the first ``keep_bytes`` bytes."""
        self._file.truncate(min(keep_bytes, self._path.stat().st_size))
        self._file.seek(0, os.SEEK_END)

    def close(self, *, failed: bool) -> None:
        self._file.close()


class RunConsole(Console):
    """Standard output of a run; when its reader leaves, as ``| head`` does, the run is asked to stop, and is silent."""

    def __init__(self, stop: StopRequest, *, quiet: bool) -> None:
        super().__init__(quiet=quiet, soft_wrap=True, highlight=False, markup=False)
        self._stop = stop

    def on_broken_pipe(self) -> None:
        """What rich calls when nobody reads any more."""
        self.quiet = True
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # which may hold a rest that nobody will read
        self._stop.ask("closed output")


class ConsoleSink:
    """A live progress display on a terminal, plain lines elsewhere; if quiet, warnings alone."""

    def __init__(self, console: Console, *, total_steps: int, first_step: int, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._total = total_steps
        self._first = first_step
        self._start = time.monotonic()
        self._progress: Progress | None = None
        if can_draw(console.file) and not quiet:
            bar = [BarColumn(bar_width=None)] if console.width >= WIDE else []
            self._progress = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                *bar,
                TextColumn("{task.fields[line]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                refresh_per_second=4,
                speed_estimate_period=60,
                expand=True,
            )
            self._task = self._progress.add_task("train", total=total_steps, completed=first_step, line="")
            self._progress.start()

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        losses = f"D {values['loss/d']:.3f} G {values['loss/g']:.3f}"
        scores = f"D(x) {values['score/real']:.2f} D(G(z)) {values['score/fake']:.2f}"
        if self._progress is not None:
            line = f"{values['time/images_per_second']:.0f} img/s {losses} {scores}"
            self._progress.update(self._task, completed=step, line=line)
        elif not self._quiet:
            pace = (time.monotonic() - self._start) / max(1, step - self._first)
            left = timedelta(seconds=round(pace * (self._total - step)))
            speed = f"{values['time/images_per_second']:.0f} images/s"
            pause = values["time/pause"]
            paused = f"  paused {seconds_for_people(pause)}" if pause >= TOLD_SECONDS else ""
            row = f"step {step}/{self._total}  {speed}  loss {losses}  {scores}  left {left}{paused}"
            try:
                print(row, file=self._console.file, flush=True)  # rich would take ten times as long
            except BrokenPipeError:
                self._console.on_broken_pipe()

    def picture(self, step: int, name: str, *, path: Path) -> None:
        """Told at the end of the run, all in one line."""

    def histogram(self, step: int, name: str, *, counts: Sequence[int], edges: Sequence[float]) -> None:
        """Not for a console."""

    def say(self, sentence: str) -> None:
        """One sentence, above the bar if there is one."""
        if not self._quiet:
            self.warn(sentence)

    def warn(self, sentence: str) -> None:
        """One sentence, also to whom wants it quiet."""
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def close(self, *, failed: bool) -> None:
        if self._progress is not None:
            self._progress.stop()


class Tracker:
    """All sinks of one run as one; without sinks, on ranks other than the main one, it does nothing."""

    def __init__(
        self, *, metrics: JsonLines | None = None, console: ConsoleSink | None = None, wandb: WandbSink | None = None
    ) -> None:
        self._metrics = metrics
        self._console = console
        self.wandb = wandb
        """None when W&B is not wanted, and on other ranks."""
        self._sinks: list[Sink] = [sink for sink in (metrics, wandb, console) if sink is not None]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        if error is not None and self.wandb is not None:
            self.wandb.alert("failed", f"{type(error).__name__}: {error}", level="ERROR")
        with contextlib.ExitStack() as stack:  # one that cannot be closed does not keep the others open
            for sink in self._sinks:
                stack.callback(sink.close, failed=kind is not None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One row of scalars after ``step`` steps."""
        for sink in self._sinks:
            sink.scalars(step, values)

    def picture(self, step: int, name: str, *, path: Path) -> None:
        """A picture or animation (.gif) made after ``step`` steps."""
        for sink in self._sinks:
            sink.picture(step, name, path=path)

    def histogram(self, step: int, name: str, *, counts: Sequence[int], edges: Sequence[float]) -> None:
        """Counts between edges, made after ``step`` steps."""
        for sink in self._sinks:
            sink.histogram(step, name, counts=counts, edges=edges)

    def alert(self, title: str, text: str, *, level: AlertLevel = "WARN") -> None:
        """Tell people at the console, and those who watch W&B."""
        if self._console is not None:
            self._console.warn(f"warning: {text}")
        if self.wandb is not None:
            self.wandb.alert(title, text, level=level)

    def summary(self, values: Mapping[str, float]) -> None:
        """Numbers of the whole run, for W&B's summary; status.json has them too."""
        if self.wandb is not None:
            self.wandb.summary(values)

    def stopped(self, reason: str) -> None:
        """The run ends before its last step because it was asked to, and can go on later."""
        if self.wandb is not None:
            self.wandb.stopped(reason)

    def advance(self, step: int) -> None:
        """Called after every step; moves the progress bar."""
        if self._console is not None:
            self._console.advance(step)

    def say(self, sentence: str) -> None:
        """Tell people at the console."""
        if self._console is not None:
            self._console.say(sentence)

    def rewind(self, metrics_bytes: int) -> None:
        """Cut metrics.jsonl back to a size it had."""
        if self._metrics is not None:
            self._metrics.rewind(metrics_bytes)

    def metrics_bytes(self) -> int:
        """Size of metrics.jsonl on disk; a resumed run cuts the file back to it."""
        return self._metrics.size() if self._metrics is not None else 0
