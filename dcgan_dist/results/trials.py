"""The points of a sweep as settings and seeds, with the runs there are, and the setting to compare with."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcgan_dist import cli
from dcgan_dist.config import TrainConfig, changed, leaves
from dcgan_dist.results.gather import Run, gather
from dcgan_dist.run_lock import trainer_in
from dcgan_dist.sweeps.file import Point, Sweep, Value


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A point without its seed: what is averaged over seeds."""

    place: int
    name: str
    values: Mapping[str, Value]
    """Of the parameters that vary."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of the sweep: one setting with one seed."""

    point: str
    """Name of its directory."""
    setting: int
    seed: str
    """Empty where the sweep has no parameter seed."""
    run: Run | None
    """None when there is no directory, or none that can be read."""
    state: str
    """As in status.json, or "not started", "unreadable" or "repeated"."""
    is_counted: bool
    """Whether its numbers are part of the means."""

    @property
    def device_hours(self) -> float:
        """Wall time of the whole run times its processes, hours."""
        if self.run is None:
            return 0.0
        processes = self.run.environment.get("world_size", "")
        return self.run.seconds * (int(processes) if processes.isdecimal() else 1) / 3600


def varying(points: Sequence[Point]) -> tuple[str, ...]:
    """Names of the parameters that vary, the seed aside."""
    names = [name for name in points[0].parameters if name != "seed"]
    return tuple(name for name in names if len({str(point.parameters[name]) for point in points}) > 1)


def settings_of(points: Sequence[Point], parameters: Sequence[str]) -> tuple[Setting, ...]:
    """The settings of all points, in the order of the file."""
    found: dict[str, dict[str, Value]] = {}
    for point in points:
        values = {name: point.parameters[name] for name in parameters}
        found.setdefault(setting_name(values), values)
    return tuple(Setting(place=place, name=name, values=found[name]) for place, name in enumerate(found))


def setting_name(values: Mapping[str, Value]) -> str:
    """The name of the setting with these values: ``lr=0.0001, batch_size=16``."""
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "all runs"


def baseline_of(sweep: Sweep, settings: Sequence[Setting], *, wanted: str | None) -> tuple[Setting, str]:
    """The setting to compare with, and why it is that one.

    Args:
        sweep: the checked file.
        settings: all of them.
        wanted: NAME=VALUE,... or None for the recipe's own values, else the first setting.

    Raises:
        ValueError: when ``wanted`` is not just one setting.
    """
    if wanted is not None:
        return _wanted(wanted, settings), "as asked for"
    own = _own_values(sweep)
    for setting in settings:
        given = given_by(setting.values)
        if own and setting.values and all(own.get(name) == value for name, value in given.items()):
            return setting, "the recipe's own values"
    return settings[0], "the first of the file"


def _wanted(text: str, settings: Sequence[Setting]) -> Setting:
    words = re.split(r",(?=[A-Za-z_]\w*=)", text)
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if len(given) < len(words):
        raise ValueError(f"--baseline must be NAME=VALUE,..., got {text!r}")
    for name in given:
        if name not in settings[0].values:
            known = ", ".join(settings[0].values) or "none"
            raise ValueError(f"--baseline: {name} is no parameter that varies in this sweep; these are: {known}")
    fit = [
        setting
        for setting in settings
        if all(
            value == str(setting.values[name]) or given_by({name: value}) == given_by({name: setting.values[name]})
            for name, value in given.items()
        )
    ]
    if not fit:
        taken = ", ".join(dict.fromkeys(str(setting.values[name]) for setting in settings for name in given))
        raise ValueError(f"--baseline {text}: no setting of this sweep; {', '.join(given)} takes {taken}")
    if len(fit) > 1:
        raise ValueError(f"--baseline {text} fits {len(fit)} settings, as {fit[0].name} and {fit[1].name}: say more")
    return fit[0]


def _own_values(sweep: Sweep) -> dict[str, Any]:
    """Every setting of a run to which the sweep gives no parameters; empty when its recipe cannot be read."""
    try:
        given = cli.settings(sweep.fixed_flags)
        recipe = cli.read_recipe(given["config"]) if "config" in given else {}
        return dict(leaves(changed(TrainConfig(), recipe | given)))
    except ValueError:
        return {}


def given_by(values: Mapping[str, Value]) -> dict[str, Any]:
    """The settings that parameters with these values give a run, each as its own type; ``set`` gives any number.

    A value that is none of its setting's type stays as text.
    """
    given: dict[str, Any] = {}
    for name, value in values.items():
        try:
            given |= cli.settings([f"--{name}={value}"])
        except ValueError:
            given[name] = str(value)
    return given


def trials_of(
    points: Sequence[Point], *, settings: Sequence[Setting], directory: Path, notes: list[str]
) -> list[Trial]:
    """A trial for each point; what cannot be read, or comes twice, is told in ``notes``."""
    by_name = {setting.name: setting.place for setting in settings}
    trials: list[Trial] = []
    seen: dict[tuple[int, str], str] = {}
    for point in points:
        seed = str(point.parameters["seed"]) if "seed" in point.parameters else ""
        place = by_name[setting_name({name: point.parameters[name] for name in settings[0].values})]
        run, state = None, "not started"
        if (place, seed) in seen:  # of method random
            notes.append(f"{point.name} repeats {seen[place, seed]} and is left out.")
            state = "repeated"
        elif (path := directory / point.name).exists():
            try:
                (run,) = gather([path])
                if run.state == "running" and not _is_trained(path):
                    run.state, run.reason = "stopped", "killed"
                state = run.state or "no status"
            except ValueError as error:
                notes.append(f"Left out: {error}.")
                state = "unreadable"
        seen.setdefault((place, seed), point.name)
        trials.append(Trial(point=point.name, setting=place, seed=seed, run=run, state=state, is_counted=False))
    return trials


def _is_trained(directory: Path) -> bool:
    """Whether a process trains there; where the file system has no locks, status.json is believed."""
    try:
        return trainer_in(directory) is not None
    except OSError:
        return True
