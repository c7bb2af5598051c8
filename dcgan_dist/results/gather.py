"""What a run's own files say, as far as they can be read; what cannot be read becomes a sentence."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcgan_dist.cli import read_config
from dcgan_dist.clock import Account
from dcgan_dist.collapse.colours import ColourMode
from dcgan_dist.config import EvaluationConfig, LogConfig, TrainConfig, leaves
from dcgan_dist.pictures import histogram_counts
from dcgan_dist.recipes import CONFIGS
from dcgan_dist.records import Curve, Row, curves, is_number, read_rows, training_seconds
from dcgan_dist.run_directory import RunDirectory
from dcgan_dist.words import counted

OF_THE_MACHINE = {
    "data",
    "loader",
    "workers",
    "cache_dir",
    "cache_gigabytes",
    "threads",
    "timeout",
    "tracker",
    "project",
}
"""Settings that say where a run ran."""
_MEASURING = {name for name, _ in leaves(EvaluationConfig())} - {"on_collapse", "best_metric"}
UNMARKED = OF_THE_MACHINE | _MEASURING | {name for name, _ in leaves(LogConfig())} | {"recipe"}
"""These, and what a run reported: not what it computed. A difference in them is shown, not marked."""

STATES = ("running", "done", "stopped", "failed")
"""The states of status.json, which are CSS classes of pages too."""


@dataclass(kw_only=True)
class Run:
    """One run, as far as its files tell of it."""

    name: str
    directory: RunDirectory
    state: str = ""
    """One of STATES; empty when status.json does not say."""
    reason: str = ""
    account: Account | None = None
    """Where its time went; None before it has ended."""
    settings: dict[str, str] = field(default_factory=dict)
    """Every setting of config.yaml, written out; empty when it cannot be read."""
    config: TrainConfig | None = None
    recipe: dict[str, str] = field(default_factory=dict)
    """The settings of the recipe alone, to compare with; the defaults when there is no such recipe."""
    recipe_name: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    alarms: list[int] = field(default_factory=list)
    """Steps at which the samples had collapsed."""
    histograms: list[Row] = field(default_factory=list)
    colours: list[ColourMode] = field(default_factory=list)
    """Which colours of the data the samples of ``colours_step`` reach."""
    colours_step: int = 0
    grids: list[tuple[int, Path]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be read, for people."""

    @property
    def last_step(self) -> int | None:
        """Steps done as far as metrics and grids tell; None when nothing tells."""
        ends = [steps[-1] for steps, _ in self.curves.values()] + [step for step, _ in self.grids]
        return max(ends, default=None)

    @property
    def seconds(self) -> float:
        """Wall time of training; of a run that was resumed, what it kept."""
        return training_seconds(self.curves)


def gather(directories: Sequence[Path]) -> list[Run]:
    """The runs in these directories, in their order.

    Raises:
        ValueError: naming a path that is no run's directory, or comes twice.
    """
    resolved = [_checked(path) for path in directories]
    if len(set(resolved)) < len(resolved):
        twice = next(path for path in resolved if resolved.count(path) > 1)
        raise ValueError(f"{twice}: is named twice")
    return [_gathered(path, name) for path, name in zip(resolved, _names(resolved), strict=True)]


def apart(runs: Sequence[Run]) -> list[str]:
    """The settings, but those that change nothing that is computed, that are not the same in all runs."""
    names = [name for name, _ in leaves(TrainConfig())]
    return [name for name in names if name not in UNMARKED and len({run.settings.get(name) for run in runs}) > 1]


def _checked(path: Path) -> Path:
    if not path.is_dir():
        raise ValueError(f"{path}: {'is a file, not a run directory' if path.exists() else 'no such directory'}")
    if not (path / "config.yaml").exists():
        inside = sorted(found.parent.name for found in path.glob("*/config.yaml"))
        hint = f"; its runs are {path}/{inside[0]} and so on: {path}/*" if inside else ""
        raise ValueError(f"{path}: is no run directory, it has no config.yaml{hint}")
    return path.resolve()


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    for parts in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _gathered(path: Path, name: str) -> Run:
    run = Run(name=name, directory=RunDirectory(path))
    directory, notes = run.directory, run.notes
    status = _json(directory.status, notes)
    run.state, run.reason = str(status.get("state", "")), str(status.get("reason", ""))
    if "account" in status:
        try:
            run.account = Account.from_json(status["account"])
        except ValueError as error:
            notes.append(f"{directory.status.name} cannot be read: {error}")
    try:
        run.config = read_config(directory.config)
    except (ValueError, RecursionError) as error:
        notes.append(f"settings cannot be read: {error}")
    else:
        run.settings = _written(run.config)
        run.recipe_name, run.recipe = _recipe(run.config.recipe)
    run.environment = _flat(_json(directory.environment, notes))
    rows = _rows(directory.metrics, notes)
    run.curves = curves(rows)
    run.alarms = [step for step, alarm in zip(*run.curves.pop("collapse/alarm", ([], [])), strict=True) if alarm]
    for row in _rows(directory.colours, notes):
        if modes := colour_modes(row):
            run.colours, run.colours_step = modes, row["step"]
    run.histograms = [row for row in _rows(directory.histograms, notes) if histogram_counts(row)]
    run.grids = directory.sample_grids()
    return run


def colour_modes(row: Row) -> list[ColourMode]:
    """The modes of a row of colours.jsonl; empty when the row does not hold together."""
    modes = row.get("modes")
    found = [_colour_mode(each) for each in modes] if isinstance(modes, list) else []
    whole = [mode for mode in found if mode is not None]
    return whole if len(whole) == len(found) else []


def _colour_mode(facts: Any) -> ColourMode | None:
    """The mode that JSON tells; None when it tells none."""
    if not isinstance(facts, dict) or not isinstance(facts.get("reached"), bool):
        return None
    limits = {"hue": 360, "saturation": 1, "brightness": 1, "data_share": 1, "sample_share": 1}
    values: dict[str, Any] = {name: facts.get(name) for name in limits}
    if values["brightness"] is None:
        del values["brightness"]
    if not all(is_number(value) and 0 <= value <= limits[name] for name, value in values.items()):
        return None
    return ColourMode(
        hue=values["hue"],
        saturation=values["saturation"],
        brightness=values.get("brightness"),
        data_share=values["data_share"],
        sample_share=values["sample_share"],
        reached=facts["reached"],
    )


def _recipe(name: str) -> tuple[str, dict[str, str]]:
    """What a run's settings are compared with, in words, and its settings."""
    for folder in (CONFIGS, Path("configs")):  # the package's, and the user's own
        path = folder / f"{name}.yaml"
        try:
            return f"recipe {name}", _written(read_config(path))
        except (ValueError, RecursionError):
            continue  # no such file, or of another version
    return "defaults", _written(TrainConfig())


def _written(config: TrainConfig) -> dict[str, str]:
    """Every setting of config.yaml as text; what is None is left out."""
    run_settings = {name for name, _ in leaves(config.run)}
    return {
        name: _text(value) for name, value in leaves(config) if name not in run_settings and value not in (None, "")
    }


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flat(facts: dict[str, Any]) -> dict[str, str]:
    """One line for each fact; the packages have a line each, the command is written as in a shell."""
    lines: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            lines |= {str(key): str(each) for key, each in value.items()}
        elif isinstance(value, list):
            lines[name] = shlex.join(map(str, value))
        elif value is not None:
            lines[name] = str(value)
    return lines


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} cannot be read: {type(error).__name__}")
        return {}
    if not isinstance(found, dict):
        notes.append(f"{path.name} cannot be read: it is no JSON object")
        return {}
    return found


def _rows(path: Path, notes: list[str]) -> list[Row]:
    try:
        rows, unreadable = read_rows(path)
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}")
        return []
    if unreadable:
        notes.append(f"{path.name}: {counted(unreadable, 'line')} cannot be read")
    return rows
