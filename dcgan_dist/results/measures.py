"""Numbers of runs beside each other: last, best, floor."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dcgan_dist.metrics.quality import NUMBERS
from dcgan_dist.pictures import LABELS
from dcgan_dist.records import Curve
from dcgan_dist.results.gather import Run

BETTER = {name: number.better for name, number in NUMBERS.items()} | {
    "score": "lower",
    "ndb": "lower",
    "bins_js": "lower",
    "colour_modes": "higher",
    "colour_js": "lower",
    "flower_modes": "higher",
    "flower_kl": "lower",
    "flower_unknown": "lower",
}
"""Which way a measure of quality or collapse is better, by the beginning of its name.

Losses and scores of a GAN have no better: each is the other's worse. Nor have likeness, duplicates and copies, of
which noise has the least, or sharpness, of which it has the most.
"""
MEANINGS = LABELS | {
    **{f"eval/{name}": number.meaning for name, number in NUMBERS.items()},
    "rollbacks": "how often the run has gone back",
    "time/step": "seconds a step",
    "time/data": "seconds a step waiting for data",
    "time/communication": "seconds a step waiting for other processes",
    "time/pause": "seconds of pauses since the last row",
    "time/images_per_second": "real images a second",
    "time/eval": "seconds of an evaluation",
    "time/eval_share": "part of the time so far that evaluations took",
    "collapse/score": "variety that samples lack",
    "collapse/ndb": "bins of another share than the data's",
    "collapse/bins_js": "divergence of bins, bits",
    "collapse/colour_modes": "part of the colours reached",
    "collapse/colour_js": "divergence of colours, bits",
    "collapse/msssim": "likeness of two samples",
    "collapse/duplicates": "part with a near-duplicate",
    "collapse/copies": "part that copies the data",
    "collapse/data_distance": "distance to the nearest real",
    "collapse/sharpness": "variance of the Laplacian",
    "collapse/flower_modes": "kinds of flower found",
    "collapse/flower_kl": "divergence of kinds of flower, nats",
    "collapse/flower_unknown": "part that shows no flower",
}
"""Known names, or what they are before the first that says what they were made with, in words."""
GROUPS = {
    "eval": "Quality",
    "collapse": "Collapse",
    "": "Training",
    "time": "Speed",
    "comm": "Exchange between processes",
}
"""Titles of groups of measures by the first part of a name; "" is of all others."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measure of one run."""

    last: float
    deviation: float | None
    """Of ``last``, when the row has one."""
    best: float | None
    """None for measures that have no better."""
    best_step: int
    floor: float | None
    """The same measure between two halves of the data."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure of all runs."""

    name: str
    group: str
    better: str
    """lower, higher or empty."""
    cells: list[Cell | None]
    """None for a run that has none."""

    @property
    def winners(self) -> set[int]:
        """The runs whose best is the best of all; empty where there is none better than another."""
        found = {place: cell.best for place, cell in enumerate(self.cells) if cell and cell.best is not None}
        if len(set(found.values())) < 2:
            return set()
        best = (min if self.better == "lower" else max)(found.values())
        return {place for place, value in found.items() if value == best}


def measures(runs: Sequence[Run]) -> list[Measure]:
    """Every scalar of the runs, quality first, then collapse."""
    names = dict.fromkeys(name for run in runs for name in run.curves if not is_beside(name))
    found = [
        Measure(name=name, group=group_of(name), better=better(name), cells=[_cell(run, name) for run in runs])
        for name in names
    ]
    order = list(GROUPS)
    return sorted(found, key=lambda measure: order.index(measure.group))


def group_of(name: str) -> str:
    """The key of GROUPS that a name belongs to."""
    first = name.partition("/")[0]
    return first if first in GROUPS else ""


def is_beside(name: str) -> bool:
    """Whether a number belongs beside another: a floor or a deviation."""
    return bool(re.search(r"_(floor|std)(_|$)", name))


def better(name: str) -> str:
    """lower, higher or empty, for ``eval/fid_efflite0_n2048`` and its like."""
    group, _, rest = name.partition("/")
    ways = (way for start, way in BETTER.items() if f"{rest}_".startswith(f"{start}_"))
    return next(ways, "") if group in ("eval", "collapse") else ""


def meaning(name: str) -> str:
    """A name in words, empty for an unknown one: ``eval/fid_efflite0_n2048`` is ``eval/fid``."""
    group, _, rest = name.partition("/")
    parts = rest.split("_")
    starts = (f"{group}/{'_'.join(parts[:count])}" for count in range(len(parts), 0, -1))
    exact = group not in ("eval", "collapse")
    return MEANINGS.get(name, "") if exact else next((MEANINGS[start] for start in starts if start in MEANINGS), "")


def is_collapse_score(name: str) -> bool:
    """Whether a name is that of the score which gives the alarm."""
    return name.startswith("collapse/score_n")


def collapse_score(run: Run) -> Curve | None:
    """The score which gives the alarm; None when it was not measured."""
    return next((curve for name, curve in run.curves.items() if is_collapse_score(name)), None)


def beside(name: str, kind: str, *, among: Sequence[str]) -> str | None:
    """The name of a measure's floor or std: ``fid_x_n9_floor`` or, with a count of its own, ``fid_floor_x_n4``."""
    for other in among:
        if re.search(rf"_{kind}(_|$)", other) and _plain(other.replace(f"_{kind}", "", 1)) == _plain(name):
            return other
    return None


def _plain(name: str) -> str:
    """A name without its count of images."""
    return re.sub(r"_n\d+", "", name)


def _cell(run: Run, name: str) -> Cell | None:
    if name not in run.curves:
        return None
    steps, values = run.curves[name]
    best, best_step = None, 0
    if direction := better(name):
        best = (min if direction == "lower" else max)(values)
        best_step = steps[values.index(best)]
    return Cell(
        last=values[-1],
        deviation=_last(run, beside(name, "std", among=list(run.curves))),
        best=best,
        best_step=best_step,
        floor=_last(run, beside(name, "floor", among=list(run.curves))),
    )


def _last(run: Run, name: str | None) -> float | None:
    return run.curves[name][1][-1] if name else None
