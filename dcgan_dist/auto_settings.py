"""What precision and memory_format auto become: a few steps of each candidate, on weights that are thrown away."""

import statistics
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from dcgan_dist.config import TrainConfig, candidates, changed
from dcgan_dist.data.loader import Loader
from dcgan_dist.data.order import Order
from dcgan_dist.data.resident import ResidentLoader
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.runtime import Runtime, wait_for
from dcgan_dist.gan import build_gan
from dcgan_dist.loop import Training
from dcgan_dist.run_directory import RunDirectory
from dcgan_dist.tracking import Tracker

WARM_UP_STEPS, STEPS = 2, 5
"""Of each candidate: steps before it is timed, and steps that are."""
GAIN = 0.05
"""Share of the default's time that another candidate must save: less may be chance, and rounds for nothing."""


def chosen(config: TrainConfig, loader: Loader, runtime: Runtime) -> tuple[TrainConfig, str]:
    """``config`` with the fastest candidate in place of each auto, and a sentence on it; the same on every rank.

    Nothing of the run itself has begun: all that is random in it is a function of seed, step and row.

    Args:
        config: of the run.
        loader: its images; all candidates train on those of the first step.
        runtime: this process.
    """
    left = candidates(config)
    if "precision" in left and not all(collectives.gathered(_computes_bf16(runtime.device))):
        left["precision"] = ("no",)
    each = [changed(config, dict(zip(left, values, strict=True))) for values in product(*left.values())]
    if not left:
        return config, ""
    if len(each) == 1:
        return each[0], f"auto: {_said(each[0], left)}; there is no bf16 here"
    own = timed(each, pixels=collectives.on_all(partial(loader.batch, 0)), runtime=runtime)
    seconds = [max(ranks) for ranks in zip(*collectives.gathered(own), strict=True)]  # all wait for the slowest
    best = collectives.from_main(partial(fastest, seconds))
    paces = ", ".join(f"{_said(one, left)} {pace * 1000:.1f} ms" for one, pace in zip(each, seconds, strict=True))
    return each[best], f"auto: {_said(each[best], left)}; a step took {paces}"


def fastest(seconds: list[float]) -> int:
    """Place of the least; the first, the default, unless the least saves a GAIN of it."""
    best = min(range(len(seconds)), key=seconds.__getitem__)
    return best if seconds[best] < (1 - GAIN) * seconds[0] else 0


def timed(configs: Sequence[TrainConfig], *, pixels: Tensor, runtime: Runtime) -> list[float]:
    """Seconds of a step of each run on this process, medians; they take turns, so that all have the same luck.

    Networks are not compiled for this, which would take longer than what is gained.

    Args:
        configs: of the runs.
        pixels: this process's rows of one batch, (rows, channels, size, size) uint8, on the device.
        runtime: this process.
    """
    trainings = [_training(changed(config, {"compile": False}), pixels, runtime) for config in configs]
    found: list[list[float]] = [[] for _ in configs]
    for _ in range(WARM_UP_STEPS + STEPS):
        for training, seconds in zip(trainings, found, strict=True):
            begin = time.perf_counter()
            training.update()
            wait_for(runtime.device)
            seconds.append(time.perf_counter() - begin)
    return [statistics.median(seconds[WARM_UP_STEPS:]) for seconds in found]


def _training(config: TrainConfig, pixels: Tensor, runtime: Runtime) -> Training:
    """A run at step 0 whose every batch has these images, in another order each time."""
    rows = len(pixels)
    order = Order([rows], seed=config.seed, shuffle_window=1)
    return Training(
        gan=collectives.on_all(partial(build_gan, config, runtime)),
        loader=ResidentLoader(pixels, order, batch_size=rows, rows=(0, rows), digest=""),
        runtime=runtime,
        run=RunDirectory(Path()),
        tracker=Tracker(),
        total_steps=WARM_UP_STEPS + STEPS,
    )


def _computes_bf16(device: torch.device) -> bool:
    """Whether the device itself does; a GPU that only emulates it is never faster."""
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def _said(config: TrainConfig, names: Iterable[str]) -> str:
    """The values of some settings, for people."""
    return " ".join(f"{name} {getattr(config.compute, name)}" for name in names)
