"""A sweep made by hand: its file and the directories of its runs, without any training."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dcgan_dist.cli import settings
from dcgan_dist.sweeps.file import Point, Sweep, read_sweep
from tests.runs import made_run

Rows = Sequence[Mapping[str, Any]]
KID = "eval/kid_e_n9"

TEXT = f"""
name: made
method: grid
metric: {{name: {KID}, goal: minimize}}
parameters:
  lr: {{values: [0.0003, 0.0001]}}
  batch_size: {{values: [16, 32]}}
  seed: {{values: [0, 1, 2]}}
command: [python, -m, dcgan_dist.train, --config, configs/flowers17-arch1.yaml, "${{args}}"]
"""
KIDS = {
    (0.0003, 16): (1.0, 2.0, 3.0),
    (0.0003, 32): (0.9, 1.8, 2.7),
    (0.0001, 16): (2.0, 4.0, 6.0),  # the recipe's own values; differences from it: 1, 2, 3 and 1.1, 2.2, 3.3
    (0.0001, 32): (2.5, 3.5, 6.5),
}
"""At step 200, by seed."""


def made_sweep(
    path: Path,
    *,
    rows: Callable[[Point], Rows | None],
    text: str = TEXT,
    grid_steps: Sequence[int] = (),
    world_size: int = 1,
) -> Sweep:
    """The sweep in ``path``/made.yaml, its finished runs in ``path``/runs; a point whose rows are None has none."""
    file = path / "made.yaml"
    file.write_text(text, encoding="utf-8")
    sweep = read_sweep(file)
    for index in range(sweep.count):
        point = sweep.point(index)
        of_point = rows(point)
        if of_point is not None:
            directory = path / "runs" / sweep.name / point.name
            own = settings([f"--{name}={value}" for name, value in point.parameters.items()])
            run = made_run(directory, settings=own, rows=of_point, grid_steps=grid_steps)
            run.environment.write_text(json.dumps({"world_size": world_size, "device": "cpu"}))
    return sweep


def kid_rows(point: Point) -> Rows:
    """Two evaluations and four rows of training, 2 seconds a step; the discriminator's loss is the seed plus 1."""
    parameters = point.parameters
    kid = KIDS[parameters["lr"], parameters["batch_size"]][parameters["seed"]]
    training = [
        {"step": step, "loss/d": 1.0 + parameters["seed"], "loss/g": step / 100, "time/step": 2.0, "images_seen": step}
        for step in (50, 100, 150, 200)
    ]
    quality = [{"step": step, KID: kid * 200 / step, f"{KID}_floor": 0.5, f"{KID}_std": 0.1} for step in (100, 200)]
    return [*training, *quality]
