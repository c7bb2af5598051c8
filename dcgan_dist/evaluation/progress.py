"""How far an evaluation has come, for people who watch."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dcgan_dist.distributed.runtime import Runtime
from dcgan_dist.terminal import can_draw

Report = Callable[[str, int, int], None]
"""Called with what is being done, and about how many images of how many are done."""


def silent(what: str, done: int, total: int) -> None:
    """A Report that says nothing."""


@contextlib.contextmanager
def progress(runtime: Runtime, *, quiet: bool) -> Iterator[Report]:
    """A progress bar on standard error, on the main process of a terminal."""
    console = Console(stderr=True)
    hidden = quiet or not runtime.is_main or not can_draw(console.file)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        yield report
