"""How fast dcgan-shard converts JPEGs, beside the plain way.

    python -m benchmarks.converting 17flowers.tgz --scratch /tmp/converting

Images a second to 64 px, taking turns in one run, every image from the page cache:
- plain: cv2.imread and cv2.resize (area), one thread;
- decode: dcgan_dist's own path from the file's bytes to the same pixels, in this process on the same one thread;
- convert N: the whole command with N workers on COPIES of every image, so that Python's start weighs less: decoding,
  PNG, tars, checksums, to the index on disk.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2

from benchmarks.loading import unpacked
from benchmarks.sides import load
from dcgan_dist.data.transforms import Target, decode
from dcgan_dist.machine import cores

SIZE = 64
COPIES = 5


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="17flowers.tgz")
    parser.add_argument("--scratch", type=Path, required=True, help="directory for images and shards; kept")
    parser.add_argument("--rounds", type=int, default=5, help="how often all take turns")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    folder = unpacked(arguments.archive, arguments.scratch / "images")
    files = sorted(folder.rglob("*.jpg"))
    copies = copied(folder, arguments.scratch / "copies")
    ways: dict[str, Callable[[], None]] = {"plain": lambda: plain(files), "decode": lambda: decoded(files)}
    for workers in arguments.workers:
        ways[f"convert {workers}"] = partial(converted, copies, arguments.scratch / "set", workers)
    print(f"{len(files):,} images, {cores()} cores, load averages before: {load()}")
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            images = len(files) * (COPIES if name.startswith("convert") else 1)
            rates[name].append(images / (time.perf_counter() - begin))
    for name, found in rates.items():
        ratio = statistics.median(rate / base for rate, base in zip(found, rates["plain"], strict=True))
        print(f"{name:10} {statistics.median(found):6.0f} images/s  {ratio:.2f} x plain")


def copied(folder: Path, copies: Path) -> Path:
    """A folder with COPIES links to each image."""
    for path in folder.rglob("*.jpg"):
        for number in range(COPIES):
            link = copies / path.parent.name / f"{number}-{path.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.hardlink_to(path)
    return copies


def plain(files: Sequence[Path]) -> None:
    """What a script would do."""
    for path in files:
        cv2.resize(cv2.imread(str(path)), (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def decoded(files: Sequence[Path]) -> None:
    """The same pixels, about, by our path."""
    target = Target(SIZE, 3, "none", "area")
    for path in files:
        decode(path.read_bytes(), target)


def converted(folder: Path, out: Path, workers: int) -> None:
    """Run the whole command."""
    shutil.rmtree(out, ignore_errors=True)
    command = ["folder", str(folder), "--out", str(out), "--size", str(SIZE), "--workers", str(workers), "--quiet"]
    subprocess.run([sys.executable, "-m", "dcgan_dist.shard", *command], check=True)


if __name__ == "__main__":
    main()
