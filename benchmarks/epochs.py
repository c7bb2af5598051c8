"""Epochs of Flowers-17 beside the textbook's program: ``python -m benchmarks.epochs 17flowers.tgz --scratch DIR``.

Ours trains from shards, as the trainer does, rows of its log included; the textbook's decodes and shrinks the original
JPEGs in two worker processes. Both take as many steps, and neither saves checkpoints or samples. Our shards were
converted once, and decoded once before the first epoch; how long that took has a column of its own.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import textbook
from benchmarks.loading import converted, unpacked
from benchmarks.sides import Setup, Timed, Work, in_turns
from benchmarks.steps import Case, Textbook
from dcgan_dist.config import changed
from dcgan_dist.data.loader import open_loader
from dcgan_dist.distributed.runtime import start
from dcgan_dist.gan import build_gan
from dcgan_dist.loop import Training
from dcgan_dist.run_directory import RunDirectory
from dcgan_dist.tracking import JsonLines, Tracker

IMAGES = 1360
"""Of Flowers-17."""


@dataclass(frozen=True)
class EpochCase:
    """Networks at a batch, and the precision of ours."""

    case: Case
    size: int
    """Pixels a side."""
    precision: str

    @property
    def steps(self) -> int:
        """Whole batches in an epoch."""
        return IMAGES // self.case.batch_size


CASES = {
    "dcgan64": EpochCase(Case("flowers-dcgan64", "dcgan64", batch_size=64, pieces=1), size=64, precision="bf16"),
    "flowers_arch1": EpochCase(Case("flowers17-arch1", "flowers_arch1", batch_size=16, pieces=1), 32, precision="no"),
}


def ours(which: EpochCase, shards: Path, scratch: Path) -> Work:
    """An epoch of the trainer.

    The work returns the share of a step that waits for images, of the last row logged, and the seconds that decoding
    the shards has taken, once.
    """
    config = changed(which.case.config(which.precision), {"data": str(shards)})
    runtime = start(config.compute)
    begin = time.perf_counter()
    loader = open_loader(
        config.images, config.network, seed=config.seed, rows=(0, which.case.batch_size), device=runtime.device
    )
    decoding = time.perf_counter() - begin
    metrics = scratch / f"{which.case.networks}.jsonl"
    training = Training(
        gan=build_gan(config, runtime),
        loader=loader,
        runtime=runtime,
        run=RunDirectory(Path()),
        tracker=Tracker(metrics=JsonLines(metrics, keep_bytes=0)),
        total_steps=2**40,
    )

    def epoch() -> tuple[float, float]:
        for _ in range(which.steps):
            training.update()
            if training.step % config.log.log_every == 0:
                training.check(weights=False)
                training.log()
        lines = metrics.read_text(encoding="utf-8").splitlines()
        row = json.loads(lines[-1]) if lines else {"time/data": math.nan, "time/step": 1}
        return row["time/data"] / row["time/step"], decoding

    return epoch


def theirs(which: EpochCase, folder: Path) -> Work:
    """An epoch of the textbook's program."""
    program = Textbook(which.case)
    _, largest = program.config.network.value_range
    images = textbook.epochs(folder, size=which.size, batch_size=which.case.batch_size, largest=largest)

    def epoch() -> None:
        for _ in range(which.steps):
            program.train(next(images))

    return epoch


def measure(name: str, *, folder: Path, shards: Path, scratch: Path, turns: int) -> Timed:
    """Time a case in ``turns`` turns of one epoch each."""
    which = CASES[name]
    sides: dict[str, tuple[Setup, tuple[object, ...]]] = {
        "textbook": (theirs, (which, folder)),
        "ours": (ours, (which, shards, scratch)),
    }
    return in_turns(sides, turns=turns, pieces=which.case.pieces, warm_up=1)


def rows(name: str, timed: Timed) -> list[str]:
    """Of the table, in Markdown."""
    which, ratios = CASES[name], timed.ratios("textbook", "ours")
    images = which.steps * which.case.batch_size
    shown = "bf16" if which.precision == "bf16" else "float32"
    waits, decoding = timed.returned["ours"]
    return [
        f"| {name}, batch {which.case.batch_size} | textbook, JPEGs | {timed.median('textbook'):.1f} | "
        f"{images / timed.median('textbook'):.0f} | | | |",
        f"| {name}, batch {which.case.batch_size} | ours, shards, {shown} | {timed.median('ours'):.1f} | "
        f"{images / timed.median('ours'):.0f} | **{timed.ratio('textbook', 'ours'):.2f}** "
        f"({min(ratios):.2f} to {max(ratios):.2f}) | {waits:.2%} | {decoding:.1f} |",
    ]


HEADER = [
    "| networks | epoch of Flowers-17 | s | images/s | times the textbook's (least to most) | waits | decoding, s |",
    "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser("benchmarks.epochs", description=__doc__.partition("\n")[0])
    parser.add_argument("archive", type=Path, help="17flowers.tgz")
    parser.add_argument("--scratch", type=Path, required=True, help="directory for images and shards; kept")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args(argv)
    folder = unpacked(arguments.archive, arguments.scratch / "images")
    found = []
    for name, which in CASES.items():
        shards = converted(arguments.archive, arguments.scratch, which.size)
        timed = measure(name, folder=folder, shards=shards, scratch=arguments.scratch, turns=arguments.turns)
        found += rows(name, timed)
    print("\n".join(HEADER + found))


if __name__ == "__main__":
    main()
