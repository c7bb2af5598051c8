"""What a sweep found: its runs grouped over seeds, every measure of every setting, and which is best.

From Python: ``summarise(read_sweep(Path("configs/sweeps/lr_ratio.yaml")), Path("runs"))``.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dcgan_dist.results.comparison import Comparison, Estimate, compare, estimate, holm
from dcgan_dist.results.gather import Run, apart
from dcgan_dist.results.measures import GROUPS, beside, better, group_of, is_beside, is_collapse_score
from dcgan_dist.results.trials import Setting, Trial, baseline_of, given_by, settings_of, trials_of, varying
from dcgan_dist.sweeps.file import Sweep
from dcgan_dist.words import counted

COST = {
    "cost/images_per_second": "higher",
    "cost/seconds": "lower",
    "cost/device_hours": "lower",
}
"""Measures of whole runs, and which way each is better."""
UNCOMPARED = ("images_seen", "time/", "comm/")
"""Beginnings of names that say how far or how fast a run was; COST has that of the whole run."""
GOAL = {"minimize": "lower", "maximize": "higher"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measure of one setting."""

    values: Mapping[str, float]
    """By seed."""
    estimate: Estimate
    step: int | None
    """The step the values are of; None for a measure of whole runs."""
    floor: float | None
    """The same number between two halves of the data, of the first seed."""
    comparison: Comparison | None
    """With the baseline; None for the baseline itself and where it has no value."""


@dataclass(frozen=True, kw_only=True)
class SweepMeasure:
    """One measure of all settings."""

    name: str
    group: str
    """A key of GROUPS, or "cost"."""
    better: str
    """lower, higher or empty."""
    at: int | None
    """Steps, or images where those are compared; None for a measure of whole runs."""
    cells: tuple[Cell | None, ...]
    """Of each setting; None without a value."""
    best: frozenset[int]
    """Settings with the best mean, of those with all seeds and no failed run; empty where none is better."""

    @property
    def floor(self) -> float | None:
        """The floor that all settings share; None where they share none."""
        floors = {cell.floor for cell in self.cells if cell}
        return next(iter(floors)) if len(floors) == 1 else None


@dataclass(kw_only=True)
class Summary:
    """All that a sweep's runs say so far."""

    sweep: Sweep
    parameters: tuple[str, ...]
    """Names of the parameters that vary, the seed aside."""
    settings: tuple[Setting, ...]
    trials: tuple[Trial, ...]
    """Every point, in the order of the file."""
    baseline: Setting
    baseline_reason: str
    is_by_images: bool
    """Whether runs are compared at equal images seen, not at equal steps."""
    is_at_a_step: bool
    """Whether a step, or images, were asked for: runs of any length count that have come so far."""
    measures: tuple[SweepMeasure, ...]
    """The sweep's metric first."""
    notes: list[str] = field(default_factory=list)
    """What is not as one would expect, for people."""

    @property
    def metric(self) -> SweepMeasure:
        """What the sweep is judged by."""
        return self.measures[0]

    def trials_of(self, setting: Setting, *, all_states: bool = False) -> list[Trial]:
        """The trials of a setting that are part of its means, or all."""
        return [each for each in self.trials if each.setting == setting.place and (each.is_counted or all_states)]


def summarise(
    sweep: Sweep,
    runs: Path,
    *,
    baseline: str | None = None,
    step: int | None = None,
    images: int | None = None,
) -> Summary:
    """Means over seeds of everything the finished runs in ``runs``/SWEEP have measured, compared with a baseline.

    Args:
        sweep: the checked file.
        runs: directory of the sweep's directory.
        baseline: NAME=VALUE,... of the setting to compare with; else the recipe's own values, else the first setting.
        step: compare after so many steps, whatever state the runs are in; else after the last step that all finished
            runs have, which is looked for measure by measure.
        images: the same in real images seen.

    Raises:
        ValueError: when there is nothing to compare, or no such baseline; why is in the message.
    """
    points = [sweep.point(index) for index in range(sweep.count)]
    parameters = varying(points)
    settings = settings_of(points, parameters)
    chosen, reason = baseline_of(sweep, settings, wanted=baseline)
    notes: list[str] = []
    trials = trials_of(points, settings=settings, directory=runs / sweep.name, notes=notes)
    if all(trial.run is None for trial in trials):
        raise ValueError(f"sweep {sweep.name}: no run yet in {runs / sweep.name}")
    trials = [replace(trial, is_counted=_counts(trial, step=step, images=images)) for trial in trials]
    _check_counted(trials, name=sweep.name, step=step, images=images)
    given = {name for point in points for name in given_by(point.parameters)}
    notes += _differences([trial.run for trial in trials if trial.run and trial.is_counted], given=given)
    summary = Summary(
        sweep=sweep,
        parameters=parameters,
        settings=settings,
        trials=tuple(trials),
        baseline=chosen,
        baseline_reason=reason,
        is_by_images=images is not None,
        is_at_a_step=step is not None or images is not None,
        measures=(),
        notes=notes,
    )
    summary.measures = _measures(summary, images if step is None else step)
    return summary


def _counts(trial: Trial, *, step: int | None, images: int | None) -> bool:
    """Whether a run is part of the means: it is done or, where a step was asked for, it has come as far."""
    if trial.run is None:
        return False
    if step is None and images is None:
        return trial.state == "done"
    unit = _unit(trial.run, by_images=images is not None)
    wanted = images if step is None else step
    return bool(unit and wanted is not None and (trial.run.last_step or 0) * unit >= wanted)


def _unit(run: Run, *, by_images: bool) -> int | None:
    """Images a step where images are compared, else 1; None when the settings cannot be read."""
    if not by_images:
        return 1
    return run.config.images.batch_size if run.config else None


def _check_counted(trials: Sequence[Trial], *, name: str, step: int | None, images: int | None) -> None:
    if any(trial.is_counted for trial in trials):
        return
    states = [trial.state for trial in trials]
    found = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    if step is None and images is None:
        hint = "; --step N compares runs that have come that far"
        raise ValueError(f"sweep {name}: none of its {counted(len(trials), 'run')} is done ({found}){hint}")
    wanted = f"--step {step}" if images is None else f"--images {images}"
    raise ValueError(f"sweep {name}: no run has come to {wanted} ({found})")


def _differences(runs: Sequence[Run], *, given: Collection[str]) -> list[str]:
    """A sentence when runs differ in more than the settings ``given`` by the parameters: they are not of one file."""
    readable = [run for run in runs if run.settings]
    names = [name for name in apart(readable) if name not in given]
    if not names:
        return []
    return [
        f"The runs also differ in {', '.join(names)}, which the sweep does not vary: were the file or recipe edited?"
    ]


def _measures(summary: Summary, wanted: int | None) -> tuple[SweepMeasure, ...]:
    """Every measure, the sweep's metric first, then as in single runs' pages, then the cost.

    Raises:
        ValueError: when no run has the sweep's metric.
    """
    runs = [trial.run for trial in summary.trials if trial.run and trial.is_counted]
    names = dict.fromkeys(name for run in runs for name in run.curves)
    compared = [name for name in names if not is_beside(name) and not name.startswith(UNCOMPARED)]
    compared.sort(key=lambda name: list(GROUPS).index(group_of(name)))
    metric = summary.sweep.metric or _default_metric(compared)
    if metric not in compared:
        have = ", ".join(name for name in compared if better(name)) or ", ".join(compared) or "no numbers at all"
        raise ValueError(f"sweep {summary.sweep.name}: metric {metric}: no finished run has it; they have {have}")
    found: list[SweepMeasure] = []
    for name in [metric, *(name for name in compared if name != metric)]:
        position = wanted if wanted is not None else _last_common(runs, name)
        measure = None
        if position is not None:
            way = GOAL[summary.sweep.goal] if name == summary.sweep.metric else better(name)
            measure = _measure(summary, name, way=way, position=position)
        if measure is None and name == metric:
            raise ValueError(f"sweep {summary.sweep.name}: {_not_there(runs, name, wanted, summary.is_by_images)}")
        if measure is None and wanted is None:
            summary.notes.append(f"{name} is not compared: there is no step at which all runs have it.")
        if measure is not None:
            found.append(measure)
    if not summary.sweep.metric:
        summary.notes.append(f"The sweep names no metric; {metric} is taken.")
    return (*found, *(_cost(summary, name) for name in COST if any(run.seconds for run in runs)))


def _default_metric(names: Sequence[str]) -> str:
    """KID, else the score of collapse, else the first."""
    kid = [name for name in names if name.startswith("eval/kid")]
    return next(iter([*kid, *(name for name in names if is_collapse_score(name)), *names]), "")


def _last_common(runs: Sequence[Run], name: str) -> int | None:
    """The last step at which every run that has the measure has it."""
    steps = [set(run.curves[name][0]) for run in runs if name in run.curves]
    return max(set.intersection(*steps), default=None)


def _not_there(runs: Sequence[Run], name: str, wanted: int | None, by_images: bool) -> str:
    """Why nothing can be compared at ``wanted``, and where all runs have the measure."""
    what = "images" if by_images else "step"
    places = [
        {step * unit for step in run.curves[name][0]}
        for run in runs
        if name in run.curves and (unit := _unit(run, by_images=by_images))
    ]
    common = sorted(set.intersection(*places)) if places else []
    where = f"all runs have it at {', '.join(map(str, common[-6:]))}" if common else f"no {what} is common to all runs"
    return f"no run has {name} at --{what} {wanted}; {where}" if wanted is not None else f"{name}: {where}"


def _measure(summary: Summary, name: str, *, way: str, position: int) -> SweepMeasure | None:
    """The measure at a position; None when no run has it there."""
    values: list[dict[str, float]] = []
    floors: list[float | None] = []
    steps: list[int | None] = []
    for setting in summary.settings:
        values.append({})
        floor: float | None = None
        step = None
        for trial in summary.trials_of(setting):
            assert trial.run is not None
            unit = _unit(trial.run, by_images=summary.is_by_images)
            value = _value(trial.run, name, position, unit=unit)
            if value is None or unit is None:
                continue
            values[-1][trial.seed] = value
            step = position // unit
            other = beside(name, "floor", among=list(trial.run.curves))
            if floor is None and other:
                floor = trial.run.curves[other][1][-1]
        floors.append(floor)
        steps.append(step)
    if not any(values):
        return None
    return _finished(
        summary, name, way=way, values=values, steps=steps, floors=floors, position=position, group=group_of(name)
    )


def _value(run: Run, name: str, position: int, *, unit: int | None) -> float | None:
    if unit is None or position % unit or name not in run.curves:
        return None
    steps, values = run.curves[name]
    return values[steps.index(position // unit)] if position // unit in steps else None


def _cost(summary: Summary, name: str) -> SweepMeasure:
    values = []
    for setting in summary.settings:
        of_setting: dict[str, float] = {}
        for trial in summary.trials_of(setting):
            cost = _cost_of(trial, name)
            if cost is not None:
                of_setting[trial.seed] = cost
        values.append(of_setting)
    none = [None] * len(values)
    return _finished(summary, name, way=COST[name], values=values, steps=none, floors=none, position=None, group="cost")


def _cost_of(trial: Trial, name: str) -> float | None:
    run = trial.run
    if run is None or not run.seconds:
        return None
    if name == "cost/device_hours":
        return trial.device_hours
    if name == "cost/seconds":
        return run.seconds
    return (run.last_step or 0) * run.config.images.batch_size / run.seconds if run.config else None


def _finished(
    summary: Summary,
    name: str,
    *,
    way: str,
    values: Sequence[Mapping[str, float]],
    steps: Sequence[int | None],
    floors: Sequence[float | None],
    position: int | None,
    group: str,
) -> SweepMeasure:
    """A measure with its means, comparisons and best, from the values of each setting by seed."""
    base = values[summary.baseline.place]
    compared: list[Comparison | None] = [
        compare(mine, base) if mine and base and place != summary.baseline.place else None
        for place, mine in enumerate(values)
    ]
    tested = [place for place, each in enumerate(compared) if each is not None and each.p is not None]
    corrected = holm([each.p for each in compared if each is not None and each.p is not None])
    for place, p_holm in zip(tested, corrected, strict=True):
        before = compared[place]
        assert before is not None
        compared[place] = replace(before, p_holm=p_holm)
    cells = tuple(
        Cell(values=mine, estimate=estimate(list(mine.values())), step=step, floor=floor, comparison=comparison)
        if mine
        else None
        for mine, step, floor, comparison in zip(values, steps, floors, compared, strict=True)
    )
    return SweepMeasure(
        name=name, group=group, better=way, at=position, cells=cells, best=_best(summary, cells, better=way)
    )


def _best(summary: Summary, cells: Sequence[Cell | None], *, better: str) -> frozenset[int]:
    """The settings with the best mean, of those with all seeds and without a failed run.

    A mean over those that lived flatters, and one seed of three may just have been lucky.
    """
    counts = {place: cell.estimate.n for place, cell in enumerate(cells) if cell}
    failed = {trial.setting for trial in summary.trials if trial.state == "failed" and not trial.is_counted}
    full = max(counts.values(), default=0)
    means = {
        place: cell.estimate.mean
        for place, cell in enumerate(cells)
        if cell and counts[place] == full and place not in failed
    }
    if not better or len(set(means.values())) < 2:
        return frozenset()
    best = (min if better == "lower" else max)(means.values())
    return frozenset(place for place, mean in means.items() if mean == best)
