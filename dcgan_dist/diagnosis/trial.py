"""The first steps of a run twice, on all processes and on one, and how far they are apart."""

import contextlib
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dcgan_dist.cli import read_config, to_yaml
from dcgan_dist.config import NetworkConfig, TrainConfig
from dcgan_dist.data.order import Order
from dcgan_dist.data.resident import ResidentLoader
from dcgan_dist.data.synthetic import draw_flower
from dcgan_dist.data.transforms import with_channels
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.launcher import without_launcher
from dcgan_dist.distributed.runtime import Runtime, start, wait_for
from dcgan_dist.gan import Gan, build_gan
from dcgan_dist.loop import Training
from dcgan_dist.run_directory import RunDirectory
from dcgan_dist.tracking import Tracker

IMAGES = 64
CONFIG, OUTCOME = "config.yaml", "outcome.safetensors"
"""What the run on one process reads and writes."""
FEWEST_STEPS = 2
REFERENCE_SHARE = 0.9
"""Share of the process group's time limit that one process may take while the others wait for it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a few steps."""

    losses: Tensor
    """(steps, 2) of D and G, means over the global batch."""
    networks: dict[str, Tensor]
    """Parameters and running statistics of each network as one vector."""
    step_seconds: float = 0.0
    """Median."""
    step_calls: int = 0
    """Collectives of one step."""
    step_bytes: int = 0
    """What each rank hands to them."""
    digest: str = ""
    """Of every bit of the networks on this rank."""

    def save(self, path: Path) -> None:
        """Write the numbers that one process is compared by, as safetensors."""
        save_file({"losses": self.losses, **self.networks}, path)

    @classmethod
    def load(cls, path: Path) -> "Outcome":
        """What ``save`` wrote."""
        tensors = load_file(path)
        return cls(losses=tensors.pop("losses"), networks=tensors)


def draw_images(config: NetworkConfig) -> Tensor:
    """(IMAGES, channels, size, size) uint8 flowers, drawn by program."""
    flowers = (draw_flower(index, seed=0, size=config.image_size)[0] for index in range(IMAGES))
    pixels = np.stack([with_channels(flower, config.channels) for flower in flowers])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def outcome(
    config: TrainConfig, runtime: Runtime, *, images: Tensor, steps: int, seconds_in_all: float = math.inf
) -> Outcome:
    """The first steps of a run on ``images``, which must be the same on all ranks.

    Args:
        config: what is trained.
        runtime: this process.
        images: (n, channels, size, size) uint8.
        steps: how many, if there is time.
        seconds_in_all: time for them, from FEWEST_STEPS on; endless when there are several ranks.

    Raises:
        DivergenceError: on all ranks, when a loss or a weight is not a number.
    """
    batch_size = config.images.batch_size
    order = Order([len(images) // 2] * 2, seed=config.seed, shuffle_window=config.images.shuffle_window)
    rows = runtime.rows(batch_size)
    training = Training(
        gan=collectives.on_all(partial(build_gan, config, runtime)),
        loader=ResidentLoader(images.to(runtime.device), order, batch_size=batch_size, rows=rows, digest=""),
        runtime=runtime,
        run=RunDirectory(Path()),
        tracker=Tracker(),
        total_steps=steps,
    )
    losses: list[Tensor] = []
    seconds: list[float] = []
    while len(losses) < steps and (len(losses) < FEWEST_STEPS or sum(seconds) < seconds_in_all):
        begin = time.perf_counter()
        with collectives.counted() as traffic:
            scalars = training.update()
        losses.append(torch.stack([scalars["loss/d"], scalars["loss/g"]]).double())
        wait_for(runtime.device)
        seconds.append(time.perf_counter() - begin)
    training.check()
    means = collectives.all_reduce(torch.stack(losses)) / runtime.world_size
    modules = dict(_networks(training.gan))
    return Outcome(
        losses=means.cpu(),
        networks={name: _vector(module) for name, module in modules.items()},
        step_seconds=statistics.median(seconds),
        step_calls=traffic.calls,
        step_bytes=traffic.bytes,
        digest=collectives.digest(
            {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
        ),
    )


def on_one_process(config: TrainConfig, *, steps: int, seconds: float) -> Outcome:
    """The ``outcome`` of a process of its own, which knows nothing of this job and has ended on return.

    Args:
        config: what is trained.
        steps: how many, if there is time.
        seconds: time for them.

    Raises:
        ReferenceRunError: when it failed.
    """
    limit = REFERENCE_SHARE * config.compute.timeout
    try:
        with tempfile.TemporaryDirectory(prefix="dcgan-doctor-") as scratch, _cleaned_up_on_sigterm():
            directory = Path(scratch)
            (directory / CONFIG).write_text(to_yaml(config), encoding="utf-8")
            command = [sys.executable, "-m", "dcgan_dist.diagnosis.trial", scratch, str(steps), str(seconds)]
            environment = without_launcher(os.environ)
            subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=limit)
            return Outcome.load(directory / OUTCOME)
    except subprocess.TimeoutExpired:
        raise ReferenceRunError(f"one process did not end in {limit:.0f} s; try fewer --steps") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        raise ReferenceRunError(f"one process failed: {lines[-1]}") from None
    except OSError as error:
        raise ReferenceRunError(f"one process could not be run: {error}") from None


@contextlib.contextmanager
def _cleaned_up_on_sigterm() -> Iterator[None]:
    """SIGTERM, by which launchers end a job, unwinds the block instead of leaving a process and files behind."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class ReferenceRunError(Exception):
    """There is no run on one process to compare with, and why."""


def _main(directory: str, *, steps: int, seconds: float) -> None:
    """The part of ``on_one_process`` that runs in the process of its own."""
    config = read_config(Path(directory) / CONFIG)
    runtime = start(config.compute)
    images = draw_images(config.network)
    done = outcome(config, runtime, images=images, steps=steps, seconds_in_all=seconds)
    done.save(Path(directory) / OUTCOME)
    runtime.end()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far two outcomes are from each other, relative to the second."""

    losses: list[float]
    """The larger difference of the two losses, for each step."""
    networks: dict[str, float]
    """Of each network's whole vector, in norm."""


def compared(found: Outcome, expected: Outcome) -> Comparison:
    """``found`` against ``expected``."""
    return Comparison(
        losses=_relative((found.losses - expected.losses).abs(), expected.losses.abs()).amax(dim=1).tolist(),
        networks={
            name: _relative((vector - expected.networks[name]).norm(), expected.networks[name].norm()).item()
            for name, vector in found.networks.items()
        },
    )


def _relative(difference: Tensor, size: Tensor) -> Tensor:
    """``difference / size``; 0 without a difference, infinite where that is not a number."""
    ratio = (difference / size).nan_to_num(nan=math.inf, posinf=math.inf)
    return ratio.masked_fill(difference == 0, 0.0)


def _networks(gan: Gan) -> Iterator[tuple[str, nn.Module]]:
    yield "generator", gan.generator.plain
    yield "discriminator", gan.discriminator.plain
    if gan.average is not None:
        yield "average", gan.average.module


def _vector(module: nn.Module) -> Tensor:
    values = [value for value in module.state_dict().values() if value.is_floating_point()]
    return torch.cat([value.detach().flatten().double().cpu() for value in values])


if __name__ == "__main__":
    _main(sys.argv[1], steps=int(sys.argv[2]), seconds=float(sys.argv[3]))
