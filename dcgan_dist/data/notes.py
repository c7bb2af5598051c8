"""What a directory holds while it is converted: finished shards, each with a note of what it was made from."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.shards import (
    ENTRY,
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
from dcgan_dist.files import write_whole
from dcgan_dist.typed_json import from_json

NOTES = ".note-*.json"
"""Pattern of their names."""
SOURCE_FIELDS = ("source_files", "source_images", "classes")
"""Settings that follow from the source's files; a directory that is not finished goes on when they change."""


@dataclass(frozen=True)
class Note:
    """A finished shard of a directory that is not finished."""

    number: int
    settings: Settings
    shard: Shard
    entries: str
    """Rows of ENTRY, one an image, in hexadecimal digits."""
    skipped: tuple[Skipped, ...]
    slots_sha256: str = ""
    """Of the records it was made from."""

    def rows(self) -> NDArray[np.void]:
        """(images,) of ENTRY."""
        return np.frombuffer(bytes.fromhex(self.entries), ENTRY)


def entries_text(rows: NDArray[np.void]) -> str:
    """Rows of ENTRY as a note has them."""
    return rows.tobytes().hex()


def slots_sha256(records: Sequence[Record]) -> str:
    """What the images of these records follow from, apart from the target; nothing if that is not known."""
    if not all(record.content for record in records):
        return ""
    rows = [(record.key, record.label, record.name, record.content) for record in records]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def existing_notes(directory: Path, settings: Settings, *, digest_of: Callable[[int], str]) -> dict[int, Note]:
    """What an earlier conversion finished that is as this one's would be, whole or damaged, by number of the shard.

    Args:
        directory: Where it wrote.
        settings: Of this conversion.
        digest_of: ``slots_sha256`` of a shard of this conversion, by number.

    Raises:
        ValueError: If the directory has been converted with other settings or holds something else.
    """
    if (directory / INDEX_NAME).exists():
        return _notes_of_finished(directory, settings)
    notes = read_notes(directory)
    if not notes and any(not path.name.startswith(".") for path in directory.iterdir()):
        raise ValueError(
            f"{directory}: must be empty or hold this conversion; dcgan-shard has not written what is there"
        )
    for note in notes.values():
        _check_same(directory, note.settings, settings, but=SOURCE_FIELDS)
    return {
        number: replace(note, settings=settings)
        for number, note in notes.items()
        if note.settings == settings or (note.slots_sha256 and note.slots_sha256 == digest_of(number))
    }


def read_notes(directory: Path) -> dict[int, Note]:
    """All notes of a directory, by number of the shard; settings that are equal are one object.

    Raises:
        DamagedError: If one is damaged.
        OSError: If one cannot be read.
    """
    notes: dict[int, Note] = {}
    shared: list[Settings] = []
    for path in sorted(directory.glob(NOTES)):
        note = _read(path)
        settings = next((known for known in shared if known == note.settings), note.settings)
        if settings is note.settings:
            shared.append(settings)
        notes[note.number] = replace(note, settings=settings)
    return notes


def remove_shards(directory: Path, numbers: Iterable[int]) -> None:
    """Remove shards of a directory that is not finished, and their notes: the source has changed."""
    for number in numbers:
        path = _path(directory, number)
        (directory / _read(path).shard.file).unlink(missing_ok=True)
        path.unlink()


def write_note(directory: Path, note: Note) -> None:
    """Say what a shard was made from."""
    write_json(_path(directory, note.number), note)


def write_json(path: Path, value: Contents | Note) -> None:
    """Write a dataclass as JSON."""
    write_whole(path, (json.dumps(dataclasses.asdict(value), indent=1) + "\n").encode())


def is_there(directory: Path, note: Note) -> bool:
    """Whether the shard has the bytes that were written."""
    return is_whole(directory / note.shard.file, note.shard)


def differences(old: Settings, new: Settings, *, but: Sequence[str] = ()) -> list[tuple[str, Any, Any]]:
    """Every setting by name, in two conversions, where it differs; files by what is in them."""
    was, now = _flat(old), _flat(new)
    names = sorted((was.keys() | now.keys()) - set(but))
    return [(name, was.get(name), now.get(name)) for name in names if was.get(name) != now.get(name)]


def _path(directory: Path, number: int) -> Path:
    return directory / f".note-{number:06d}.json"


def _read(path: Path) -> Note:
    try:
        note = from_json(Note, json.loads(path.read_bytes()), str(path))
        rows = note.rows()
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: damaged: {error}; remove it, and its shard is converted again") from None
    if path.name != _path(path.parent, note.number).name or rows["shard"].tolist() != [note.number] * note.shard.images:
        raise DamagedError(f"{path}: entries: must be {note.shard.images} of this shard; remove it and convert again")
    if "/" in note.shard.file or note.shard.file.startswith("."):
        raise DamagedError(f"{path}: shard: must be a file beside it, got {note.shard.file!r}")
    return note


def _notes_of_finished(directory: Path, settings: Settings) -> dict[int, Note]:
    contents = read_contents(directory)
    _check_same(directory, contents.settings, settings)
    try:
        index = read_index(directory)
    except ValueError:  # index.npy is missing or damaged: every shard is made again, then both indexes
        return {}
    notes: dict[int, Note] = {}
    for number, shard in enumerate(contents.shards):
        rows = index.entries[index.entries["shard"] == number]
        skipped = tuple(s for s in contents.skipped if s.slot // settings.shard_images == number)
        notes[number] = Note(number, settings, shard, entries_text(rows), skipped)
    return notes


def _check_same(directory: Path, old: Settings, new: Settings, *, but: Sequence[str] = ()) -> None:
    """Raise ValueError, with everything that differs, unless the bytes of the shards would be the same."""
    different = [f"{name} was {was}, now {now}" for name, was, now in differences(old, new, but=but)]
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
