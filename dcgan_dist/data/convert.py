"""Writing shards: records in, a finished directory out, the same bytes whatever the workers and interruptions.

While a conversion goes on, each finished shard has a ``.part-000000.json`` beside it, which says what it was made
from; index.json replaces them all at the end. A directory is in one of these states, and a kill leaves no other:
fresh; parts (a rerun makes what is missing); index.json, with or without parts not yet removed (finished).
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import math
import multiprocessing
import os
import shutil
import signal
import tarfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dcgan_dist import __version__
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
from dcgan_dist.data.transforms import Target, encode_png
from dcgan_dist.data.typed_json import from_json
from dcgan_dist.files import sha256_of, whole_file, write_whole

_CHUNK = 16  # images a task
_CHUNKS_AHEAD = 4  # tasks a worker that may wait, in order, to be written


class UnreadableImagesError(Exception):
    """Images of the source cannot be read and the user did not ask to skip them."""

    def __init__(self, skipped: Sequence[Skipped]) -> None:
        super().__init__(f"images that cannot be read: {len(skipped):,}")
        self.skipped = skipped


@dataclass(frozen=True)
class _Part:
    """A finished shard of a directory that is not finished."""

    number: int
    settings: Settings
    shard: Shard
    entries: tuple[tuple[int, ...], ...]
    """Offset, length and label of each image."""
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class _Encoded:
    """What a worker made of a record."""

    png: bytes
    problem: str
    """Why there is no image; else empty."""


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
        scratch = directory / ".scratch.tmp"
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
        UnreadableImagesError: If there are such images and not ``skip_bad``; there is no index then.
        OSError: If something cannot be written.
    """
    shard_count = math.ceil(len(records) / settings.shard_images)
    known = _existing_parts(directory, settings)
    finished = (directory / INDEX_NAME).exists()
    parts = {number: part for number, part in known.items() if is_whole(directory / part.shard.file, part.shard)}
    missing = [number for number in range(shard_count) if number not in parts]
    if known and finished and missing:  # back to a directory of parts, the damaged ones too: they say whose it is
        for number, part in known.items():
            _write_json(_part_path(directory, number), part)
        (directory / INDEX_NAME).unlink()

    order = permutation(len(records), settings.shuffle_seed).tolist()
    slots = {n: [records[i] for i in order[n * settings.shard_images :][: settings.shard_images]] for n in missing}
    todo = [record for number in missing for record in slots[number]]
    report(len(records) - len(todo))
    with contextlib.closing(_encode_all(todo, settings.target, workers=workers)) as results:
        for number in missing:
            parts[number] = _write_shard(directory, number, slots[number], results, settings=settings, report=report)

    skipped = [image for number in range(shard_count) for image in parts[number].skipped]
    if skipped and not skip_bad:
        raise UnreadableImagesError(skipped)
    if missing or not finished:
        _commit(directory, settings, [parts[number] for number in range(shard_count)])
    for path in directory.glob(".part-*.json"):
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


def _existing_parts(directory: Path, settings: Settings) -> dict[int, _Part]:
    """What an earlier conversion says it finished, by number of the shard."""
    parts: dict[int, _Part] = {}
    if (directory / INDEX_NAME).exists():
        _check_same(directory, read_contents(directory).settings, settings)
        try:
            index = read_index(directory)
        except ValueError:  # index.npy is missing or damaged: every shard is made again, then both indexes
            return parts
        for number, shard in enumerate(index.contents.shards):
            rows = index.entries[index.entries["shard"] == number]
            entries = tuple(zip(*(rows[field].tolist() for field in ("offset", "length", "label")), strict=True))
            skipped = tuple(s for s in index.contents.skipped if s.slot // settings.shard_images == number)
            parts[number] = _Part(number, settings, shard, entries, skipped)
        return parts
    for path in directory.glob(".part-*.json"):
        part = from_json(_Part, json.loads(path.read_bytes()), str(path))
        _check_same(directory, part.settings, settings)
        parts[part.number] = part
    if not parts and any(not path.name.startswith(".") for path in directory.iterdir()):
        raise ValueError(
            f"{directory}: must be empty or hold this conversion; dcgan-shard has not written what is there"
        )
    return parts


def _check_same(directory: Path, old: Settings, new: Settings) -> None:
    """Raise ValueError, with everything that differs, unless the bytes of the shards would be the same."""
    was, now = _flat(old), _flat(new)
    different = [
        f"{name} was {was.get(name)}, now {now.get(name)}"
        for name in sorted(was | now)
        if was.get(name) != now.get(name)
    ]
    if different:
        raise ValueError(
            f"{directory}: holds another conversion ({'; '.join(different)}); choose another --out or remove it"
        )


def _flat(settings: Settings) -> dict[str, Any]:
    """Every setting by name; files by what is in them, so that an archive may be renamed."""
    values = dataclasses.asdict(settings)
    files = [f"sha256 {file['sha256']}" for file in values.pop("source_files")]
    return {**values.pop("target"), **values.pop("source_options"), **values, "source_files": files}


def _write_shard(
    directory: Path,
    number: int,
    records: Sequence[Record],
    results: Iterator[_Encoded],
    *,
    settings: Settings,
    report: Callable[[int], None],
) -> _Part:
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
                    tar.write({"__key__": record.key, "png": result.png})
                    offset = tar.tarstream.offset - _padded(len(result.png))
                    tar.write({"__key__": record.key, "cls": str(record.label).encode()})
                    entries.append((offset, len(result.png), record.label))
                report(1)
        file.flush()
        shard = Shard(path.name, len(entries), file.tell(), sha256_of(Path(file.name)))
        part = _Part(number, settings, shard, tuple(entries), tuple(skipped))
        _write_json(_part_path(directory, number), part)
    return part


def _padded(size: int) -> int:
    """Bytes that a file of ``size`` takes in a tar."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _commit(directory: Path, settings: Settings, parts: Sequence[_Part]) -> None:
    """Write index.npy, then index.json."""
    rows = [(part.number, *entry) for part in parts for entry in part.entries]
    if not rows:
        raise ValueError(f"{directory}: no image of the source can be read")
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
    _write_json(directory / INDEX_NAME, contents)


def _part_path(directory: Path, number: int) -> Path:
    return directory / f".part-{number:06d}.json"


def _write_json(path: Path, value: Contents | _Part) -> None:
    write_whole(path, (json.dumps(dataclasses.asdict(value), indent=1) + "\n").encode())


def _encode_all(records: Sequence[Record], target: Target, *, workers: int) -> Generator[_Encoded, None, None]:
    """One result for each record, in order; a bounded number is ahead of what was taken."""
    chunks = [records[start : start + _CHUNK] for start in range(0, len(records), _CHUNK)]
    workers = min(workers, len(chunks))
    if workers <= 1:
        for record in records:
            yield _encode(record, target)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        waiting: deque[Future[list[_Encoded]]] = deque()
        for chunk in chunks:
            waiting.append(pool.submit(_encode_chunk, chunk, target))
            if len(waiting) == workers * _CHUNKS_AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the main process, end when it has died, and use one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode_chunk(records: Sequence[Record], target: Target) -> list[_Encoded]:
    return [_encode(record, target) for record in records]


def _encode(record: Record, target: Target) -> _Encoded:
    try:
        return _Encoded(encode_png(record.image.pixels(target)), "")
    except ValueError as error:  # not OSError: a disk that fails says nothing about the image
        return _Encoded(b"", str(error))
