"""Memory of the loaders: the indexed one has a bounded part, whatever the size of the set."""

import contextlib
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from dcgan_dist.config import DataConfig, NetworkConfig
from dcgan_dist.data.indexed import IndexedLoader
from dcgan_dist.data.loader import open_loader
from tests.data.sets import many_shards
from tests.distributed.ranks import PRELOADED


def measure(path: Path, kind: str, workers: int, size: int, steps: int, result: Any) -> None:
    """The life of a process that reads some steps: MiB it and its workers have, at a tenth and in the end, and had."""
    data = DataConfig(data=str(path), batch_size=64, shuffle_window=2, loader=kind, workers=workers)  # type: ignore[arg-type]
    loader = open_loader(data, NetworkConfig(image_size=size), seed=0, rows=(0, 64), device=torch.device("cpu"))
    with contextlib.closing(loader):
        early = []
        for step in range(steps):
            loader.batch(step)
            if step == steps // 10:
                early = mebibytes(loader, "VmRSS")
        result.put((early, mebibytes(loader, "VmRSS"), mebibytes(loader, "VmHWM")))


def mebibytes(loader: Any, what: str) -> list[float]:
    """Of this process and its workers, as Linux counts them."""
    workers = loader._decoding.processes if isinstance(loader, IndexedLoader) else ()  # type: ignore[union-attr]
    status = [Path(f"/proc/{process}/status").read_text().splitlines() for process in ("self", *workers)]
    return [int(line.split()[1]) / 1024 for lines in status for line in lines if line.startswith(f"{what}:")]


def measured(
    path: Path, kind: str, *, workers: int, size: int, steps: int
) -> tuple[list[float], list[float], list[float]]:
    """``measure`` in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    result = context.Queue()
    process = context.Process(target=measure, args=(path, kind, workers, size, steps, result))
    process.start()
    early, late, peaks = result.get(timeout=250)
    process.join()
    assert len(peaks) == 1 + workers
    return early, late, peaks


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    small = many_shards(tmp_path / "small", shards=4, images=250)  # 12 MB decoded
    large = many_shards(tmp_path / "large", shards=40, images=250)  # 123 MB

    def peak(path: Path, kind: str, *, workers: int, steps: int) -> float:
        return sum(measured(path, kind, workers=workers, size=64, steps=steps)[2])

    indexed = peak(large, "indexed", workers=1, steps=156)  # an epoch
    assert indexed - peak(small, "indexed", workers=1, steps=15) < 15
    assert peak(large, "resident", workers=0, steps=156) - indexed > 40  # so that such a difference can be seen


@pytest.mark.slow
def test_memory_of_half_a_million_images(tmp_path: Path) -> None:
    """What grows is index.npy, 20 bytes an image, and what it takes to check it; pixels would be 1.5 GB."""
    small = many_shards(tmp_path / "small", shards=4, images=5000, size=32)
    large = many_shards(tmp_path / "large", shards=100, images=5000, size=32)
    few = measured(small, "indexed", workers=2, size=32, steps=300)
    early, late, peaks = measured(large, "indexed", workers=2, size=32, steps=3000)  # 192,000 images
    print("MiB of trainer and workers: 20,000 images", few, "500,000 images", (early, late, peaks))
    assert sum(late) - sum(early) < 5
    assert max(peaks[1:]) - max(few[2][1:]) < 5
    assert peaks[0] - few[2][0] < 60
    assert late[0] - few[1][0] < 30
