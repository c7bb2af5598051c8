"""Which curves a page draws in which chart, and their points."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dcgan_dist.collapse.score import ALARM
from dcgan_dist.pictures import LABELS, PANELS, RATIO
from dcgan_dist.records import extremes
from dcgan_dist.results.gather import Run
from dcgan_dist.results.measures import beside, is_beside, is_collapse_score, meaning

POINTS = 1000
"""At most this many of a curve, in buckets of which the least and the largest stay; a chart is 700 pixels wide."""
ALL_POINTS = 30_000
"""At most about this many of all curves: about 1 MB."""
LEAST_POINTS = 50
"""Of a curve, however many there are."""
DIGITS = 7
"""Significant digits of a point: what float32 holds."""
SMALLEST = 1e-300
"""Of a point that is not 0: a logarithmic axis ends below its least point, and has to end above 0."""

SECTIONS = {"game": "Curves", "quality": "Quality", "collapse": "Collapse", "speed": "Speed"}
SECTION_OF = {"eval": "quality", "collapse": "collapse", "time": "speed"}
"""By the first part of a name; all others are part of the game."""
UNDRAWN = ("images_seen", "comm/calls", "comm/bytes")
"""Straight lines: their last values are in the table."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve in a chart."""

    run: int
    name: str
    label: str
    colour: int
    floor: bool = False
    """Drawn dashed and grey: what the curve could reach at best."""


@dataclass(kw_only=True)
class Chart:
    """Curves that share their axes."""

    title: str
    section: str
    lines: list[Line] = field(default_factory=list)
    level: float | None = None
    """Where a dashed line goes: what is as high is an alarm."""
    alarms: list[tuple[int, int]] = field(default_factory=list)
    """Run and step of each alarm."""


def charts(runs: Sequence[Run]) -> list[Chart]:
    """All charts. With one run a colour is a curve; with several a colour is a run and each measure has its chart."""
    names = list(dict.fromkeys([*LABELS, *(name for run in runs for name in run.curves)]))
    names = [name for name in names if any(name in run.curves for run in runs)]
    found: dict[str, Chart] = {}
    for name in names:
        if name in UNDRAWN or is_beside(name):
            continue
        first = name.partition("/")[0]
        together = first in PANELS and name != RATIO and len(runs) == 1
        title = PANELS[first].capitalize() if together else name if len(runs) == 1 else _title(name)
        chart = found.setdefault(title, Chart(title=title, section=SECTION_OF.get(first, "game")))
        if is_collapse_score(name):
            chart.level = ALARM
            chart.alarms = [
                (place, step) for place, run in enumerate(runs) if name in run.curves for step in run.alarms
            ]
        floors: dict[tuple[str, float], int] = {}  # the first run that has this floor
        for place, run in enumerate(runs):
            if name not in run.curves:
                continue
            colour = place if len(runs) > 1 else len(chart.lines)
            label = run.name if len(runs) > 1 else meaning(name) or name.partition("/")[2] or name
            chart.lines.append(Line(run=place, name=name, label=label, colour=colour))
            if floor := beside(name, "floor", among=list(run.curves)):
                floors.setdefault((floor, run.curves[floor][1][-1]), place)
        for (floor, _), place in floors.items():
            of = "" if len(floors) == 1 else f" of {runs[place].name}"
            chart.lines.append(Line(run=place, name=floor, label=f"floor{of}", colour=0, floor=True))
    return sorted(found.values(), key=lambda chart: list(SECTIONS).index(chart.section))


def _title(name: str) -> str:
    """A name, and in words if it is a known one."""
    return f"{name}: {meaning(name)}" if meaning(name) else name


def points(runs: Sequence[Run], drawn: Sequence[Chart]) -> list[dict[str, Any]]:
    """For each run, by name: ``x`` steps, ``y`` values, and, of a curve that was thinned, ``m`` means around them."""
    wanted = {(line.run, line.name) for chart in drawn for line in chart.lines}
    limit = max(LEAST_POINTS, min(POINTS, ALL_POINTS // max(1, len(wanted))))
    found: list[dict[str, Any]] = [{} for _ in runs]
    for place, name in sorted(wanted):
        steps, values = runs[place].curves[name]
        kept, means = extremes(values, limit)
        curve = {"x": [steps[i] for i in kept], "y": [_rounded(values[i]) for i in kept]}
        if len(kept) < len(values):
            curve["m"] = [_rounded(mean) for mean in means]
        found[place][name] = curve
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") if abs(value) >= SMALLEST else 0.0
