import hashlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from dcgan_dist.data.sources import Record, Request, SourceSet, Subset, base
from dcgan_dist.data.sources.base import Records, chained
from dcgan_dist.data.sources.drawn import Drawing, synthetic_flowers
from dcgan_dist.data.synthetic import MODES, mode_of
from tests.data.made import files, opened, tar, zipped


def numbered(length: int) -> Records:
    return Records(length, lambda n: Record(str(n), n % 3, f"image {n}", Drawing(n, 0)))


def labels(found: SourceSet) -> list[int]:
    return [record.label for record in found.records]


def test_records_are_a_sequence() -> None:
    records = numbered(5)
    assert len(records) == 5
    assert [record.key for record in records] == ["0", "1", "2", "3", "4"]
    assert [record.key for record in records[3:]] == ["3", "4"]
    assert records[-1].key == "4"
    for place in (5, -6):
        with pytest.raises(IndexError):
            records[place]


def test_chained_records_are_one_part_after_the_other() -> None:
    records = chained([numbered(2), [], numbered(1), [numbered(3)[2]]])
    assert [record.key for record in records] == ["0", "1", "0", "2"]
    assert len(chained([])) == 0


def test_a_subset_takes_classes_and_then_a_number_of_images() -> None:
    found = SourceSet(numbered(30), ("a", "b", "c"))
    chosen = Subset(only_classes=("c", "a")).of(found)
    assert chosen.classes == ("a", "c")
    assert [record.key for record in chosen.records[:4]] == ["0", "2", "3", "5"]
    assert labels(chosen) == [0, 1] * 10
    few = Subset(only_classes=("b",), limit=4, subset_seed=1).of(found)
    keys = [int(record.key) for record in few.records]
    assert keys == sorted(set(keys))
    assert [key % 3 for key in keys] == [1, 1, 1, 1]
    assert labels(few) == [0, 0, 0, 0]
    assert keys != [int(r.key) for r in Subset(only_classes=("b",), limit=4, subset_seed=2).of(found).records]
    with pytest.raises(ValueError, match=r"--subset-seed must be at least 0 and below 2\*\*64, got -1"):
        Subset(limit=4, subset_seed=-1).of(found)


def test_a_million_synthetic_flowers_take_hardly_any_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    found = synthetic_flowers(Request((), {"count": 1_000_000, "seed": 3}, tmp_path))
    part = Subset(limit=1000).of(found)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000
    assert peak < 50_000_000
    assert found.records[999_999].key == "synthetic-999999"
    assert found.records[999_999].label == mode_of(999_999, seed=3)
    assert len(part.records) == 1000
    yellow = tuple(mode.name for mode in MODES if mode.colour.name == "yellow")
    small = SourceSet(found.records[:200], found.classes)
    assert labels(Subset(only_classes=yellow).of(small)) == [each for each in labels(small) if each < len(yellow)]


@pytest.mark.parametrize(
    "pack",
    [lambda path, members: tar(path, members, mode="w"), zipped, files],
    ids=["tar", "zip", "folder"],
)
def test_an_image_file_takes_few_bytes(
    pack: Callable[[Path, dict[str, bytes]], Path], tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thread that hashes a file holds a buffer of 256 KiB; how many do at once is a matter of luck.
    monkeypatch.setattr(base, "sha256_of", lambda path: hashlib.sha256(path.read_bytes()).hexdigest())
    count = 5000
    path = pack(tmp_path / "in", {f"train/class_{n % 7}/image_{n:07d}.png": b"x" for n in range(count)})
    opened("folder", path, scratch=scratch)  # what is made once
    tracemalloc.start()
    found = opened("folder", path, scratch=scratch)
    held, peak = tracemalloc.get_traced_memory()
    sizes = [trace.size for trace in tracemalloc.take_snapshot().traces]
    tracemalloc.stop()
    names = sum(size for size in sizes if size > 500_000)  # Python's table of interned names, which doubles at times
    assert len(found.records) == count
    assert (held - names) / count < 280  # bytes, of which two names take 190
    assert peak - names < 500 * count + 2_000_000  # an archive is hashed in pieces of 1 MiB, whatever the count
