"""One process on all cores against one a core: ``python -m benchmarks.processes [RECIPE ...]``.

The same global batch; where that many processes cannot share it evenly, the most that can, and cores may be left over.
What several processes lose is what they tell each other, and that each computes small batches on few threads; what they
win is that no thread waits for another inside an operation. *Behind the pass* is the share of the time in which
gradients travelled, that the same rank's backward pass was still computing; *a small call* is a sum of 64 numbers over
ranks that do nothing else.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.steps import config_of, images_of
from dcgan_dist import gan
from dcgan_dist.config import changed
from dcgan_dist.diagnosis import trial
from dcgan_dist.distributed.collectives import all_reduce, note_reduced, reduce_bucket
from dcgan_dist.distributed.runtime import start
from dcgan_dist.machine import cores

RECIPES = ("flowers-dcgan64", "flowers17-arch1", "flowers17-arch2", "mnist28", "mnist-pooled")
STEPS = {"flowers17-arch1": 60, "mnist-pooled": 30}
FEW_STEPS = 6
HEADER = [
    "| recipe | 1 process, ms | processes | together, ms | efficiency (least to most) | calls a step | KiB a step | "
    "reductions, ms | behind the pass | a small call, ms |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
]


def most_processes(batch_size: int, *, cores: int) -> int:
    """How many of the processes that there are cores for can share a batch evenly."""
    return max(number for number in range(1, cores + 1) if batch_size % number == 0)


def row(recipe: str, *, turns: int) -> str:
    """Of the table, in Markdown: both take turns."""
    several = most_processes(config_of(recipe).images.batch_size, cores=cores())
    seconds: dict[int, list[float]] = {1: [], several: []}
    travelled, hidden, small = list[float](), list[float](), list[float]()
    for turn in range(turns):
        for processes in sorted(seconds, reverse=bool(turn % 2)):
            found = _timed(recipe, processes)
            seconds[processes].append(found["seconds"])
            if processes > 1:
                calls, size = found["calls"], found["bytes"]
                travelled.append(found["travelled"])
                hidden.append(found["hidden"])
                small.append(found["small"])
    alone, together = seconds.values()
    shares = [a / b for a, b in zip(alone, together, strict=True)]
    return (
        f"| `{recipe}` | {statistics.median(alone) * 1e3:.0f} | {several} | {statistics.median(together) * 1e3:.0f} | "
        f"{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%}) | {calls} | {size / 1024:,.0f} | "
        f"{statistics.median(travelled) * 1e3:.1f} | {sum(hidden) / sum(travelled):.0%} | "
        f"{statistics.median(small) * 1e3:.2f} |"
    )


def _timed(recipe: str, processes: int) -> dict[str, float]:
    """Median seconds of a step, what a rank tells the others in it, and the seconds of its reductions in a step."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "benchmarks.processes", "--work", recipe]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    found: dict[str, float] = json.loads(line)
    return found


class Reductions:
    """Watches buckets of gradients on their way, on devices whose operations the host waits for."""

    def __init__(self) -> None:
        self.passes: list[tuple[float, float]] = []
        """For each backward pass the seconds in which any bucket travelled, and those before the last one left."""
        self._buckets: list[list[float]] = []

    def reduce(
        self,
        group: dist.ProcessGroup,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[Tensor]:
        """In place of ``reduce_bucket``."""
        times = [time.perf_counter()]
        self._buckets.append(times)

        def arrived(reduced: torch.futures.Future[Tensor]) -> Tensor:
            times.append(time.perf_counter())
            return reduced.value()

        return reduce_bucket(group, bucket).then(arrived)

    def end_pass(self) -> None:
        """In place of ``note_reduced``: a backward pass has ended, all its buckets have arrived."""
        note_reduced()
        if self._buckets:
            self.passes.append(behind(self._buckets))
            self._buckets = []


def behind(buckets: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Seconds in which any bucket travelled, and those of them before the last one left.

    Args:
        buckets: when each left and arrived, in the order in which they left.
    """
    travelled = hidden = 0.0
    last, until = buckets[-1][0], 0.0
    for left, arrived in buckets:
        begin = max(left, until)
        until = max(until, arrived)
        travelled += max(0.0, until - begin)
        hidden += max(0.0, min(until, last) - begin)
    return travelled, hidden


def seconds_of_a_small_call(times: int = 100) -> float:
    """Of a sum of 64 numbers over all ranks."""
    numbers = torch.zeros(64)
    all_reduce(numbers)
    begin = time.perf_counter()
    for _ in range(times):
        all_reduce(numbers)
    return (time.perf_counter() - begin) / times


def work(recipe: str) -> None:
    """The part that runs in each process: some steps, and a line of JSON from the main one."""
    config = changed(config_of(recipe), {"threads": 0})
    runtime = start(config.compute)
    watch, steps = Reductions(), STEPS.get(recipe, FEW_STEPS)
    with mock.patch.object(gan, "reduce_bucket", watch.reduce), mock.patch.object(gan, "note_reduced", watch.end_pass):
        found = trial.outcome(config, runtime, images=images_of(config), steps=steps)
    small = seconds_of_a_small_call()
    if runtime.is_main:
        passes = watch.passes[2:]  # the first two settle the buckets
        told = {"seconds": found.step_seconds, "calls": found.step_calls, "bytes": found.step_bytes}
        told |= {
            "small": small,
            "travelled": sum(a for a, _ in passes) / steps,
            "hidden": sum(b for _, b in passes) / steps,
        }
        print(json.dumps(told))
    runtime.end()


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser("benchmarks.processes", description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="*", help=f"default: {', '.join(RECIPES)}")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--work", metavar="RECIPE", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.work:
        work(arguments.work)
        return
    if cores() == 1:
        print("There is one core here, and so one process.")
        return
    print("\n".join(HEADER))
    for recipe in arguments.recipes or RECIPES:
        print(row(recipe, turns=arguments.turns), flush=True)


if __name__ == "__main__":
    main()
