"""``dcgan-sweep`` with the stand-in for the trainer: ``python -m tests.sweeps.command GPUS ARGUMENT...``."""

import sys
from unittest.mock import patch

from dcgan_dist import sweep
from dcgan_dist.sweeps.file import Point
from dcgan_dist.sweeps.plan import Plan

original = Plan.command


def command(plan: Plan, point: Point) -> list[str]:
    return ["tests.sweeps.trainer" if word == "dcgan_dist.train" else word for word in original(plan, point)]


if __name__ == "__main__":
    gpus = tuple(name for name in sys.argv[1].split(",") if name)
    with patch.object(Plan, "command", command), patch.object(sweep, "visible_gpus", lambda: gpus):
        sweep.main(sys.argv[2:])
