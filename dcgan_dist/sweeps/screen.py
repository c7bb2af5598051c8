"""What ``dcgan-sweep run`` shows: lines as things happen and, on a terminal, bars below them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from dcgan_dist.sweeps.file import Point
from dcgan_dist.sweeps.points import Progress as PointProgress
from dcgan_dist.terminal import can_draw


class Screen:
    """Lines, and on a terminal a bar for each point in training and one for the sweep; if quiet, what matters alone."""

    def __init__(self, name: str, count: int, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(soft_wrap=True, highlight=False, markup=False)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[told]}", markup=False),
        )
        # no thread of its own: processes are forked here
        self._bars = Progress(
            *columns,
            console=self._console,
            auto_refresh=False,
            transient=True,
            disable=quiet or not can_draw(self._console.file),
        )
        self._whole = self._bars.add_task(f"sweep {name}", total=count, told="")
        self._points: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line, above the bars."""
        if not self._quiet:
            self.tell(text)

    def tell(self, text: str) -> None:
        """Print a line that matters, also to whom wants it quiet."""
        self._console.print(text)

    def show(self, running: Sequence[Point], progress: Sequence[PointProgress], eta: timedelta | None) -> None:
        """Draw the bars anew.

        Args:
            running: points in training here.
            progress: of all points, by their numbers.
            eta: time to the end of the sweep, if that is known.
        """
        for index in self._points.keys() - {point.index for point in running}:
            self._bars.remove_task(self._points.pop(index))
        for point in running:
            if point.index not in self._points:
                self._points[point.index] = self._bars.add_task(point.name, total=None, told="starting")
            found = progress[point.index]
            if found.step:
                pace = f", {found.pace * 1000:.0f} ms a step" if found.pace else ""
                told = f"{found.step:,}/{found.total_steps or '?':,} steps{pace}"
                self._bars.update(self._points[point.index], completed=found.step, total=found.total_steps, told=told)
        done = sum(found.state == "done" for found in progress)
        told = f"{done}/{len(progress)} points" + (f", ETA {eta}" if eta is not None else "")
        self._bars.update(self._whole, completed=done, told=told)
        self._bars.refresh()
