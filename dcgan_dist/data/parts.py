"""What a directory holds while it is converted: finished shards, each with a file that says what it was made from."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.shards import (
    INDEX_NAME,
    Contents,
    Settings,
    Shard,
    Skipped,
    is_whole,
    read_contents,
    read_index,
)
from dcgan_dist.data.sources import Record
from dcgan_dist.data.typed_json import from_json
from dcgan_dist.files import write_whole

PARTS_PATTERN = ".part-*.json"
_SOURCE_FIELDS = ("source_files", "source_images", "classes")
"""Settings that follow from the source's files; a directory that is not finished goes on when they change."""


@dataclass(frozen=True)
class Part:
    """A finished shard of a directory that is not finished."""

    number: int
    settings: Settings
    shard: Shard
    entries: tuple[tuple[int, ...], ...]
    """Offset, length and label of each image."""
    skipped: tuple[Skipped, ...]
    slots_sha256: str = ""
    """Of the records it was made from."""


def slots_sha256(records: Sequence[Record]) -> str:
    """What the images of these records follow from, apart from the target; nothing if that is not known."""
    if not all(record.content for record in records):
        return ""
    rows = [(record.key, record.label, record.name, record.content) for record in records]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def existing_parts(directory: Path, settings: Settings, *, digest_of: Callable[[int], str]) -> dict[int, Part]:
    """What an earlier conversion finished that is as this one's would be, whole or damaged, by number of the shard.

    Args:
        directory: Where it wrote.
        settings: Of this conversion.
        digest_of: ``slots_sha256`` of a shard of this conversion, by number.

    Raises:
        ValueError: If the directory has been converted with other settings or holds something else.
    """
    if (directory / INDEX_NAME).exists():
        return _parts_of_finished(directory, settings)
    written = [_read(path) for path in sorted(directory.glob(PARTS_PATTERN))]
    if not written and any(not path.name.startswith(".") for path in directory.iterdir()):
        raise ValueError(
            f"{directory}: must be empty or hold this conversion; dcgan-shard has not written what is there"
        )
    for part in written:
        _check_same(directory, part.settings, settings, but=_SOURCE_FIELDS)
    return {
        part.number: part
        for part in written
        if part.settings == settings or (part.slots_sha256 and part.slots_sha256 == digest_of(part.number))
    }


def remove_others(directory: Path, keep: Sequence[int]) -> None:
    """Remove the shards of a directory that is not finished but those with these numbers: the source has changed."""
    for path in directory.glob(PARTS_PATTERN):
        part = _read(path)
        if part.number not in keep:
            (directory / part.shard.file).unlink(missing_ok=True)
            path.unlink()


def write_part(directory: Path, part: Part) -> None:
    """Say what a shard was made from."""
    write_json(directory / f".part-{part.number:06d}.json", part)


def write_json(path: Path, value: Contents | Part) -> None:
    """Write a dataclass as JSON."""
    write_whole(path, (json.dumps(dataclasses.asdict(value), indent=1) + "\n").encode())


def whole_parts(directory: Path, parts: dict[int, Part]) -> dict[int, Part]:
    """Those whose shard has the bytes that were written."""
    return {number: part for number, part in parts.items() if is_whole(directory / part.shard.file, part.shard)}


def _read(path: Path) -> Part:
    try:
        part = from_json(Part, json.loads(path.read_bytes()), str(path))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: damaged: {error}; remove it, and its shard is converted again") from None
    if "/" in part.shard.file or part.shard.file.startswith("."):
        raise DamagedError(f"{path}: shard: must be a file beside it, got {part.shard.file!r}")
    return part


def _parts_of_finished(directory: Path, settings: Settings) -> dict[int, Part]:
    contents = read_contents(directory)
    _check_same(directory, contents.settings, settings)
    try:
        index = read_index(directory)
    except ValueError:  # index.npy is missing or damaged: every shard is made again, then both indexes
        return {}
    parts: dict[int, Part] = {}
    for number, shard in enumerate(contents.shards):
        rows = index.entries[index.entries["shard"] == number]
        entries = tuple(zip(*(rows[field].tolist() for field in ("offset", "length", "label")), strict=True))
        skipped = tuple(s for s in contents.skipped if s.slot // settings.shard_images == number)
        parts[number] = Part(number, settings, shard, entries, skipped)
    return parts


def _check_same(directory: Path, old: Settings, new: Settings, *, but: Sequence[str] = ()) -> None:
    """Raise ValueError, with everything that differs, unless the bytes of the shards would be the same."""
    was, now = _flat(old), _flat(new)
    different = [
        f"{name} was {was.get(name)}, now {now.get(name)}"
        for name in sorted(was | now)
        if was.get(name) != now.get(name) and name not in but
    ]
    if different:
        raise ValueError(
            f"{directory}: holds another conversion ({'; '.join(different)}); choose another --out or remove it"
        )


def _flat(settings: Settings) -> dict[str, Any]:
    """Every setting by name; files by what is in them, so that an archive may be renamed."""
    values = dataclasses.asdict(settings)
    files = [f"sha256 {file['sha256']}" for file in values.pop("source_files")]
    flat = {**values.pop("target"), **values.pop("source_options"), **values.pop("subset"), **values}
    return {**flat, "source_files": files}
