"""What rows cost: training steps that are each logged against steps that are not, with and without W&B offline.

    python -m benchmarks.overheads SHARDS

One run of a recipe in this process; its steps come in blocks that take turns: not logged, each logged to metrics.jsonl
and a console, each logged to W&B offline as well. Two numbers: how much longer the logged block took than that round's
block without rows (all that rows do, to the step after them and on other cores too; noisy), and the share of the block
that passed in writing rows. Medians over the rounds and their quarters. No samples, checkpoints and evaluations.
Before that, how long the trainer takes from the command to the row of its first step: imports, decoding, networks,
pictures of the data, the first grid of samples, the step.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.sides import load
from dcgan_dist.cli import read_yaml
from dcgan_dist.config import TrainConfig, changed
from dcgan_dist.data.loader import open_loader
from dcgan_dist.distributed.runtime import start, wait_for
from dcgan_dist.gan import build_gan
from dcgan_dist.loop import GAME_EVERY, Training
from dcgan_dist.run_directory import RunDirectory
from dcgan_dist.tracking import ConsoleSink, JsonLines, Tracker
from dcgan_dist.wandb_sink import WandbSink

CONFIGS = Path(__file__).parents[1] / "configs"
ENDLESS = 10**9
LAUNCHERS = {
    "python": (sys.executable,),
    "accelerate launch": (
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        "benchmarks.overheads", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="directory of shards that fits the recipe")
    parser.add_argument("--recipe", default="flowers17-arch1")
    parser.add_argument("--rounds", type=int, default=40, help="how often the three take turns")
    parser.add_argument(
        "--steps", type=int, default=GAME_EVERY, help="of a block; fewer than the default leave out the costly rows"
    )
    parser.add_argument("--threads", type=int, default=0, help="0 for all cores")
    arguments = parser.parse_args(argv)
    os.environ["WANDB_MODE"] = "offline"
    settings = {"data": arguments.shards, "loader": "resident", "log_every": 1, "threads": arguments.threads}
    config = changed(TrainConfig(), read_yaml(CONFIGS / f"{arguments.recipe}.yaml") | settings)
    print("| started by | s to the row of the first step (least to most of 3) |\n| --- | ---: |")
    for launcher, command in LAUNCHERS.items():
        seconds = [
            first_step([*command, "-m", "dcgan_dist.train"], arguments.recipe, arguments.shards) for _ in range(3)
        ]
        print(f"| {launcher} | {statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f}) |")
    print(
        f"\n{arguments.recipe}, {arguments.rounds} rounds of {arguments.steps} steps, load averages {load()} before:\n"
    )
    with tempfile.TemporaryDirectory(prefix="dcgan-overheads-") as directory:
        compare(config, Path(directory), rounds=arguments.rounds, steps=arguments.steps)


def first_step(command: Sequence[str], recipe: str, shards: str) -> float:
    """Seconds from the trainer's start to the row of its first step."""
    flags = {"config": CONFIGS / f"{recipe}.yaml", "data": shards, "loader": "resident", "tracker": "none"}
    flags |= {"log_every": 1, "max_steps": 2}
    with tempfile.TemporaryDirectory(prefix="dcgan-overheads-") as directory:
        words = [*command, *(f"--{name}={value}" for name, value in flags.items()), f"--run_dir={directory}/run"]
        begin = time.perf_counter()
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as trainer:
            assert trainer.stdout is not None
            for line in trainer.stdout:
                if line.startswith("step 1/"):
                    seconds = time.perf_counter() - begin
    return seconds


def compare(config: TrainConfig, directory: Path, *, rounds: int, steps: int) -> None:
    """Let the three kinds of steps take turns, and print what a step took and the ratios."""
    runtime = start(config.compute)
    rows = runtime.rows(config.images.batch_size)
    loader = open_loader(config.images, config.network, seed=config.seed, rows=rows, device=runtime.device)
    run = RunDirectory(directory)
    metrics = JsonLines(run.metrics, keep_bytes=0)
    console = ConsoleSink(Console(file=io.StringIO()), total_steps=ENDLESS, first_step=0, quiet=False)
    wandb = WandbSink({}, project="overheads", run_dir=directory, run_id=run.identity())
    trackers = {
        "no rows": None,
        "metrics.jsonl and console": Tracker(metrics=metrics, console=console),
        "W&B offline too": Tracker(metrics=metrics, console=console, wandb=wandb),
    }
    training = Training(
        gan=build_gan(config, runtime),
        loader=loader,
        runtime=runtime,
        run=run,
        tracker=Tracker(),
        total_steps=ENDLESS,
    )

    def block(tracker: Tracker | None) -> tuple[float, float]:
        """Seconds of the steps with their rows, and of the rows."""
        training.clock.start(training.step)
        writing = 0.0
        begin = time.perf_counter()
        for _ in range(steps):
            training.update()
            if tracker is not None:
                wait_for(runtime.device)
                before = time.perf_counter()
                training.tracker = tracker
                training.check(weights=False)
                training.log()
                writing += time.perf_counter() - before
        wait_for(runtime.device)
        return time.perf_counter() - begin, writing

    for tracker in trackers.values():
        block(tracker)  # warms up
    found = {name: list[tuple[float, float]]() for name in trackers}
    for _ in range(rounds):
        for name, tracker in trackers.items():
            found[name].append(block(tracker))
    plain = [whole for whole, _ in found.pop("no rows")]
    print("| logged each step | ms a step | longer than without (quartiles) | passes in writing rows (quartiles) |")
    print("| --- | ---: | ---: | ---: |")
    print(f"| nothing | {statistics.median(plain) / steps * 1000:.2f} | | |")
    for name, blocks in found.items():
        longer = [whole / base - 1 for (whole, _), base in zip(blocks, plain, strict=True)]
        shares = [writing / whole for whole, writing in blocks]
        pace = statistics.median(whole for whole, _ in blocks) / steps
        print(f"| {name} | {pace * 1000:.2f} | {quarters(longer)} | {quarters(shares)} |")
    for sink in (metrics, console, wandb):
        sink.close(failed=False)


def quarters(values: Sequence[float]) -> str:
    """Median and quartiles of shares."""
    if len(values) < 2:
        return f"{values[0]:.2%}"
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2%} ({low:.2%} to {high:.2%})"


if __name__ == "__main__":
    main()
