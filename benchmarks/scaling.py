"""Predict how a recipe scales: what ranks tell each other in a step, counted here, on links of stated speed.

    torchrun --standalone --nproc_per_node 2 benchmarks/scaling.py [RECIPE ...]

prints a Markdown table. Calls and bytes are counted in one real step on two processes, operations with torch's
counter; both are exact and depend on no machine. The times are a model of an imagined cluster, not measurements.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from dcgan_dist.cli import read_yaml
from dcgan_dist.config import ComputeConfig, TrainConfig, changed
from dcgan_dist.diagnosis import trial
from dcgan_dist.distributed.runtime import start

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
COUNTED_BATCH = 4
"""Images of the counted step; bytes do not depend on it, operations are in proportion to it."""
COUNTED_STEPS = 2
"""Calls and bytes are those of the last: DistributedDataParallel settles its buckets after the first."""

IMAGES_PER_GPU = 128
GPUS = (8, 64, 512)
GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Cluster:
    """Stated figures of an imagined cluster, of the order of what vendors publish for 2020s GPUs."""

    flops: float = 20e12
    """Operations a second that a GPU keeps up on these small convolutions."""
    fewest_seconds: float = 4e-3
    """A step takes no less, however little there is to compute: the time to launch its kernels."""
    node_bandwidth: float = 200e9
    """Bytes a second of each GPU's link inside a node (NVLink)."""
    network_bandwidth: float = 25e9
    """Bytes a second of each GPU's link between nodes (200 Gbit/s)."""
    call_seconds: float = 20e-6
    """One collective inside a node, however small."""
    hop_seconds: float = 10e-6
    """More for each doubling of the number of nodes."""


@dataclass(frozen=True)
class Step:
    """What one step of a recipe needs."""

    flops_per_image: float
    calls: int
    bytes: int
    """Of one rank's own tensors."""


def step_seconds(step: Step, gpus: int, *, images_per_gpu: int, cluster: Cluster) -> tuple[float, float]:
    """Seconds of computing and of communicating in one step; nothing overlaps, which is the worst case.

    An all-reduce of b bytes moves 2 (N - 1) / N b over each link; batch norm's gathers are counted like it, they are
    too small to matter.
    """
    computing = max(cluster.fewest_seconds, step.flops_per_image * images_per_gpu / cluster.flops)
    nodes = math.ceil(gpus / GPUS_PER_NODE)
    bandwidth = cluster.node_bandwidth if nodes == 1 else cluster.network_bandwidth
    each = cluster.call_seconds + cluster.hop_seconds * math.log2(nodes)
    communicating = step.calls * each + 2 * (gpus - 1) / gpus * step.bytes / bandwidth
    return computing, communicating


def efficiency(step: Step, gpus: int, *, images_per_gpu: int, cluster: Cluster) -> float:
    """Share of the time that computes: images a second a GPU, over those of one GPU alone."""
    computing, communicating = step_seconds(step, gpus, images_per_gpu=images_per_gpu, cluster=cluster)
    return computing / (computing + communicating)


def counted(name: str) -> Step:
    """One step of a recipe on the ranks of this job."""
    config = changed(
        changed(TrainConfig(), read_yaml(CONFIGS / f"{name}.yaml")), {"batch_size": COUNTED_BATCH, "threads": 1}
    )
    runtime = start(config.compute)
    images = trial.draw_images(config.network)
    images, flops = trial.draw_images(config.network), []
    for steps in (COUNTED_STEPS, COUNTED_STEPS + 1):  # the difference is one step, without what comes before the first
        with FlopCounterMode(display=False) as counter:
            found = trial.outcome(config, runtime, images=images, steps=steps)
        flops.append(counter.get_total_flops())
    flops_per_image = (flops[1] - flops[0]) * runtime.world_size / COUNTED_BATCH
    return Step(flops_per_image, found.step_calls, found.step_bytes)


def main() -> None:
    """Print the table."""
    runtime = start(ComputeConfig(threads=1))
    if runtime.world_size == 1:
        sys.exit("benchmarks/scaling.py counts what ranks tell each other: start it with torchrun, two processes")
    say = Console(quiet=not runtime.is_main, soft_wrap=True, highlight=False, markup=False).print
    cluster = Cluster()
    say(f"{IMAGES_PER_GPU} images a GPU, {GPUS_PER_NODE} GPUs a node; {cluster}\n")
    columns = " | ".join(f"{gpus} GPUs" for gpus in GPUS)
    say(f"| recipe | GFLOP an image | calls a step | KiB a step | {columns} |")
    say("| --- |" + " ---: |" * (3 + len(GPUS)))
    for name in sys.argv[1:] or sorted(path.stem for path in CONFIGS.glob("*.yaml")):
        step = counted(name)
        shares = [efficiency(step, gpus, images_per_gpu=IMAGES_PER_GPU, cluster=cluster) for gpus in GPUS]
        percentages = " | ".join(f"{share:.0%}" for share in shares)
        say(
            f"| `{name}` | {step.flops_per_image / 1e9:.2f} | {step.calls} | {step.bytes / 1024:,.0f} | {percentages} |"
        )
    runtime.end()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
