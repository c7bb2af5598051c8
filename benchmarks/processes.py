"""One process on all cores against one a core: ``python -m benchmarks.processes [RECIPE ...]``.

The same global batch; where that many processes cannot share it evenly, the most that can, and cores may be left over.
What several processes lose is what they tell each other, and that each computes small batches on few threads; what they
win is that no thread waits for another inside an operation.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.steps import config_of, images_of
from dcgan_dist import trial
from dcgan_dist.config import changed
from dcgan_dist.distributed.runtime import start
from dcgan_dist.machine import cores

RECIPES = ("flowers-dcgan64", "flowers17-arch1", "flowers17-arch2", "mnist28", "mnist-pooled")
STEPS = {"flowers17-arch1": 60, "mnist-pooled": 30}
FEW_STEPS = 6
HEADER = [
    "| recipe | 1 process, ms | processes | together, ms | efficiency (least to most) | calls a step | KiB a step |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
]


def most_processes(batch_size: int, *, cores: int) -> int:
    """How many of the processes that there are cores for can share a batch evenly."""
    return max(number for number in range(1, cores + 1) if batch_size % number == 0)


def row(recipe: str, *, turns: int) -> str:
    """Of the table, in Markdown: both take turns."""
    several = most_processes(config_of(recipe).images.batch_size, cores=cores())
    seconds: dict[int, list[float]] = {1: [], several: []}
    for turn in range(turns):
        for processes in sorted(seconds, reverse=bool(turn % 2)):
            found = _timed(recipe, processes)
            seconds[processes].append(found["seconds"])
            if processes > 1:
                calls, size = found["calls"], found["bytes"]
    alone, together = seconds.values()
    shares = [a / b for a, b in zip(alone, together, strict=True)]
    return (
        f"| `{recipe}` | {statistics.median(alone) * 1e3:.0f} | {several} | {statistics.median(together) * 1e3:.0f} | "
        f"{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%}) | {calls} | {size / 1024:,.0f} |"
    )


def _timed(recipe: str, processes: int) -> dict[str, float]:
    """Median seconds of a step, and what a rank tells the others in it."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "benchmarks.processes", "--work", recipe]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    found: dict[str, float] = json.loads(line)
    return found


def work(recipe: str) -> None:
    """The part that runs in each process: some steps, and a line of JSON from the main one."""
    config = changed(config_of(recipe), {"threads": 0})
    runtime = start(config.compute)
    found = trial.outcome(config, runtime, images=images_of(config), steps=STEPS.get(recipe, FEW_STEPS))
    if runtime.is_main:
        print(json.dumps({"seconds": found.step_seconds, "calls": found.step_calls, "bytes": found.step_bytes}))
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
