"""Where a run's time goes: a stopwatch that is always in one part, and what it has counted. Standard library only."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

PAUSES = {"evaluation": "evaluation", "checkpoints": "checkpoint", "samples": "sample grid"}
"""Parts in which nothing is trained, and what each is called when there is one."""
PARTS = ("compute", "communication", "data", *PAUSES, "logging", "rest")
"""All parts; together they are all of the time."""


@dataclass
class Spent:
    """What one part has taken."""

    seconds: float = 0.0
    times: int = 0
    longest: float = 0.0
    """Seconds of the longest time."""


@dataclass
class Account:
    """What a run has trained and where its time went, over all its resumes: whatever a checkpoint has kept of it."""

    images: int = 0
    """Real images that were trained on, all processes together."""
    process_seconds: float = 0.0
    """Seconds times processes."""
    measured: bool = True
    """Whether communication was told from compute; a GPU's is not seen by the clock of its host."""
    parts: dict[str, Spent] = field(default_factory=lambda: {name: Spent() for name in PARTS})
    """As the main process saw them."""

    @property
    def seconds(self) -> float:
        """Wall time of all parts."""
        return sum(part.seconds for part in self.parts.values())

    @property
    def images_per_second(self) -> float:
        """Of all processes together, with all pauses."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def images_per_second_per_process(self) -> float:
        """Likewise, of one process."""
        return self.images / self.process_seconds if self.process_seconds else 0.0

    def shares(self) -> dict[str, float]:
        """The part of the time that each part took, 0 to 1; compute has communication in it where that is unknown."""
        whole = self.seconds or 1.0
        shares = {name: part.seconds / whole for name, part in self.parts.items()}
        if not self.measured:
            shares["compute"] += shares.pop("communication")
        return shares

    def scalars(self) -> dict[str, float]:
        """Throughput and shares under names like those of logged values."""
        return {
            "throughput/images_per_second": self.images_per_second,
            "throughput/images_per_second_per_process": self.images_per_second_per_process,
            **{f"share/{name}": share for name, share in self.shares().items()},
        }

    def speed(self) -> str:
        """Throughput, for people."""
        each = self.images_per_second_per_process
        return f"{self.images_per_second:,.0f} images/s" + (
            f", {each:,.0f} a process" if self.process_seconds > 1.001 * self.seconds else ""
        )

    def division(self) -> str:
        """The shares for people, largest first, to a tenth of a percent; they add up to 100."""
        exact = {name: 1000 * share for name, share in self.shares().items()}
        tenths = {name: math.floor(value) for name, value in exact.items()}
        missing = round(sum(exact.values())) - sum(tenths.values())
        for name in sorted(exact, key=lambda name: exact[name] - tenths[name], reverse=True)[:missing]:
            tenths[name] += 1
        names = {} if self.measured else {"compute": "compute and communication (not measured apart)"}
        told = sorted((name for name in tenths if tenths[name]), key=tenths.__getitem__, reverse=True)
        return ", ".join(f"{names.get(name, name)} {tenths[name] / 10:.1f}%" for name in told)

    def pauses(self) -> str:
        """How often training has paused for what, and for how long each time; empty when it never has."""
        said = []
        for name, noun in PAUSES.items():
            part = self.parts[name]
            if part.times:
                mean = seconds_for_people(part.seconds / part.times)
                most = f" (longest {seconds_for_people(part.longest)})" if part.times > 1 else ""
                said.append(f"{part.times:,} {noun}{'s' if part.times > 1 else ''} of {mean}{most}")
        return ", ".join(said)

    def as_json(self) -> dict[str, Any]:
        """What ``from_json`` reads."""
        return {
            "images": self.images,
            "process_seconds": self.process_seconds,
            "measured": self.measured,
            "parts": {name: [part.seconds, part.times, part.longest] for name, part in self.parts.items()},
        }

    @classmethod
    def from_json(cls, told: Any) -> "Account":
        """The account that ``as_json`` told.

        Raises:
            ValueError: when it is none.
        """
        try:
            parts = {name: Spent(*told["parts"][name]) for name in PARTS}
            account = cls(told["images"], told["process_seconds"], told["measured"], parts)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no account of a run's time: {error}") from None
        numbers = [account.images, account.process_seconds]
        numbers += [number for part in parts.values() for number in (part.seconds, part.times, part.longest)]
        if not all(isinstance(number, int | float) and 0 <= number < 1e15 for number in numbers):
            raise ValueError("no account of a run's time: a number is out of range")
        return account


def seconds_for_people(seconds: float) -> str:
    """12 s, 1.2 s or 12 ms."""
    if seconds < 0.0995:
        return f"{1000 * seconds:.2g} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:,.0f} s"


class Clock:
    """Wall time of a run by parts, and what a row of metrics.jsonl says of it.

    Args:
        processes: of the run.
        measures_communication: whether communication is told from compute.
    """

    def __init__(self, *, processes: int, measures_communication: bool) -> None:
        self._processes = processes
        self._account = Account(measured=measures_communication)
        self._part, self._since = "rest", time.perf_counter()
        self.start(0)

    def go_on_from(self, account: Account) -> None:
        """Add to what the run had taken before."""
        account.measured = account.measured and self._account.measured
        self._account = account

    def begin(self) -> None:
        """The run's time begins now; what was before is not counted."""
        self._since = time.perf_counter()

    def start(self, step: int) -> None:
        """Begin a row after ``step`` steps."""
        self._turn(self._part)
        self._step, self._row = step, self._seconds()

    @contextlib.contextmanager
    def measured(self, part: str, *, times: int = 1) -> Iterator[None]:
        """Count what happens inside as ``part``, and not as the part around it.

        Args:
            part: one of PARTS.
            times: how many of the part's this is; 0 for a wait for one that has been counted.
        """
        around = self._part
        self._turn(part)
        begin = self._since
        try:
            yield
        finally:
            self._turn(around)
            spent = self._account.parts[part]
            spent.times += times
            spent.longest = max(spent.longest, self._since - begin)

    def waited(self, seconds: float) -> None:
        """Of the last ``compute``, so many seconds were communication."""
        if self._account.measured:
            self._account.parts["compute"].seconds -= seconds
            self._account.parts["communication"].seconds += seconds

    def trained(self, images: int) -> None:
        """So many real images more."""
        self._account.images += images

    def account(self) -> Account:
        """All so far."""
        self._turn(self._part)
        return self._account

    def read(self, step: int) -> dict[str, float]:
        """Seconds a step without pauses, of them waiting for data and for others, and seconds of pauses; a new row."""
        self._turn(self._part)
        spent = {name: seconds - self._row[name] for name, seconds in self._seconds().items()}
        steps, pause = step - self._step, sum(spent[name] for name in PAUSES)
        times = {
            "time/step": (sum(spent.values()) - pause) / steps,
            "time/data": spent["data"] / steps,
            "time/pause": pause,
        }
        if self._processes > 1 and self._account.measured:
            times["time/communication"] = spent["communication"] / steps
        self.start(step)
        return times

    def _turn(self, part: str) -> None:
        """Give the part that was the time until now, and go on in ``part``."""
        now = time.perf_counter()
        self._account.parts[self._part].seconds += now - self._since
        self._account.process_seconds += (now - self._since) * self._processes
        self._part, self._since = part, now

    def _seconds(self) -> dict[str, float]:
        return {name: part.seconds for name, part in self._account.parts.items()}
