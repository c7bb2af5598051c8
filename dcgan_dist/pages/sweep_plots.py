"""What report.js draws of a sweep: measures against parameters, a heat map, curves of means over seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from dcgan_dist.pages.charts import Chart, charts, points
from dcgan_dist.records import evenly
from dcgan_dist.results.gather import Run
from dcgan_dist.results.measures import meaning
from dcgan_dist.results.sweep_summary import Summary
from dcgan_dist.results.trials import Setting, setting_name
from dcgan_dist.sweeps.file import Value

LISTED_VALUES = 8
"""A parameter with more values, all of them numbers, has a scale of its own instead of a place for each."""
LOGARITHMIC = 20
"""From this ratio of the largest value to the least, that scale is logarithmic."""
SERIES = 8
"""As many colours as there are; with more series the points are not joined."""


def measures_data(summary: Summary) -> list[dict[str, Any]]:
    """Every measure with its means, intervals and values by seed."""
    return [
        {
            "name": measure.name,
            "title": f"{measure.name}: {words}" if (words := meaning(measure.name)) else measure.name,
            "better": measure.better,
            "best": sorted(measure.best),
            "cells": [
                cell
                and {
                    "mean": cell.estimate.mean,
                    "low": cell.estimate.low,
                    "high": cell.estimate.high,
                    "values": list(cell.values.values()),
                }
                for cell in measure.cells
            ],
            "floor": measure.floor,
        }
        for measure in summary.measures
    ]


def parameter_plots(summary: Summary) -> list[dict[str, Any]]:
    """For each parameter that varies: its scale, and where on it the settings are, by the other parameters."""
    return [_plot(summary, name) for name in summary.parameters]


def _plot(summary: Summary, name: str) -> dict[str, Any]:
    values = _sorted({str(setting.values[name]): setting.values[name] for setting in summary.settings})
    places, ticks = _scale(values)
    series: dict[str, list[Setting]] = {}
    for setting in summary.settings:
        others = {other: value for other, value in setting.values.items() if other != name}
        series.setdefault(setting_name(others) if others else "", []).append(setting)
    joined = len(series) <= SERIES
    if not joined:
        series = {"each setting": list(summary.settings)}
    return {
        "parameter": name,
        "ticks": ticks,
        "range": [min(places.values()), max(places.values())],
        "series": [
            {
                "label": label,
                "colour": colour,
                "joined": joined,
                "points": sorted([places[str(setting.values[name])], setting.place] for setting in settings),
            }
            for colour, (label, settings) in enumerate(series.items())
        ],
    }


def _sorted(values: Mapping[str, Value]) -> list[Value]:
    """Numbers by size, anything else in the order of the file."""
    if _are_numbers(list(values.values())):
        return sorted(values.values(), key=float)
    return list(values.values())


def _are_numbers(values: Sequence[Value]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _scale(values: Sequence[Value]) -> tuple[dict[str, float], list[tuple[float, str]]]:
    """The place of each value on its axis, and the axis' ticks with their labels."""
    if len(values) <= LISTED_VALUES or not _are_numbers(values):
        places = {str(value): float(place) for place, value in enumerate(values)}
        return places, [(places[str(values[i])], str(values[i])) for i in evenly(len(values), LISTED_VALUES)]
    logarithmic = min(values) > 0 and max(values) / min(values) >= LOGARITHMIC
    places = {str(value): math.log10(value) if logarithmic else float(value) for value in values}
    low, high = min(places.values()), max(places.values())
    at = [low + (high - low) * fifth / 4 for fifth in range(5)]
    return places, [(place, f"{10**place if logarithmic else place:.3g}") for place in at]


def heat_map(summary: Summary) -> dict[str, Any] | None:
    """Rows, columns and the setting of each cell, where just two parameters vary; None when it had many holes."""
    if len(summary.parameters) != 2:
        return None
    down, across = summary.parameters
    rows, columns = (
        _sorted({str(setting.values[name]): setting.values[name] for setting in summary.settings})
        for name in (down, across)
    )
    by_values = {
        (str(setting.values[down]), str(setting.values[across])): setting.place for setting in summary.settings
    }
    if len(by_values) * 2 <= len(rows) * len(columns):  # drawn at random: holes
        return None
    cells = [by_values.get((str(row), str(column))) for row, column in product(rows, columns)]
    return {
        "down": down,
        "across": across,
        "rows": [str(row) for row in rows],
        "columns": [str(column) for column in columns],
        "cells": [cells[start : start + len(columns)] for start in range(0, len(cells), len(columns))],
    }


def mean_curves(summary: Summary) -> tuple[list[Chart], list[dict[str, Any]]]:
    """Charts with a curve for each setting, and for each setting its curves: means over seeds at common steps.

    ``low`` and ``high`` of a curve are the least and the largest over seeds.
    """
    runs, ranges = [], []
    for setting in summary.settings:
        run, of_run = _mean_run(summary, setting)
        runs.append(run)
        ranges.append(of_run)
    drawn = charts(runs)
    found = points(runs, drawn)
    for curves, of_run in zip(found, ranges, strict=True):
        for name, curve in curves.items():
            if name in of_run:
                curve["low"] = [of_run[name][step][0] for step in curve["x"]]
                curve["high"] = [of_run[name][step][1] for step in curve["x"]]
    return drawn, found


def _mean_run(summary: Summary, setting: Setting) -> tuple[Run, dict[str, dict[int, tuple[float, float]]]]:
    """The mean of a setting's runs as if it were one run, and the range over seeds by name and step."""
    own = [trial.run for trial in summary.trials_of(setting) if trial.run]
    first = own[0] if own else next(trial.run for trial in summary.trials if trial.run)
    mean = Run(name=setting.name, directory=first.directory, config=first.config if own else None)
    ranges: dict[str, dict[int, tuple[float, float]]] = {}
    for name in dict.fromkeys(name for run in own for name in run.curves):
        by_step = [dict(zip(*run.curves[name], strict=True)) for run in own if name in run.curves]
        steps = sorted(set.intersection(*(set(each) for each in by_step)))
        if not steps:
            continue
        mean.curves[name] = steps, [statistics.fmean(each[step] for each in by_step) for step in steps]
        if len(by_step) > 1:
            ranges[name] = {
                step: (min(each[step] for each in by_step), max(each[step] for each in by_step)) for step in steps
            }
    return mean, ranges
