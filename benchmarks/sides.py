"""Two or more ways to do the same, timed in turns: the machine's mood is then the same for all of them.

Each side is a process of its own, started once, with its own allocator, thread pools and caches. The sides work one at
a time, in turns, and wait without computing; what counts is the ratio of two sides within a turn, and of these ratios
the median.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

Work = Callable[[], Any]
"""One piece of work, a step or an epoch."""
Setup = Callable[..., Work]
"""Makes ready in the side's process and returns its work. A function of a module, so that it can be sent there."""


@dataclass(frozen=True)
class Timed:
    """Seconds of one piece of work of each side, for each turn."""

    seconds: Mapping[str, Sequence[float]]
    returned: Mapping[str, Any]
    """What the last piece of each side returned."""

    def median(self, side: str) -> float:
        """Seconds of one piece."""
        return statistics.median(self.seconds[side])

    def ratios(self, slow: str, fast: str) -> list[float]:
        """How many times faster ``fast`` was, for each turn."""
        return [a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True)]

    def ratio(self, slow: str, fast: str) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios(slow, fast))


def in_turns(sides: Mapping[str, tuple[Setup, tuple[Any, ...]]], *, turns: int, pieces: int, warm_up: int = 2) -> Timed:
    """Let every side do ``pieces`` pieces of work, ``turns`` times.

    Args:
        sides: for each name a function that makes ready, and its arguments.
        turns: how often each works; the order is reversed every second turn.
        pieces: of work in a turn.
        warm_up: pieces before any is timed.

    Raises:
        EOFError: when a side has failed; it has said why on standard error.
    """
    context = multiprocessing.get_context("spawn")
    started: dict[str, tuple[SpawnProcess, Connection]] = {}
    try:
        for name, (setup, arguments) in sides.items():
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, setup, arguments, warm_up))
            process.start()
            there.close()
            started[name] = (process, here)
            here.recv()  # ready
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        returned = {}
        for turn in range(turns):
            names = list(sides) if turn % 2 == 0 else list(sides)[::-1]
            for name in names:
                _, connection = started[name]
                connection.send(pieces)
                spent, returned[name] = connection.recv()
                seconds[name].append(spent / pieces)
        return Timed(seconds, returned)
    finally:
        for process, connection in started.values():
            connection.close()
            process.join(10)
            process.kill()


def load() -> str:
    """The machine's load averages, to tell a quiet measurement from another."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def _serve(connection: Connection, setup: Setup, arguments: tuple[Any, ...], warm_up: int) -> None:
    """A side's process: work whenever a number of pieces comes, until the other end closes."""
    work = setup(*arguments)
    for _ in range(warm_up):
        work()
    connection.send(None)
    while True:
        try:
            pieces = connection.recv()
        except EOFError:
            return
        begin = time.perf_counter()
        for _ in range(pieces):
            found = work()
        connection.send((time.perf_counter() - begin, found))
