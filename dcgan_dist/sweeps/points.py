"""The points of a sweep and how far each has come, told by the files of their runs. Writes nothing, needs no torch."""

import functools
import json
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dcgan_dist.cli import read_recipe, read_yaml, settings
from dcgan_dist.config import LENGTHS, MAY_DIFFER, RunConfig, TrainConfig, changed, leaves
from dcgan_dist.records import curves, read_row, read_rows, training_seconds
from dcgan_dist.run_lock import trainer_in
from dcgan_dist.sweeps.file import OF_A_POINT, Point, Sweep, read_sweep

State = Literal["done", "running", "stopped", "failed", "changed", "left"]
STATES: tuple[State, ...] = ("done", "running", "stopped", "failed", "changed", "left")
"""stopped: saved or killed, to go on. changed: the file's settings are not those of the run. left: not begun."""
TRAINS_NOTHING = ("summary", "dry_run")
"""Settings with which the trainer leaves no run."""
OF_ONE_START = frozenset(name for name, _ in leaves(RunConfig()))
"""Settings that a run's config.yaml does not have."""
TAIL_BYTES = 16_384
"""More than a row of metrics.jsonl has."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a point has come."""

    state: State
    reason: str = ""
    """Why it stopped or failed, what has changed, or who trains it."""
    step: int = 0
    """Steps done, as far as they are logged."""
    total_steps: int | None = None
    metric: float | None = None
    """The last value of the sweep's metric."""
    seconds: float = 0.0
    """Spent on its steps and their pauses."""
    pace: float | None = None
    """Seconds a step with its share of pauses, on average."""

    @property
    def share(self) -> float:
        """The part of its steps that is done, 0 to 1."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0


def checked_sweep(path: Path, flags: Sequence[str] = ()) -> Sweep:
    """The sweep of a file whose points are all runs that could start, as far as their settings tell.

    Args:
        path: the file.
        flags: more arguments of ``dcgan_dist.train``, for all points.

    Raises:
        ValueError: naming the file, the point and the setting.
    """
    sweep = read_sweep(path)
    given = settings(flags)
    for name in OF_A_POINT:
        if name in given:
            raise ValueError(f"{name}: each point has its own directory, and resumes there")
    _check_that_all_train(given)
    points, configs = [sweep.point(index) for index in range(sweep.count)], []
    for index, point in enumerate(points):
        try:
            configs.append(config_of(point, flags))
        except ValueError as error:
            raise ValueError(f"sweep {path}, point {index} ({point.name}): {error}") from None
    try:
        own = _settings_of_file(sweep)
    except ValueError as error:
        raise ValueError(f"sweep {path}: {error}") from None
    for name in sorted(given.keys() & own):
        raise ValueError(f"{name}: sweep {path} gives it already; a flag for all points must be another")
    if sweep.method == "grid":  # by chance, a random one may try a point again
        first: dict[TrainConfig, Point] = {}
        for point, config in zip(points, configs, strict=True):
            if (other := first.setdefault(config, point)) is not point:
                raise ValueError(
                    f"sweep {path}: points {other.index} ({other.name}) and {point.index} ({point.name}) are the same "
                    "run: write each value once"
                )
    return sweep


def _check_that_all_train(names: Collection[str]) -> None:
    for name in TRAINS_NOTHING:
        if name in names:
            raise ValueError(
                f"{name}: trains nothing, and no point would ever be done; give it to dcgan_dist.train with the flags "
                "that dcgan-sweep args prints"
            )


def _settings_of_file(sweep: Sweep) -> set[str]:
    """Names of the settings that a sweep's file gives any of its points.

    Raises:
        ValueError: when ``set`` gives one that stands elsewhere too, where either could win, or that is a point's own;
            or when one leaves no run.
    """
    own = settings(sweep.fixed_flags).keys() | {each.name for each in sweep.parameters if each.name != "set"}
    values = [value for each in sweep.parameters if each.name == "set" for value in each.values]
    given = {name: value for value in values for name in settings([f"--set={value}"])}
    for name, value in given.items():
        if name in OF_A_POINT:
            raise ValueError(f"parameters: set: each point has its own directory, and resumes there, got {value!r}")
        if name in own:
            raise ValueError(f"parameters: set: {name} is in command or one of parameters already, got {value!r}")
    _check_that_all_train(own | given.keys())
    return own | given.keys()


def config_of(point: Point, flags: Sequence[str] = ()) -> TrainConfig:
    """The settings of a point's run; ``flags`` come behind the point's.

    Raises:
        ValueError: naming the setting that is wrong.
    """
    values = settings([*point.flags, *flags])
    recipe = _recipe(values["config"]) if "config" in values else {}
    if set(values) & set(LENGTHS):
        recipe = {name: value for name, value in recipe.items() if name not in LENGTHS}
    return changed(TrainConfig(), recipe | values)


@functools.cache
def _recipe(given: str) -> dict[str, object]:
    return read_recipe(given)


def progress_of(run_dir: Path, wanted: Mapping[str, Any], *, metric: str | None = None) -> Progress:
    """How far the run of a point has come.

    Args:
        run_dir: its directory, which need not exist.
        wanted: settings that it must have, by name.
        metric: name of a logged value.
    """
    told = read_status(run_dir)
    state, reason = _state(run_dir, told, wanted)
    try:
        rows, _ = read_rows(run_dir / "metrics.jsonl")
    except OSError:
        rows = []
    found = curves(rows)
    _, values = found.get(metric or "", ([], []))
    step, seconds = rows[-1]["step"] if rows else 0, training_seconds(found)
    return Progress(
        state=state,
        reason=reason,
        step=step,
        total_steps=told.get("total_steps"),
        metric=values[-1] if values else None,
        seconds=seconds,
        pace=seconds / step if step else None,
    )


def read_status(run_dir: Path) -> dict[str, Any]:
    """What status.json says; nothing where there is none, or none that can be read."""
    try:
        told = json.loads((run_dir / "status.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def last_row(run_dir: Path) -> dict[str, Any]:
    """The newest row of metrics.jsonl, found without reading all of it; empty when there is none."""
    try:
        with (run_dir / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return {}
    return next((row for line in reversed(lines) if (row := read_row(line))), {})


def _state(run_dir: Path, told: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[State, str]:
    """The state of a run, and what there is to say about it."""
    written, reason = told.get("state"), str(told.get("reason", ""))
    try:
        trainer = trainer_in(run_dir)
    except OSError:  # no locks on this file system: believe what is written
        trainer = "another process" if written == "running" else None
    if trainer:
        return "running", trainer
    if written not in ("running", "done", "stopped", "failed"):
        return "left", ""
    path = run_dir / "config.yaml"
    try:
        saved = read_yaml(path) if path.exists() else {}
    except ValueError as error:  # of another version
        return "changed", str(error)
    if differences := _differences(saved, wanted):
        return "changed", "; ".join(differences)
    if written == "running":
        return "stopped", "killed"
    if written == "done":
        return _done(saved, wanted) if saved else ("done", "")
    return ("stopped" if written == "stopped" else "failed"), reason


def _differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What keeps a run from being that of a point, as ``lr: was 0.1, now 0.2``.

    What a resumed run may change does not count, and neither does what the run chose itself: auto.
    """
    return [
        f"{name}: was {saved[name]}, now {value}"
        for name, value in wanted.items()
        if name in saved and name not in MAY_DIFFER and value not in (saved[name], "auto")
    ]


def _done(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[State, str]:
    """The state of a run that has come to the end it was given; another may be wanted now."""
    for name in LENGTHS:
        length, was = wanted.get(name), saved.get(name)
        if length is not None and was is not None and length < was:
            return "changed", f"{name}: was {was}, now {length}"
        if length is not None and length != was:
            return "stopped", f"done, but now {name} is {length}"
    return "done", ""


def all_settings(config: TrainConfig) -> dict[str, Any]:
    """Every setting of a point's run by name."""
    return {name: value for name, value in leaves(config) if name not in OF_ONE_START}


def own_settings(point: Point, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Settings by name that the sweep's file itself gives a point, and ``flags`` for all points."""
    return {name: value for name, value in settings([*point.flags, *flags]).items() if name not in OF_ONE_START}


def eta_seconds(points: Sequence[Progress], *, at_once: int) -> float | None:
    """Seconds until no point is left, with ``at_once`` at a time; None when nothing tells how long one takes.

    A point takes as long as those that are done did on average, or, before one is, as the steps of those begun tell.
    """
    whole = [point.seconds for point in points if point.state == "done" and point.seconds]
    whole = whole or [point.pace * point.total_steps for point in points if point.pace and point.total_steps]
    if not whole or at_once < 1:
        return None
    to_do = [1 - point.share for point in points if point.state in ("running", "stopped", "left")]
    return statistics.fmean(whole) * max(sum(to_do) / at_once, max(to_do, default=0.0))
