"""Run directories made by hand, for pictures and pages."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dcgan_dist.cli import to_yaml
from dcgan_dist.collapse.colours import ColourMode
from dcgan_dist.config import changed
from dcgan_dist.images import write_png
from dcgan_dist.run_directory import RunDirectory
from tests.shared import recipe

EDGES = [0.0, 0.25, 0.5, 0.75, 1.0]


def training_rows(count: int, *, every: int = 10) -> list[dict[str, Any]]:
    """Rows as the training loop logs them, of values that are all different."""
    return [
        {
            "step": every * number,
            "loss/d": 0.5 + 1 / number,
            "loss/g": 2 - 1 / (number + 1),
            "score/real": 0.5 + 0.4 / number,
            "score/fake": 0.5 - 0.4 / number,
            "images_seen": 160 * number,
            "time/step": 0.03 + 0.001 * (number % 5),
            "time/pause": 0.1,
        }
        for number in range(1, count + 1)
    ]


def collapse_rows(*scores: float, alarms: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Rows of evaluations every 100 steps; an alarm at these steps."""
    return [
        {
            "step": 100 * number,
            "collapse/score_n680": score,
            "collapse/ndb_k34_n680": score / 2,
            "collapse/ndb_k34_n680_floor": 0.1,
            "collapse/alarm": float(100 * number in alarms),
            "time/eval": 1.0,
            "time/eval_share": 0.125,
        }
        for number, score in enumerate(scores, start=1)
    ]


def mode(hue: float, *, data_share: float, sample_share: float) -> ColourMode:
    """A colour of much saturation."""
    return ColourMode(
        hue=hue,
        saturation=0.75,
        brightness=None,
        data_share=data_share,
        sample_share=sample_share,
        reached=sample_share >= data_share / 4,
    )


def made_run(
    path: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    histograms: Sequence[Mapping[str, Any]] = (),
    grid_steps: Sequence[int] = (),
    side: int = 40,
) -> RunDirectory:
    """A finished run of flowers17-arch1; grids are of one colour each, red by the step's place, blue for the reals."""
    path.mkdir(parents=True)
    run = RunDirectory(path)
    run.config.write_text(to_yaml(changed(recipe("flowers17-arch1"), dict(settings or {}))), encoding="utf-8")
    run.environment.write_text('{"python": "3.11", "device": "cpu", "packages": {"torch": "2.14"}, "command": ["a b"]}')
    run.set_status("done")
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if histograms:
        run.histograms.write_text("".join(json.dumps(row) + "\n" for row in histograms), encoding="utf-8")
    for place, step in enumerate(grid_steps):
        run.write_sample(step, np.full((side, side, 3), (20 * place + 40, 0, 0), np.uint8))
    if grid_steps:
        write_png(run.reals, np.full((side, side, 3), (0, 0, 200), np.uint8))
    return run
