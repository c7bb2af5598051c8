"""A directory of shards: WebDataset tars and their index, read, checked and decoded. shard_writing.py writes them.

NAME-000000.tar ...  KEY.png (or jpg, webp) and KEY.cls (the class number in ASCII) of each image
index.npy            where each image is: an array of ENTRY, shard by shard
index.json           everything else; written last, so a directory without it is not finished
"""

import hashlib
import io
import json
import math
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.sources import ALL, SourceFile, Subset
from dcgan_dist.data.transforms import MAX_PIXELS, Pixels, Target, decode_stored
from dcgan_dist.files import sha256_of
from dcgan_dist.machine import cores
from dcgan_dist.typed_json import from_json

FORMAT = 1
"""Version of the directory's layout."""
INDEX_NAME = "index.json"
ENTRIES_NAME = "index.npy"
ENTRY = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("length", "<u4"), ("label", "<u4")])
"""Of one image: number of its shard, place and length of its file in that shard (bytes), class number."""
_DAMAGED = "{path}: is damaged: its sha256 is not the one in the index; run the dcgan-shard command again"


@dataclass(frozen=True)
class Settings:
    """What the bytes of the shards follow from."""

    format: int
    name: str
    source: str
    """A row of SOURCES."""
    source_files: tuple[SourceFile, ...]
    source_options: dict[str, int | str]
    source_images: int
    """Of the subset."""
    classes: tuple[str, ...]
    """Of the subset."""
    target: Target
    shuffle_seed: int
    shard_images: int
    """Slots of a shard; shard s owns slots s * shard_images and following of the shuffled list of the source."""
    subset: Subset = ALL
    """The part of the source that was asked for."""

    @property
    def shard_count(self) -> int:
        """Shards of the finished directory."""
        return math.ceil(self.source_images / self.shard_images)


@dataclass(frozen=True)
class Shard:
    """One tar."""

    file: str
    images: int
    bytes: int
    sha256: str
    made_with: str = ""
    """Versions of what wrote it; the bytes follow from them too."""


@dataclass(frozen=True)
class Skipped:
    """An image of the source that could not be read; its slot is empty."""

    slot: int
    """Place in the shuffled list of the source."""
    name: str
    reason: str


@dataclass(frozen=True)
class Contents:
    """index.json."""

    settings: Settings
    images: int
    class_counts: tuple[int, ...]
    shards: tuple[Shard, ...]
    skipped: tuple[Skipped, ...]
    entries_sha256: str
    tool: str
    """Version of dcgan_dist that wrote the index."""


@dataclass(frozen=True)
class Index:
    """A finished directory of shards."""

    directory: Path
    contents: Contents
    entries: NDArray[np.void]
    """(images,) of ENTRY, in the order of the slots."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(images,) class numbers."""
        return self.entries["label"].astype(np.int64)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(images, size, size, channels)."""
        target = self.contents.settings.target
        return (self.contents.images, target.size, target.size, target.channels)

    def path(self, shard: int) -> Path:
        """The file of shard number ``shard``."""
        return self.directory / self.contents.shards[shard].file


def read_index(directory: Path) -> Index:
    """The checked index of a directory of shards.

    Raises:
        ValueError: If there is none, or something in it is missing, of a wrong type or inconsistent; as a
            DamagedError, if it is damaged and nothing else.
        OSError: If it cannot be read.
    """
    contents = read_contents(directory)
    return Index(directory, contents, _read_entries(directory / ENTRIES_NAME, contents))


def read_contents(directory: Path) -> Contents:
    """The checked index.json of a directory of shards.

    Raises:
        ValueError: If there is none, or something in it is missing, of a wrong type or inconsistent.
        OSError: If it cannot be read.
    """
    path = directory / INDEX_NAME
    if not path.exists():
        raise ValueError(
            f"{directory}: not a directory of shards: no {INDEX_NAME} (a conversion that did not finish? run the "
            "dcgan-shard command again)"
        )
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: not JSON: {error}; remove {directory} and convert again") from None
    _check_format(data, path)
    try:
        contents = from_json(Contents, data, str(path))
    except ValueError as error:
        raise DamagedError(str(error)) from None
    _check(contents, path)
    return contents


def read_images(index: Index, images: Sequence[int] | None = None) -> Pixels:
    """Images, uint8 (N, H, W, C), by their places in ``index.labels``, by default all; shards are decoded in parallel.

    Raises:
        ValueError: If a shard is missing, has another size than the index says, or an image is damaged.
        OSError: If a shard cannot be read.
    """
    wanted = range(index.contents.images) if images is None else images
    pixels = np.empty((len(wanted), *index.shape[1:]), np.uint8)
    positions: dict[int, list[int]] = {}  # in pixels, by shard
    for position, image in enumerate(wanted):
        positions.setdefault(int(index.entries["shard"][image]), []).append(position)

    def read(shard: int) -> None:
        data = _shard_bytes(index, shard)
        for position in positions[shard]:
            pixels[position] = _decode_row(index, wanted[position], data)

    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(read, positions):
            pass  # so that an error in a thread is raised here
    return pixels


def verify(index: Index, *, report: Callable[[int], None]) -> list[str]:
    """What is damaged, one sentence each; empty if every byte is as the index says and every image decodes.

    Args:
        index: What to check.
        report: Called with a number of images whenever so many more were checked.

    Raises:
        OSError: If a shard exists and cannot be read.
    """
    found: list[str] = []
    with ThreadPoolExecutor(cores()) as pool:
        for shard, problems in enumerate(
            pool.map(lambda s: _verify_shard(index, s), range(len(index.contents.shards)))
        ):
            found += [f"{index.path(shard)}: {problem}" for problem in problems]
            report(index.contents.shards[shard].images)
    return found


def path_of_stated_size(index: Index, shard: int) -> Path:
    """The file of a shard.

    Raises:
        DamagedError: If it is missing or has another length than the index says.
    """
    path, expected = index.path(shard), index.contents.shards[shard].bytes
    if not path.exists():
        raise DamagedError(f"{path}: is missing; run the dcgan-shard command again")
    size = path.stat().st_size
    if size != expected:
        raise DamagedError(f"{path}: must have {expected:,} bytes, has {size:,}; run the dcgan-shard command again")
    return path


def check_shard(index: Index, shard: int) -> None:
    """Compare a shard with the index, byte for byte.

    Raises:
        DamagedError: If it is missing or not what the index says.
        OSError: If it cannot be read.
    """
    path = path_of_stated_size(index, shard)
    if sha256_of(path) != index.contents.shards[shard].sha256:
        raise DamagedError(_DAMAGED.format(path=path))


def member_name(path: Path, offset: int) -> str:
    """The name of the member whose bytes begin at ``offset`` of a tar; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, offset - tarfile.BLOCKSIZE))
            return tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "replace").name
    except (OSError, tarfile.HeaderError):
        return ""


def is_whole(path: Path, shard: Shard) -> bool:
    """Whether the file of a shard has the bytes that were written."""
    return path.is_file() and path.stat().st_size == shard.bytes and sha256_of(path) == shard.sha256


def _check_format(data: Any, path: Path) -> None:
    """Raise ValueError if the index is one of another version of the layout."""
    settings = data.get("settings") if isinstance(data, dict) else None
    found = settings.get("format") if isinstance(settings, dict) else FORMAT
    if isinstance(found, int) and found != FORMAT:
        raise ValueError(f"{path}: format: must be {FORMAT}, got {found}; another version of dcgan_dist wrote it")


def _check(contents: Contents, path: Path) -> None:
    """Raise ValueError if fields of the index contradict each other or name files elsewhere."""
    settings = contents.settings
    counts = contents.class_counts
    files = [shard.file for shard in contents.shards]
    elsewhere = [file for file in files if PurePosixPath(file).name != file or "\\" in file or file[:1] == "."]
    rules = [
        (0 < settings.target.size**2 <= MAX_PIXELS, "target.size", f"squared must be 1 to {MAX_PIXELS:,}"),
        (all(0 < shard.bytes < 2**63 for shard in contents.shards), "shards", "bytes must be positive"),
        (all(files), "shards", "files must have names"),
        (settings.target.channels in (1, 3), "target.channels", f"must be 1 or 3, got {settings.target.channels}"),
        (not elsewhere, "shards", f"files must lie in the same directory, got {elsewhere[:1]}"),
        (len(set(files)) == len(files), "shards", "files must have different names"),
        (contents.images > 0, "images", "must be positive"),
        (contents.images == sum(shard.images for shard in contents.shards), "images", "must be the sum over shards"),
        (contents.images == sum(counts), "class_counts", f"must sum to images, {contents.images}, got {sum(counts)}"),
        (len(counts) == len(settings.classes), "class_counts", "must have one number for each class"),
    ]
    for holds, field, rule in rules:
        if not holds:
            raise DamagedError(f"{path}: {field}: {rule}")


def _read_entries(path: Path, contents: Contents) -> NDArray[np.void]:
    """index.npy, in agreement with index.json and within the bounds of the shards."""
    if not path.exists():
        raise DamagedError(f"{path}: is missing; run the dcgan-shard command again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != contents.entries_sha256:
        raise DamagedError(f"{path}: is damaged: its sha256 is not the one in {INDEX_NAME}")
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        shape, _, kind = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise DamagedError(f"{path}: not an array: {' '.join(str(error).split())}") from None
    held = len(data) - stream.tell()
    if (version, shape, kind) != ((1, 0), (contents.images,), ENTRY) or held != contents.images * ENTRY.itemsize:
        raise DamagedError(f"{path}: must be {contents.images} of {ENTRY}, is {shape} of {kind} in {held} bytes")
    entries: NDArray[np.void] = np.frombuffer(data, ENTRY, offset=stream.tell())
    ends = entries["offset"] + entries["length"]
    sizes = np.array([shard.bytes for shard in contents.shards], np.uint64)
    images = [shard.images for shard in contents.shards]
    if not np.array_equal(entries["shard"], np.repeat(np.arange(len(images)), images)):
        raise DamagedError(f"{path}: shard: must count up as {INDEX_NAME} says")
    if np.any(ends > sizes[entries["shard"]]) or np.any(ends < entries["offset"]):
        raise DamagedError(f"{path}: offset and length: must end inside the shard")
    classes = len(contents.class_counts)
    foreign = np.any(entries["label"] >= classes)  # before bincount takes memory for as many as the largest label
    if foreign or np.bincount(entries["label"], minlength=classes).tolist() != list(contents.class_counts):
        raise DamagedError(f"{path}: label: must count as class_counts in {INDEX_NAME}")
    return entries


def _shard_bytes(index: Index, shard: int) -> bytes:
    path = path_of_stated_size(index, shard)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != index.contents.shards[shard].sha256:
        raise DamagedError(_DAMAGED.format(path=path))
    return data


def _decode_row(index: Index, row: int, shard_bytes: bytes) -> Pixels:
    entry = index.entries[row]
    start, length = int(entry["offset"]), int(entry["length"])
    target = index.contents.settings.target
    try:
        return decode_stored(shard_bytes[start : start + length], target.size, channels=target.channels)
    except ValueError as error:
        raise DamagedError(f"{index.path(int(entry['shard']))}: the image at byte {start} {error}") from error


def _verify_shard(index: Index, shard: int) -> list[str]:
    """What is wrong with one shard."""
    stated, path = index.contents.shards[shard], index.path(shard)
    if not is_whole(path, stated):
        return ["is missing" if not path.exists() else "is damaged: its size or sha256 is not the one in the index"]
    data = path.read_bytes()
    rows = np.flatnonzero(index.entries["shard"] == shard)
    problems = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            members = tar.getmembers()
    except tarfile.TarError as error:
        return [f"is not a tar: {error}"]
    if len(members) != 2 * len(rows):
        return [f"must have {2 * len(rows)} members, an image and a class for each entry, has {len(members)}"]
    for row, image, number in zip(rows, members[::2], members[1::2], strict=True):
        entry = index.entries[row]
        if (image.offset_data, image.size) != (int(entry["offset"]), int(entry["length"])):
            problems.append(f"{image.name} is not where {ENTRIES_NAME} says")
        if data[number.offset_data : number.offset_data + number.size] != str(entry["label"]).encode():
            problems.append(f"{number.name} is not the class in {ENTRIES_NAME}, {entry['label']}")
        try:
            _decode_row(index, int(row), data)
        except ValueError as error:
            problems.append(f"{image.name}: {error}")
    return problems
