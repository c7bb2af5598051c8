"""Directories of shards for the tests of reading: small ones, large ones, and ones that lie."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dcgan_dist import shard
from dcgan_dist.data.shards import ENTRY, FORMAT
from tests.data.made import file_of, noise, tar

IMAGES = 40


def convert(source: Path, out: Path, *options: str) -> Path:
    """Shards of 8 images of 8 x 8 pixels."""
    shard.main(["folder", str(source), "--out", str(out), "--size", "8", "--shard_images", "8", "--quiet", *options])
    return out


@dataclass(frozen=True)
class Place:
    """Where a changed image is."""

    image: int
    key: str
    offset: int


def rewrite_shard(
    directory: Path,
    number: int,
    images: Mapping[int, bytes],
    *,
    more: Mapping[str, bytes] | None = None,
    entry: Mapping[str, int] | None = None,
    stated: Mapping[str, Any] | None = None,
) -> Place:
    """Change shard ``number`` of a directory and let the index say so: the place of the first image changed.

    Args:
        directory: The shards.
        number: Of the shard.
        images: New files by their place in the shard.
        more: New members by name.
        entry: Lies about the shard's first image.
        stated: Lies about the shard.
    """
    index = json.loads((directory / "index.json").read_bytes())
    entries = np.load(directory / "index.npy")
    path = directory / index["shards"][number]["file"]
    rows = np.flatnonzero(entries["shard"] == number)
    if images:
        with tarfile.open(path) as old:
            members = [(info, old.extractfile(info).read()) for info in old.getmembers()]  # type: ignore[union-attr]
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as new:
            for place, (info, data) in enumerate(members):
                file = images.get(place // 2, data) if place % 2 == 0 else data
                info.size = len(file)
                new.addfile(info, io.BytesIO(file))
            for name, file in (more or {}).items():
                info = tarfile.TarInfo(name)
                info.size = len(file)
                new.addfile(info, io.BytesIO(file))
        with tarfile.open(path) as new:
            places = new.getmembers()[: 2 * len(rows) : 2]
        entries["offset"][rows] = [info.offset_data for info in places]
        entries["length"][rows] = [info.size for info in places]
        data = path.read_bytes()
        index["shards"][number] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for name, value in (entry or {}).items():
        entries[name][rows[0]] = value
    index["shards"][number] |= stated or {}
    write_index(directory, index, entries)
    row = int(rows[min(images, default=0)])
    with tarfile.open(path) as tar_file:
        keys = [info.name for info in tar_file.getmembers()[::2]] if images else [""]
    return Place(row, keys[min(images, default=0)], int(entries["offset"][row]))


def write_index(directory: Path, index: dict[str, Any], entries: NDArray[np.void]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, entries, allow_pickle=False)
    (directory / "index.npy").write_bytes(buffer.getvalue())
    index["entries_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    (directory / "index.json").write_text(json.dumps(index))


def many_shards(directory: Path, *, shards: int, images: int, size: int = 64) -> Path:
    """Shards of noise, all of them one file under many names."""
    directory.mkdir()
    files = [file_of(Image.fromarray(noise(seed, height=size, width=size))) for seed in range(8)]
    members: dict[str, bytes] = {}
    for number in range(images):
        members |= {f"{number:05d}.png": files[number % 8], f"{number:05d}.cls": b"0"}
    first = tar(directory / "set-000000.tar", members, mode="w:")
    with tarfile.open(first) as made:
        places = [(info.offset_data, info.size) for info in made.getmembers()[::2]]
    data = first.read_bytes()
    stated = {"images": images, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for number in range(1, shards):
        (directory / f"set-{number:06d}.tar").hardlink_to(first)
    rows = [(number, *place, 0) for number in range(shards) for place in places]
    target = {"size": size, "channels": 3, "crop": "none", "resize": "area"}
    index = {
        "settings": {
            "format": FORMAT,
            "name": "set",
            "source": "folder",
            "source_files": [],
            "source_options": {},
            "source_images": len(rows),
            "classes": ["noise"],
            "target": target,
            "shuffle_seed": 0,
            "shard_images": images,
        },
        "images": len(rows),
        "class_counts": [len(rows)],
        "shards": [{"file": f"set-{number:06d}.tar", **stated} for number in range(shards)],
        "skipped": [],
        "tool": "tests",
    }
    write_index(directory, index, np.array(rows, ENTRY))
    return directory
