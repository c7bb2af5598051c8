"""Writing shards: records in, a finished directory out, the same bytes whatever the workers, parts and interruptions.

While a conversion goes on, each finished shard has a ``.note-000000.json`` beside it, which says what it was made
from; index.json replaces them all at the end. A directory is in one of these states, and a kill leaves no other:
fresh; notes (a rerun makes what is missing); index.json, with or without notes not yet removed (finished).
"""

import contextlib
import hashlib
import io
import math
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dcgan_dist import __version__
from dcgan_dist.data.claim import WHOLE, Part, forget_parts, parts_begun
from dcgan_dist.data.encoding import Encoded, encode_all, made_with
from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.notes import (
    NOTES,
    SOURCE_FIELDS,
    Note,
    differences,
    entries_text,
    existing_notes,
    is_there,
    read_notes,
    remove_shards,
    slots_sha256,
    write_json,
    write_note,
)
from dcgan_dist.data.permute import permutation
from dcgan_dist.data.shards import (
    ENTRIES_NAME,
    ENTRY,
    INDEX_NAME,
    Contents,
    Index,
    Settings,
    Shard,
    Skipped,
    is_whole,
    read_contents,
    read_index,
)
from dcgan_dist.data.sources import Record
from dcgan_dist.files import sha256_of, whole_file, write_whole
from dcgan_dist.machine import cores
from dcgan_dist.words import counted

_SHOWN = 10  # numbers in a message


class UnreadableImagesError(Exception):
    """Images of the source cannot be read and the user did not ask to skip them."""

    def __init__(self, skipped: Sequence[Skipped], *, finished: bool = False) -> None:
        super().__init__(f"images that cannot be read: {len(skipped):,}")
        self.skipped = skipped
        self.finished = finished
        """Whether the directory was finished without them before."""


@dataclass(frozen=True)
class Job:
    """A conversion. The caller has ``claimed`` the directory, or the part of it."""

    records: Sequence[Record]
    """The whole source."""
    directory: Path
    """Where to; of the same settings if something was converted there before."""
    settings: Settings
    """What the bytes follow from."""
    scratch: Path = field(kw_only=True)
    """As ``claimed`` gives it."""
    workers: int = field(kw_only=True)
    """Processes that decode."""
    skip_bad: bool = field(kw_only=True)
    """Leave out images that cannot be read, instead of failing at the end."""
    report: Callable[[int], None] = field(kw_only=True)
    """Called with a number of images whenever so many more are done."""


def images_of(part: Part, settings: Settings) -> int:
    """How many images of the source a part has."""
    shard, all_images = settings.shard_images, settings.source_images
    return sum(min(shard, all_images - n * shard) for n in range(settings.shard_count) if part.owns(n))


def convert(job: Job) -> tuple[Index, int]:
    """The index of the directory, finished, and how many images had to be converted for it.

    Only shards that are missing or damaged are written.

    Raises:
        ValueError: If the directory has been converted with other settings or holds something else.
        UnreadableImagesError: If there are such images and not ``skip_bad``. There is no index then, unless there
            was one before.
        OSError: If something cannot be written.
    """
    directory, shards = job.directory, _Shards(job, WHOLE)
    finished = (directory / INDEX_NAME).exists()
    if finished and not job.skip_bad and (left_out := read_contents(directory).skipped):
        raise UnreadableImagesError(left_out, finished=True)
    shards.look()
    if finished and shards.missing and shards.known:
        # back to a directory of notes, of the damaged shards too: they say whose it is
        for note in shards.known.values():
            write_note(directory, note)
        (directory / INDEX_NAME).unlink()
    converted = shards.write()
    if shards.missing or not finished:
        _commit(directory, job.settings, list(shards.notes()), skip_bad=job.skip_bad)
    _tidy(directory)
    return read_index(directory), converted


def convert_part(job: Job, part: Part) -> tuple[int, int]:
    """Write what is missing or damaged of a part; how many shards it has, and how many images had to be converted.

    When all parts are done, ``finish`` writes the index.

    Raises:
        ValueError: As convert.
        DamagedError: If the directory is finished and a shard of the part is damaged.
        UnreadableImagesError: As convert.
        OSError: As convert.
    """
    shards = _Shards(job, part)
    shards.look()
    if shards.missing and (job.directory / INDEX_NAME).exists():
        damage = f"{_shard_list(shards.missing)} missing or damaged"
        raise DamagedError(f"{job.directory}: is finished, but {damage}; run the command without --part")
    converted = shards.write()
    skipped = [image for note in shards.notes() for image in note.skipped]
    if skipped and not job.skip_bad:
        raise UnreadableImagesError(skipped)
    return len(shards.numbers), converted


def finish(directory: Path, *, skip_bad: bool, report: Callable[[int], None]) -> Index:
    """Check every shard that the parts of a conversion have written, and write the index.

    The caller has ``claimed`` the directory. A directory that is finished is checked.

    Args:
        directory: Where the parts wrote.
        skip_bad: As convert.
        report: Called with a number of images whenever so many more are checked.

    Raises:
        ValueError: If nothing was converted there, or a part is not done, or parts were converted otherwise.
        DamagedError: If the directory is finished and a shard is damaged.
        UnreadableImagesError: As convert.
        OSError: If something cannot be read or written.
    """
    if (directory / INDEX_NAME).exists():
        index = read_index(directory)
        shards = index.contents.shards
        damaged = _absent(directory, dict(enumerate(shards)), report=report)
        if damaged:
            raise DamagedError(
                f"{directory}: is finished, but {_shard_list(damaged)} missing or damaged; run the conversion again"
            )
        _tidy(directory)
        return index
    notes = read_notes(directory)
    if not notes:
        raise ValueError(f"{directory}: has no shard of a conversion with --part")
    first = notes[min(notes)]
    for number, note in notes.items():
        found = differences(first.settings, note.settings)
        if found:
            what = "; ".join(
                f"{name} is {one} in shard {first.number}, {other} in {number}" for name, one, other in found
            )
            cure = "remove the directory and convert again"
            if all(name in SOURCE_FIELDS for name, _, _ in found):
                cure = "the source has changed between parts: run all parts again"
            raise ValueError(f"{directory}: parts were converted otherwise: {what}; {cure}")
    settings = first.settings
    absent = _absent(directory, {number: note.shard for number, note in notes.items()}, report=report)
    absent = sorted({*absent, *(set(range(settings.shard_count)) - set(notes))})
    if absent:
        raise ValueError(f"{directory}: {_shard_list(absent)} missing or damaged; {_parts_to_run(directory, absent)}")
    _commit(directory, settings, [notes[number] for number in range(settings.shard_count)], skip_bad=skip_bad)
    _tidy(directory)
    return read_index(directory)


class _Shards:
    """The shards of a part of a conversion: those that are there, and those that have to be written."""

    def __init__(self, job: Job, part: Part) -> None:
        self.numbers = [number for number in range(job.settings.shard_count) if part.owns(number)]
        self.known: dict[int, Note] = {}
        """What an earlier conversion wrote, whole or damaged."""
        self.missing: list[int] = []
        """What is not there as it must be."""
        self._job = job
        self._part = part
        self._order = permutation(len(job.records), job.settings.shuffle_seed)
        self._whole: dict[int, Note] = {}

    def look(self) -> None:
        """Find what is there.

        Raises:
            ValueError: As convert.
        """
        directory, settings = self._job.directory, self._job.settings
        found = existing_notes(directory, settings, digest_of=lambda number: slots_sha256(self._records(number)))
        self.known = {number: note for number, note in found.items() if self._part.owns(number)}
        self._whole = {number: note for number, note in self.known.items() if is_there(directory, note)}
        self.missing = [number for number in self.numbers if number not in self._whole]

    def write(self) -> int:
        """Write what is missing, and remove what a source that has changed has not any more; the number of images."""
        directory, settings, report = self._job.directory, self._job.settings, self._job.report
        written = read_notes(directory)
        numbers = {*self._whole, *self.missing}
        remove_shards(directory, [number for number in written if self._part.owns(number) and number not in numbers])
        for number, note in self._whole.items():
            if number in written and written[number].settings != settings:  # the source has changed elsewhere
                write_note(directory, note)
            report(note.shard.images + len(note.skipped))
        records = (record for number in self.missing for record in self._records(number))
        count = len(self.missing) * settings.shard_images
        lock = self._job.scratch / "large"
        results = encode_all(records, settings.target, count=count, workers=self._job.workers, lock=lock)
        converted = 0
        with contextlib.closing(results):
            for number in self.missing:
                own = self._records(number)
                self._whole[number] = self._write(number, own, results)
                converted += len(own)
        return converted

    def notes(self) -> Iterator[Note]:
        """What was written or there, in order."""
        return (self._whole[number] for number in self.numbers)

    def _records(self, number: int) -> list[Record]:
        """What a shard is made of, in order."""
        start = number * self._job.settings.shard_images
        slots = self._order[start : start + self._job.settings.shard_images]
        return [self._job.records[place] for place in slots.tolist()]

    def _write(self, number: int, records: Sequence[Record], results: Iterator[Encoded]) -> Note:
        """Write a shard from the next results, and before it takes its name, what it is made of."""
        directory, settings = self._job.directory, self._job.settings
        path = directory / f"{settings.name}-{number:06d}.tar"
        rows: list[tuple[int, ...]] = []
        skipped: list[Skipped] = []
        with whole_file(path) as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for place, (record, result) in enumerate(zip(records, results, strict=False)):
                    if result.problem:
                        skipped.append(Skipped(number * settings.shard_images + place, record.name, result.problem))
                    else:
                        offset = _add(tar, f"{record.key}.{settings.target.format}", result.file)
                        _add(tar, f"{record.key}.cls", str(record.label).encode())
                        rows.append((number, offset, len(result.file), record.label))
                    self._job.report(1)
            file.flush()
            shard = Shard(path.name, len(rows), file.tell(), sha256_of(Path(file.name)), made_with())
            entries = entries_text(np.array(rows, ENTRY))
            note = Note(number, settings, shard, entries, tuple(skipped), slots_sha256(records))
            write_note(directory, note)
        return note


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a member as webdataset.TarWriter does with mtime 0, which imports torch; the place of its bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode, member.uname, member.gname = 0o444, "bigdata", "bigdata"
    tar.addfile(member, io.BytesIO(data))
    return tar.offset - math.ceil(len(data) / tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _absent(directory: Path, shards: dict[int, Shard], *, report: Callable[[int], None]) -> list[int]:
    """The numbers of those that are missing or have other bytes."""
    with ThreadPoolExecutor(cores()) as pool:
        absent = []
        found = pool.map(lambda shard: is_whole(directory / shard.file, shard), shards.values())
        for (number, shard), whole in zip(shards.items(), found, strict=True):
            if not whole:
                absent.append(number)
            report(shard.images)
    return absent


def _shard_list(numbers: Sequence[int]) -> str:
    """For people: which shards."""
    shown = ", ".join(str(number) for number in numbers[:_SHOWN]) + (", ..." if len(numbers) > _SHOWN else "")
    return f"{counted(len(numbers), 'shard')} ({shown}) {'is' if len(numbers) == 1 else 'are'}"


def _parts_to_run(directory: Path, absent: Sequence[int]) -> str:
    """For people: which parts make these shards."""
    begun = parts_begun(directory)
    counts = {part.count for part in begun}
    if len(counts) != 1:
        return "run the parts again that make them: part I of N makes shards I - 1, I - 1 + N, ..."
    count = counts.pop()
    needed = sorted({number % count + 1 for number in absent})
    return f"run {', '.join(f'--part {number}/{count}' for number in needed)} and then finish again"


def _tidy(directory: Path) -> None:
    """Remove what only an unfinished directory needs."""
    for path in directory.glob(NOTES):
        path.unlink()
    forget_parts(directory)


def _commit(directory: Path, settings: Settings, notes: Sequence[Note], *, skip_bad: bool) -> None:
    """Write index.npy, then index.json."""
    skipped = tuple(image for note in notes for image in note.skipped)
    if skipped and not skip_bad:
        raise UnreadableImagesError(skipped)
    entries = np.concatenate([note.rows() for note in notes])
    if not len(entries):
        raise DamagedError(f"{directory}: no image of the source can be read")
    buffer = io.BytesIO()
    np.save(buffer, entries, allow_pickle=False)
    write_whole(directory / ENTRIES_NAME, buffer.getvalue())
    contents = Contents(
        settings=settings,
        images=len(entries),
        class_counts=tuple(np.bincount(entries["label"], minlength=len(settings.classes)).tolist()),
        shards=tuple(note.shard for note in notes),
        skipped=skipped,
        entries_sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
        tool=__version__,
    )
    write_json(directory / INDEX_NAME, contents)
