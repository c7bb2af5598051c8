"""``dcgan-sweep`` with the stand-in for the trainer: ``python -m tests.sweeps.command GPUS ARGUMENT...``."""

import sys

from dcgan_dist import sweep
from dcgan_dist.sweep_run import Plan

if __name__ == "__main__":
    original = Plan.command
    Plan.command = lambda plan, point: [  # type: ignore[method-assign]
        "tests.sweeps.trainer" if word == "dcgan_dist.train" else word for word in original(plan, point)
    ]
    sweep.visible_gpus = lambda: tuple(name for name in sys.argv[1].split(",") if name)  # type: ignore[attr-defined]
    sweep.main(sys.argv[2:])
