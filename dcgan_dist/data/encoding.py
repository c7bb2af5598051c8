"""Images encoded for shards by worker processes, in order and in bounded memory."""

import contextlib
import fcntl
import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import PIL
from PIL import features

from dcgan_dist import __version__
from dcgan_dist.data.sources import Record
from dcgan_dist.data.transforms import Target, encode

_CHUNK = 16  # images a task
_CHUNKS_AHEAD = 4  # tasks a worker that may wait, in order, to be written
_REASON_CHARACTERS = 300


@dataclass(frozen=True)
class Encoded:
    """What a worker made of a record."""

    file: bytes
    problem: str
    """Why there is no image; else empty."""


def made_with() -> str:
    """The versions that the bytes of an encoded image follow from."""
    versions = {
        "dcgan_dist": __version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "libjpeg-turbo": features.version("libjpeg_turbo"),
        "numpy": np.__version__,
    }
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def encode_all(
    records: Iterable[Record], target: Target, *, count: int, workers: int, lock: Path
) -> Generator[Encoded, None, None]:
    """One result for each record, in order; a bounded number is ahead of what was taken.

    Args:
        records: What to encode.
        target: What every image is made into.
        count: How many records there are, about: no more processes start than have something to do.
        workers: Processes; one is this process.
        lock: A file that may be made; who holds it decodes an image that needs much memory.
    """
    workers = min(workers, math.ceil(count / _CHUNK))
    if workers <= 1:
        for record in records:
            yield _encode(record, target, lock)
        return
    remaining = iter(records)
    chunks = iter(lambda: list(islice(remaining, _CHUNK)), [])
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        waiting: deque[Future[list[Encoded]]] = deque()
        for chunk in chunks:
            waiting.append(pool.submit(_encode_chunk, chunk, target, lock))
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


def _encode_chunk(records: Sequence[Record], target: Target, lock: Path) -> list[Encoded]:
    return [_encode(record, target, lock) for record in records]


def _encode(record: Record, target: Target, lock: Path) -> Encoded:
    try:
        pixels = record.image.pixels(target, large=_one_at_a_time(lock))
    except ValueError as error:  # not OSError: a disk that fails says nothing about the image
        return Encoded(b"", str(error)[:_REASON_CHARACTERS])
    return Encoded(encode(pixels, target.format), "")


@contextlib.contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """Hold the lock of all workers, which ends with this process; a file system that has none goes without."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            fcntl.flock(held.enter_context(lock.open("a")), fcntl.LOCK_EX)
        yield
