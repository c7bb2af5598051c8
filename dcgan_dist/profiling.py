"""What --profile shows: names for the parts of a step, the trace, and a table of where its time went."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

if TYPE_CHECKING:
    from rich.table import Table

WARM_UP = 10
"""Steps before the trace begins."""
PARTS = (
    *("data", "Generator forward", "Discriminator forward", "Generator backward", "Discriminator backward"),
    *("Generator optimizer", "Discriminator optimizer"),
)
"""Parts of a step; nothing is in two of them."""
COMMUNICATION = "communication"
"""Inside the others: what waits for other processes, DistributedDataParallel's reductions left out."""
_NOTHING: contextlib.nullcontext[None] = contextlib.nullcontext()


def named(part: str) -> contextlib.AbstractContextManager[Any]:
    """Gives what happens inside a name in the trace; nothing at all while there is none."""
    return record_function(part) if torch.autograd._profiler_enabled() else _NOTHING  # type: ignore[attr-defined]


@dataclass
class Trace:
    """A few steps of a run in a file for ui.perfetto.dev or chrome://tracing, recorded after a WARM_UP.

    Attributes:
        path: of the file.
        steps: how many.
        device: the steps'.
    """

    path: Path
    steps: int
    device: torch.device
    milliseconds: dict[str, float] = field(default_factory=dict)
    """Of a step on average, in all ("step") and by part, once the trace is written."""

    @contextlib.contextmanager
    def recording(self) -> Iterator[Callable[[], None]]:
        """What to call after each step."""
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
        timing = schedule(wait=0, warmup=WARM_UP, active=self.steps, repeat=1)
        with profile(schedule=timing, on_trace_ready=self._write, activities=activities) as running:
            yield running.step

    def table(self) -> "Table":
        """Where the time of a step went, as the host saw it."""
        from rich.table import Column, Table  # who loads a generator needs none

        whole = self.milliseconds["step"]
        found = Table("part of a step", Column("ms", justify="right"), Column("share", justify="right"))
        rows = {name: self.milliseconds.get(name, 0.0) for name in PARTS}
        rows = {name: spent for name, spent in rows.items() if spent}
        rows["other"] = whole - sum(rows.values())
        for name, spent in rows.items():
            found.add_row(name, f"{spent:.2f}", f"{spent / whole:.1%}")
        found.add_section()
        found.add_row("step", f"{whole:.2f}", f"{1:.1%}")
        if waits := self.milliseconds.get(COMMUNICATION):
            found.add_row("of it communication, gradients aside", f"{waits:.2f}", f"{waits / whole:.1%}")
        return found

    def _write(self, running: profile) -> None:
        aside = self.path.with_name(f".{self.path.name}.writing")
        running.export_chrome_trace(str(aside))
        aside.replace(self.path)
        spent = {each.key: each for each in running.key_averages()}
        (step,) = (each for name, each in spent.items() if name.startswith("ProfilerStep"))
        parts = {name: spent[name] for name in (*PARTS, COMMUNICATION) if name in spent}
        for name, each in {"step": step, **parts}.items():
            self.milliseconds[name] = each.cpu_time_total / 1000 / step.count
