"""Shards and indexes changed at random: a message of ours or the right images, never anything else."""

import contextlib
import json
import random
import resource
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcgan_dist.config import DataConfig, NetworkConfig
from dcgan_dist.data.loader import open_loader
from tests.data.made import photos
from tests.data.sets import convert, rewrite_shard, write_index

NUMBERS = (0, 1, 2, 7, 9, 255, 4096, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 2**64, 10**30, -1)
VALUES: tuple[Any, ...] = (*NUMBERS, None, True, 0.5, "", "x", "../../etc/passwd", "a/b", "\0", [], [1], {}, {"a": 1})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    return convert(photos(root / "photos", images=20), root / "shards")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value."""
    found = [path] if path else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += places(child, (*path, key))
    return found


def changed_json(directory: Path, dice: random.Random) -> None:
    """One value of index.json becomes another, or goes."""
    path = directory / "index.json"
    index = json.loads(path.read_bytes())
    *way, last = dice.choice(places(index))
    node = index
    for key in way:
        node = node[key]
    if dice.random() < 0.2:
        del node[last]
    else:
        node[last] = dice.choice(VALUES)
    path.write_text(json.dumps(index))


def changed_bytes(directory: Path, dice: random.Random) -> None:
    """Some bytes of any file become others, or it is cut, or grows."""
    path = dice.choice(sorted(directory.iterdir()))
    data = bytearray(path.read_bytes())
    how = dice.random()
    if how < 0.2:
        data = data[: dice.randrange(len(data))]
    elif how < 0.3:
        data += dice.randbytes(dice.randrange(2000))
    else:
        for _ in range(dice.choice((1, 1, 3, 30))):
            data[dice.randrange(len(data))] = dice.randrange(256)
    path.write_bytes(data)


def changed_entries(directory: Path, dice: random.Random) -> None:
    """Numbers of index.npy become others; its checksum says that this is how it was meant."""
    index = json.loads((directory / "index.json").read_bytes())
    entries = np.load(directory / "index.npy")
    for _ in range(dice.choice((1, 1, 5))):
        name = dice.choice(entries.dtype.names)
        limit = np.iinfo(entries.dtype[name]).max
        row = dice.randrange(len(entries))
        near = int(entries[name][row]) + dice.choice((-512, -1, 1, 512, 1024))
        entries[name][row] = min(max(0, dice.choice((*NUMBERS, near, near, near))), limit)
    write_index(directory, index, entries)


def changed_image(directory: Path, dice: random.Random) -> None:
    """An image in a shard becomes another; checksums say that this is how it was meant."""
    number, place = dice.randrange(2), dice.randrange(8)
    entries = np.load(directory / "index.npy")
    entry = entries[entries["shard"] == number][place]
    name = json.loads((directory / "index.json").read_bytes())["shards"][number]["file"]
    start = int(entry["offset"])
    image = bytearray((directory / name).read_bytes()[start : start + int(entry["length"])])
    if dice.random() < 0.3:
        image = image[: dice.randrange(len(image))]
    else:
        for _ in range(dice.choice((1, 2, 10))):
            image[dice.randrange(len(image))] = dice.randrange(256)
    rewrite_shard(directory, number, {place: bytes(image)})


CHANGES = (changed_json, changed_bytes, changed_entries, changed_image)


def outcome(directory: Path, kind: str) -> str:
    data = DataConfig(data=str(directory), batch_size=10, loader=kind, workers=0)  # type: ignore[arg-type]
    try:
        loader = open_loader(data, NetworkConfig(image_size=8), seed=0, rows=(0, 10), device=torch.device("cpu"))
        with contextlib.closing(loader):
            for step in range(2):
                assert loader.batch(step).shape == (10, 3, 8, 8)
    except (ValueError, OSError) as error:
        return type(error).__name__ if str(error) and "\n" not in str(error) else f"not a message: {error}"
    return "read"


def fuzz(shards: Path, tmp_path: Path, cases: range) -> Counter[str]:
    tally: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in cases:
        dice = random.Random(case)
        directory = shutil.copytree(shards, tmp_path / str(case))
        change = dice.choice(CHANGES)
        change(directory, dice)
        for kind in ("resident", "indexed"):
            tally[f"{change.__name__}: {outcome(directory, kind)}"] += 1
        shutil.rmtree(directory)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert not list(tmp_path.iterdir())
    assert not any("not a message" in name for name in tally)
    return tally


def test_changed_shards_are_a_message(shards: Path, tmp_path: Path) -> None:
    tally = fuzz(shards, tmp_path, range(40))
    assert sum(tally.values()) == 80
    assert any(name.endswith("Error") for name in tally)


@pytest.mark.slow
def test_many_changed_shards_are_a_message(shards: Path, tmp_path: Path) -> None:
    tally = fuzz(shards, tmp_path, range(1000, 2000))
    print(dict(sorted(tally.items())))
    assert all(any(name.startswith(change.__name__) for name in tally) for change in CHANGES)
