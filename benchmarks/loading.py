"""How fast images come, beside the plain way, and what share of a training step they cost.

    python -m benchmarks.loading 17flowers.tgz --scratch /tmp/loading

1. Images a second of the indexed loader on shards of 64 px, and of torchvision's ImageFolder with torch's DataLoader on
   the original JPEGs, resized to the same 64 px: batches of 64 as float tensors, the same number of workers, the same
   cores, taking turns in one run. Every image of either comes from the page cache.
2. time/data of time/step, as a run logs them, of the recipe flowers17-arch1 with each loader.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Resize, ToTensor

from benchmarks.sides import load
from dcgan_dist.config import DataConfig, NetworkConfig
from dcgan_dist.data.loader import open_loader
from dcgan_dist.machine import cores

SIZE = 64
BATCH = 64
ROOT = Path(__file__).parents[1]


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="17flowers.tgz")
    parser.add_argument("--scratch", type=Path, required=True, help="directory for images, shards and runs; kept")
    parser.add_argument("--rounds", type=int, default=5, help="how often both take turns")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=300, help="of the training runs; 0 leaves them out")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)  # of this process, which has little to do but take batches
    folder = unpacked(arguments.archive, arguments.scratch / "images")
    print(f"{cores()} cores, load averages before: {load()}")
    shards = converted(arguments.archive, arguments.scratch, SIZE)
    for workers in arguments.workers:
        compare(folder, shards, workers=workers, rounds=arguments.rounds)
    if arguments.steps:
        shards = converted(arguments.archive, arguments.scratch, 32)
        for kind in ("resident", "indexed"):
            training(shards, arguments.scratch / f"run-{kind}-{os.getpid()}", kind=kind, steps=arguments.steps)


def unpacked(archive: Path, folder: Path) -> Path:
    """The original JPEGs, a directory for each of the 17 classes of 80 images."""
    if not folder.exists():
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name.endswith(".jpg") and (source := tar.extractfile(member)):
                    name = Path(member.name).name
                    path = folder / f"{(int(name[6:10]) - 1) // 80:02d}" / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(source.read())
    return folder


def converted(archive: Path, scratch: Path, size: int) -> Path:
    """Shards of the same images, made by dcgan-shard as its defaults are."""
    out = scratch / f"shards-{size}"
    command = ["dcgan_dist.shard", "flowers17", str(archive), "--out", str(out), "--size", str(size), "--quiet"]
    subprocess.run([sys.executable, "-m", *command], check=True, cwd=ROOT)
    return out


def compare(folder: Path, shards: Path, *, workers: int, rounds: int) -> None:
    """Let both take turns and print images a second, median (least to most), and their ratio."""
    plain = DataLoader(
        ImageFolder(str(folder), Compose([Resize((SIZE, SIZE)), ToTensor()])),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=True,
    )
    data = DataConfig(data=str(shards), batch_size=BATCH, loader="indexed", workers=workers)
    network = NetworkConfig(image_size=SIZE)
    ours = open_loader(data, network, seed=0, rows=(0, BATCH), device=torch.device("cpu"))
    done = 0

    def read_plain() -> int:
        return sum(len(images) for images, _ in plain)

    def read_ours() -> int:
        nonlocal done
        steps = 10 * ours.image_count // BATCH  # ten epochs, because one is over too soon
        for step in range(done, done + steps):
            ours.batch(step).float().div_(255)
        done += steps
        return steps * BATCH

    rates: dict[str, list[float]] = {"ImageFolder + DataLoader": [], "indexed loader": []}
    ratios = []
    with contextlib.closing(ours):
        rate(read_plain), rate(read_ours)  # start workers, fill the page cache
        for _ in range(rounds):
            one, other = rate(read_plain), rate(read_ours)
            rates["ImageFolder + DataLoader"].append(one)
            rates["indexed loader"].append(other)
            ratios.append(other / one)
    print(f"\n{workers} worker processes, batches of {BATCH}, {SIZE} px, load {load()}")
    for name, found in rates.items():
        print(f"  {name:26} {statistics.median(found):9,.0f} images/s ({min(found):,.0f} to {max(found):,.0f})")
    print(f"  {'ratio':26} {statistics.median(ratios):9.1f} ({min(ratios):.1f} to {max(ratios):.1f})")


def rate(read: Callable[[], int]) -> float:
    """Images a second."""
    begin = time.perf_counter()
    count = read()
    return count / (time.perf_counter() - begin)


def training(shards: Path, run_dir: Path, *, kind: str, steps: int) -> None:
    """Train and print what the run logged: medians over rows of ten steps, the first five rows left out."""
    command = [sys.executable, "-m", "dcgan_dist.train", "--config", str(ROOT / "configs" / "flowers17-arch1.yaml")]
    options = {
        "data": shards,
        "run_dir": run_dir,
        "loader": kind,
        "max_steps": steps,
        "log_every": 10,
        "sample_every": 10**6,
        "tracker": "none",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    subprocess.run([*command, *flags], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[5:]
    rows = [json.loads(line) for line in lines]
    data, step = (statistics.median(row[f"time/{part}"] for row in rows) for part in ("data", "step"))
    share = statistics.median(row["time/data"] / row["time/step"] for row in rows)
    print(
        f"\nflowers17-arch1, loader {kind}, {steps} steps, load {load()}\n"
        f"  step {step * 1000:.1f} ms, of them waiting for data {data * 1000:.3f} ms: {share:.2%}"
    )


if __name__ == "__main__":
    main()
