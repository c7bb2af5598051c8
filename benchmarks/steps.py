"""One training step beside the textbook's: ``python -m benchmarks.steps [dcgan64] [flowers_arch1]``.

Ours is what the trainer runs between two rows of its log: images from the loader to weights, losses kept as tensors.
The textbook's is handed images that are ready. First both train five steps on the same weights, images and noise:
their losses must agree.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import textbook
from benchmarks.sides import Setup, Timed, Work, in_turns
from dcgan_dist.cli import read_yaml
from dcgan_dist.config import TrainConfig, changed
from dcgan_dist.data.order import Order
from dcgan_dist.data.resident import ResidentLoader
from dcgan_dist.data.synthetic import draw_flower
from dcgan_dist.data.transforms import with_channels
from dcgan_dist.distributed.runtime import start
from dcgan_dist.gan import build_gan
from dcgan_dist.images import to_images
from dcgan_dist.loop import Training
from dcgan_dist.machine import cores
from dcgan_dist.run_directory import RunDirectory
from dcgan_dist.tracking import Tracker

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
CHECKED_STEPS = 5
LOSS_LIMIT = 1e-4
GEMM_SIZE = 2048


def config_of(recipe: str, precision: str = "no") -> TrainConfig:
    """A recipe's settings on all cores."""
    config = changed(TrainConfig(), read_yaml(CONFIGS / f"{recipe}.yaml"))
    return changed(config, {"threads": cores(), "precision": precision})


@dataclass(frozen=True)
class Case:
    """A recipe, and the textbook's program of the same."""

    recipe: str
    networks: str
    """Name of the function of ``textbook`` that builds them."""
    batch_size: int
    pieces: int
    """Steps in a turn."""

    def config(self, precision: str = "no") -> TrainConfig:
        """The recipe's settings at this batch on all cores."""
        return changed(config_of(self.recipe, precision), {"batch_size": self.batch_size})


CASES = {
    "dcgan64": Case("flowers-dcgan64", "dcgan64", batch_size=128, pieces=3),
    "flowers_arch1": Case("flowers17-arch1", "flowers_arch1", batch_size=16, pieces=40),
}


def images_of(config: TrainConfig) -> Tensor:
    """Two batches of flowers drawn by program, (n, channels, size, size) uint8."""
    network = config.network
    flowers = (
        with_channels(draw_flower(index, seed=0, size=network.image_size)[0], network.channels)
        for index in range(2 * config.images.batch_size)
    )
    return torch.from_numpy(np.stack(list(flowers))).permute(0, 3, 1, 2).contiguous()


def training_of(config: TrainConfig) -> Training:
    """A run on ``images_of`` that writes nothing."""
    runtime = start(config.compute)
    batch_size, images = config.images.batch_size, images_of(config)
    order = Order([batch_size] * 2, seed=0, shuffle_window=2)
    return Training(
        gan=build_gan(config, runtime),
        loader=ResidentLoader(images, order, batch_size=batch_size, rows=(0, batch_size), digest=""),
        runtime=runtime,
        run=RunDirectory(Path()),
        tracker=Tracker(),
        total_steps=2**40,
    )


def ours(case: Case, precision: str) -> Work:
    """A step of the trainer."""
    update = training_of(case.config(precision)).update

    def step() -> None:
        update()

    return step


class Textbook:
    """The textbook's program of a case."""

    def __init__(self, case: Case) -> None:
        torch.set_num_threads(cores())
        self.config = case.config()
        self.generator, self.discriminator = getattr(textbook, case.networks)()
        optim = self.config.optim
        self.optimizers = [
            torch.optim.Adam(network.parameters(), optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.epsilon)
            for network in (self.generator, self.discriminator)
        ]

    def step(self, real: Tensor, z: Tensor, noise: Tensor) -> tuple[float, ...]:
        """One step in the recipe's order."""
        of_g, of_d = self.optimizers
        if self.config.optim.update == "simultaneous":
            return textbook.simultaneous_step(self.generator, self.discriminator, of_g, of_d, real, z, noise)
        return textbook.alternating_step(self.generator, self.discriminator, of_g, of_d, real, z)

    def train(self, real: Tensor) -> None:
        """One step with random numbers of its own: no more of them than the recipe takes."""
        deviation = self.config.losses.instance_noise
        noise = deviation * torch.randn_like(real) if deviation else torch.zeros(())
        self.step(real, torch.randn(len(real), textbook.LATENT_DIM), noise)


def theirs(case: Case) -> Work:
    """A step of the textbook's program."""
    program = Textbook(case)
    config = program.config
    real = to_images(images_of(config)[: case.batch_size], config.network.value_range, dtype=torch.float32)
    return partial(program.train, real)


def gemm(dtype: torch.dtype) -> Work:
    """Products of two square matrices of GEMM_SIZE, as convolutions of 1x1: the most that the cores can do.

    Not ``torch.mm``, whose float32 comes from another library (MKL), which on AMD's processors reaches half of it.
    """
    torch.set_num_threads(cores())
    pixels = torch.randn(1, GEMM_SIZE, GEMM_SIZE // 64, 64).to(dtype, memory_format=torch.channels_last)
    weights = torch.randn(GEMM_SIZE, GEMM_SIZE, 1, 1).to(dtype, memory_format=torch.channels_last)

    def products() -> None:
        for _ in range(4):
            F.conv2d(pixels, weights)

    return products


GEMM_FLOPS = 4 * 2 * GEMM_SIZE**3


def losses_of(case: Case, *, dtype: str, threads: int) -> tuple[Tensor, Tensor]:
    """(CHECKED_STEPS, 2) losses of D and G: ours and the textbook's, from the same weights, images and noise."""
    config = changed(case.config(), {"dtype": dtype, "threads": threads})
    kind = torch.float64 if dtype == "float64" else torch.float32
    torch.set_default_dtype(kind)
    training, program = training_of(config), Textbook(case)
    torch.set_num_threads(threads)
    for player, network in (
        (training.gan.generator, program.generator),
        (training.gan.discriminator, program.discriminator),
    ):
        network.load_state_dict(dict(zip(network.state_dict(), player.plain.state_dict().values(), strict=True)))
    ours, theirs = [], []
    for step in range(CHECKED_STEPS):
        draws = training.gan.draws(step, rows=(0, case.batch_size))
        real = to_images(training.loader.batch(step), config.network.value_range, dtype=kind)
        noise = training.gan.add_instance_noise(torch.zeros_like(real), draws=draws, on="reals")
        theirs.append(program.step(real, training.gan.latent(draws, "z"), noise)[:2])
        scalars = training.update()
        ours.append((scalars["loss/d"].item(), scalars["loss/g"].item()))
    torch.set_default_dtype(torch.float32)
    return torch.tensor(ours, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64)


def agreement(case: Case) -> str:
    """How far our losses are from the textbook's, relative, in a sentence.

    Raises:
        RuntimeError: when they differ in float64 by more than LOSS_LIMIT.
    """
    exact = _apart(*losses_of(replace(case, batch_size=16), dtype="float64", threads=cores()))
    if exact > LOSS_LIMIT:
        raise RuntimeError(f"losses differ by {exact:.1e} from the textbook's in float64, more than {LOSS_LIMIT:g}")
    ours, theirs = losses_of(case, dtype="float32", threads=cores())
    _, alone = losses_of(case, dtype="float32", threads=1)
    return (
        f"losses of {CHECKED_STEPS} steps are {exact:.0e} off the textbook's in float64; in float32 "
        f"{_apart(ours[:1], theirs[:1]):.0e} at the first and {_apart(ours, theirs):.0e} at most, "
        f"where the textbook's on one thread are {_apart(alone, theirs):.0e} off its own on {cores()}"
    )


def _apart(found: Tensor, expected: Tensor) -> float:
    return (found / expected - 1).abs().max().item()


def flops_of(config: TrainConfig) -> int:
    """Multiplications and additions of matrix products and convolutions in one step."""
    training = training_of(config)
    with FlopCounterMode(display=False) as counter:
        training.update()
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class Result:
    """What was measured of a case."""

    case: str
    timed: Timed
    flops: int
    """Of one of our steps."""

    def ratio(self, side: str) -> float:
        """How many times faster than the textbook's."""
        return self.timed.ratio("textbook", side)

    def gflops(self, side: str) -> float:
        """What a side of ours reaches, 10^9 operations a second."""
        return self.flops / self.timed.median(side) / 1e9

    def peak(self, side: str) -> float:
        """What plain matrix products of the same type reach in the same turns."""
        return GEMM_FLOPS / self.timed.median(f"GEMM {side}") / 1e9

    def rows(self) -> list[str]:
        """Of the table, in Markdown."""
        lines = [f"| {self.case} | textbook | {self.timed.median('textbook') * 1e3:.1f} | | | |"]
        for side in ("float32", "bf16"):
            ratios = self.timed.ratios("textbook", side)
            share = self.gflops(side) / self.peak(side)
            lines.append(
                f"| {self.case} | ours, {side} | {self.timed.median(side) * 1e3:.1f} | "
                f"**{self.ratio(side):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) | "
                f"{self.gflops(side):.0f} of {self.peak(side):.0f} | {share:.0%} |"
            )
        return lines


HEADER = [
    "| networks | step | ms | times the textbook's pace (least to most) | GFLOP/s of GEMM's | share |",
    "| --- | --- | ---: | ---: | ---: | ---: |",
]


GEMMS: dict[str, tuple[Setup, tuple[object, ...]]] = {
    "GEMM float32": (gemm, (torch.float32,)),
    "GEMM bf16": (gemm, (torch.bfloat16,)),
}


def in_steps(name: str, *, turns: int, beside: Mapping[str, tuple[Setup, tuple[object, ...]]]) -> Timed:
    """Time the steps of a case in ``turns`` turns, with more sides ``beside`` them."""
    case = CASES[name]
    sides: dict[str, tuple[Setup, tuple[object, ...]]] = {
        "textbook": (theirs, (case,)),
        "float32": (ours, (case, "no")),
        "bf16": (ours, (case, "bf16")),
        **beside,
    }
    return in_turns(sides, turns=turns, pieces=case.pieces)


def measure(name: str, *, turns: int) -> Result:
    """Time a case in ``turns`` turns, and plain matrix products with it."""
    return Result(name, in_steps(name, turns=turns, beside=GEMMS), flops_of(CASES[name].config()))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser("benchmarks.steps", description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args(argv)
    print("\n".join(HEADER))
    for name in arguments.cases or CASES:
        found = measure(name, turns=arguments.turns)
        print("\n".join(found.rows()))
        print(f"\n{name}: {agreement(CASES[name])}")


if __name__ == "__main__":
    main()
