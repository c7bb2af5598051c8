"""Writing shards: records in, a finished directory out, the same bytes whatever the workers and interruptions.

While a conversion goes on, each finished shard has a ``.part-000000.json`` beside it, which says what it was made
from; index.json replaces them all at the end. A directory is in one of these states, and a kill leaves no other:
fresh; parts (a rerun makes what is missing); index.json, with or without parts not yet removed (finished).
"""

import contextlib
import fcntl
import hashlib
import io
import math
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dcgan_dist import __version__
from dcgan_dist.data.encode import Encoded, encode_all, made_with
from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.parts import (
    PARTS_PATTERN,
    Part,
    existing_parts,
    remove_others,
    slots_sha256,
    whole_parts,
    write_json,
    write_part,
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
    read_contents,
    read_index,
)
from dcgan_dist.data.sources import Record
from dcgan_dist.files import sha256_of, whole_file, write_whole

_SCRATCH_NAME = ".scratch.tmp"


class UnreadableImagesError(Exception):
    """Images of the source cannot be read and the user did not ask to skip them."""

    def __init__(self, skipped: Sequence[Skipped], *, finished: bool = False) -> None:
        super().__init__(f"images that cannot be read: {len(skipped):,}")
        self.skipped = skipped
        self.finished = finished
        """Whether the directory was finished without them before."""


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[Path]:
    """A scratch directory in ``directory``, which is made and belongs to this process until the block ends.

    What a killed conversion left half-written is removed first.

    Raises:
        ValueError: If another process is writing there, or ``directory`` is a file.
        OSError: If it cannot be made or written.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory}: must be a directory, is a file")
    existed = directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    try:
        _lock(handle, directory)
        for pattern in (f".{directory.resolve().name}-*.tar.tmp", ".part-*.json.tmp", ".index.*.tmp"):
            for left in directory.glob(pattern):
                left.unlink()
        scratch = directory / _SCRATCH_NAME
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        os.close(handle)
        if not existed:
            with contextlib.suppress(OSError):  # a directory with something in it stays
                directory.rmdir()


def convert(
    records: Sequence[Record],
    directory: Path,
    *,
    settings: Settings,
    workers: int,
    skip_bad: bool,
    report: Callable[[int], None],
) -> tuple[Index, int]:
    """The index of ``directory``, finished, and how many images had to be converted for it.

    Only shards that are missing or damaged are written. The caller has ``claimed`` the directory.

    Args:
        records: The whole source.
        directory: Where to; of the same settings if something was converted there before.
        settings: What the bytes follow from.
        workers: Processes that decode.
        skip_bad: Leave out images that cannot be read, instead of failing at the end.
        report: Called with a number of images whenever so many more are done.

    Raises:
        ValueError: If the directory has been converted with other settings or holds something else.
        UnreadableImagesError: If there are such images and not ``skip_bad``. There is no index then, unless there
            was one before.
        OSError: If something cannot be written.
    """
    finished = (directory / INDEX_NAME).exists()
    order = permutation(len(records), settings.shuffle_seed).tolist()

    def slots(number: int) -> list[Record]:
        return [records[i] for i in order[number * settings.shard_images :][: settings.shard_images]]

    numbers = range(math.ceil(len(records) / settings.shard_images))
    known = existing_parts(directory, settings, digest_of=lambda number: slots_sha256(slots(number)))
    if finished and not skip_bad and (left_out := read_contents(directory).skipped):
        raise UnreadableImagesError(left_out, finished=True)
    parts = whole_parts(directory, known)
    missing = [number for number in numbers if number not in parts]
    if known and finished and missing:  # back to a directory of parts, the damaged ones too: they say whose it is
        for part in known.values():
            write_part(directory, part)
        (directory / INDEX_NAME).unlink()
    if not finished:
        remove_others(directory, [number for number in known if number in numbers])

    todo = [record for number in missing for record in slots(number)]
    report(len(records) - len(todo))
    lock = directory / _SCRATCH_NAME / "large"
    with contextlib.closing(encode_all(todo, settings.target, workers=workers, lock=lock)) as results:
        for number in missing:
            parts[number] = _write_shard(directory, number, slots(number), results, settings=settings, report=report)

    skipped = [image for number in numbers for image in parts[number].skipped]
    if skipped and not skip_bad:
        raise UnreadableImagesError(skipped)
    if missing or not finished:
        _commit(directory, settings, [parts[number] for number in numbers])
    for path in directory.glob(PARTS_PATTERN):
        path.unlink()
    return read_index(directory), len(todo)


def _lock(handle: int, directory: Path) -> None:
    """Take the lock that ends with this process; a file system that has none goes without."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{directory}: another dcgan-shard is writing here") from None
    except OSError:
        return


def _write_shard(
    directory: Path,
    number: int,
    records: Sequence[Record],
    results: Iterator[Encoded],
    *,
    settings: Settings,
    report: Callable[[int], None],
) -> Part:
    """Write one shard from the next ``len(records)`` results, and before it takes its name, what it is made of."""
    from webdataset.writer import TarWriter  # takes seconds, because it imports torch

    path = directory / f"{settings.name}-{number:06d}.tar"
    entries: list[tuple[int, ...]] = []
    skipped: list[Skipped] = []
    with whole_file(path) as file:
        with TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as tar:
            for place, (record, result) in enumerate(zip(records, results, strict=False)):
                if result.problem:
                    skipped.append(Skipped(number * settings.shard_images + place, record.name, result.problem))
                else:
                    tar.write({"__key__": record.key, settings.target.format: result.file})
                    offset = tar.tarstream.offset - _padded(len(result.file))
                    tar.write({"__key__": record.key, "cls": str(record.label).encode()})
                    entries.append((offset, len(result.file), record.label))
                report(1)
        file.flush()
        shard = Shard(path.name, len(entries), file.tell(), sha256_of(Path(file.name)), made_with())
        part = Part(number, settings, shard, tuple(entries), tuple(skipped), slots_sha256(records))
        write_part(directory, part)
    return part


def _padded(size: int) -> int:
    """Bytes that a file of ``size`` takes in a tar."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _commit(directory: Path, settings: Settings, parts: Sequence[Part]) -> None:
    """Write index.npy, then index.json."""
    rows = [(part.number, *entry) for part in parts for entry in part.entries]
    if not rows:
        raise DamagedError(f"{directory}: no image of the source can be read")
    entries = np.array(rows, ENTRY)
    buffer = io.BytesIO()
    np.save(buffer, entries, allow_pickle=False)
    write_whole(directory / ENTRIES_NAME, buffer.getvalue())
    contents = Contents(
        settings=settings,
        images=len(entries),
        class_counts=tuple(np.bincount(entries["label"], minlength=len(settings.classes)).tolist()),
        shards=tuple(part.shard for part in parts),
        skipped=tuple(image for part in parts for image in part.skipped),
        entries_sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
        tool=__version__,
    )
    write_json(directory / INDEX_NAME, contents)
