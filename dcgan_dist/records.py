"""Rows of a run's JSON-lines files, as far as they can be read, and thinning. Standard library only."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

Row = dict[str, Any]
Curve = tuple[list[int], list[float]]
"""Steps, rising, and the values there."""
LARGEST = 1e300
"""Numbers beyond count as infinite: the difference of two numbers has to be finite."""
LAST_STEP = 10**15
"""No step is later; a browser can count so far."""


def read_rows(path: Path) -> tuple[list[Row], int]:
    """Rows in the order of their steps, and how many lines are none: cut off, no object, no whole ``step``.

    A file that is not there has no rows.

    Raises:
        OSError: when the file is there and cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return [], 0
    rows = [row for line in lines if (row := read_row(line)) is not None]
    unreadable = sum(bool(line.strip()) for line in lines) - len(rows)
    return sorted(rows, key=lambda row: int(row["step"])), unreadable


def read_row(line: bytes) -> Row | None:
    """The row of a line; None for a line that is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or not 0 <= row["step"] <= LAST_STEP:
        return None
    return row


def is_number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a number that can be drawn, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def curves(rows: Sequence[Row]) -> dict[str, Curve]:
    """The curve of every scalar in ``rows``, by name; what is no finite number is left out.

    Two rows of one step are one; of two values the later counts.
    """
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and is_number(value):
                found.setdefault(name, {})[row["step"]] = float(value)
    return {name: (list(points), list(points.values())) for name, points in found.items()}


def training_seconds(found: Mapping[str, Curve]) -> float:
    """Wall time of a run from its curves: steps and pauses. A run that was resumed counts what it kept."""
    steps, pace = found.get("time/step", ([], []))
    spans = [step - before for step, before in zip(steps, [0, *steps], strict=False)]
    _, pauses = found.get("time/pause", ([], []))
    return sum(span * seconds for span, seconds in zip(spans, pace, strict=True)) + sum(pauses)


def evenly(count: int, limit: int) -> list[int]:
    """At most ``limit`` of the positions 0 to count - 1, spread evenly, the last one always among them."""
    if count <= limit:
        return list(range(count))
    if limit == 1:
        return [count - 1]
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def extremes(values: Sequence[float], limit: int) -> tuple[list[int], list[float]]:
    """At most ``limit`` (4 or more) positions, rising: the ends, and the least and largest of each bucket.

    So a spike of a single value stays, however many values there are. The second list has the mean of each position's
    bucket, because a mean over extremes alone would be that of the spikes.
    """
    count = len(values)
    if count <= limit:
        return list(range(count)), list(values)
    buckets = (limit - 2) // 2
    kept: dict[int, float] = {}
    for number in range(buckets):
        bucket = range(number * count // buckets, (number + 1) * count // buckets)
        mean = math.fsum(values[i] / len(bucket) for i in bucket)
        ends = {0, count - 1} & set(bucket)
        for i in {min(bucket, key=values.__getitem__), max(bucket, key=values.__getitem__)} | ends:
            kept[i] = mean
    return sorted(kept), [kept[i] for i in sorted(kept)]
