"""Who may write to a directory of shards: one process alone, or one for each part of a conversion."""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SCRATCH = ".scratch"
_PART_FILE = re.compile(r"\.part-(\d+)-of-(\d+)")
_INDEX_LEFT = ".index.*.tmp"


@dataclass(frozen=True)
class Part:
    """One of several processes that convert a set together: every ``count``-th shard is its."""

    number: int
    """1 to ``count``."""
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"--part: must be I/N with I from 1 to N, got {self.number}/{self.count}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def owns(self, shard: int) -> bool:
        """Whether a shard, by its number, is of this part."""
        return shard % self.count == self.number - 1


WHOLE = Part(1, 1)
"""Everything."""


@contextlib.contextmanager
def claimed(directory: Path, part: Part = WHOLE) -> Iterator[Path]:
    """A scratch directory in ``directory``, of which this process may write its part until the block ends.

    What a killed process left half-written of that part is removed first. On a file system without locks nothing
    keeps two processes from the same part.

    Raises:
        ValueError: If another process is writing there that is not another part of the same division, or
            ``directory`` is a file.
        OSError: If it cannot be made or written.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory}: must be a directory, is a file")
    existed = directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        if not existed:
            held.callback(_remove_if_empty, directory)
        handle = os.open(directory, os.O_RDONLY)
        held.callback(os.close, handle)
        if not _locked(handle, alone=part == WHOLE):
            raise ValueError(f"{directory}: another dcgan-shard is writing here")
        if part != WHOLE:
            held.enter_context(_part_file(directory, part))
        shard_left = re.compile(rf"\.(?:note|{re.escape(directory.resolve().name)})-(\d+)\.(?:json|tar)\..*\.tmp")
        for path in directory.glob(".*.tmp"):
            left = shard_left.fullmatch(path.name)
            if left and part.owns(int(left[1])):
                path.unlink()
        if part == WHOLE:
            for path in directory.glob(_INDEX_LEFT):
                path.unlink()
            for path in directory.glob(f"{_SCRATCH}-*-of-*"):
                shutil.rmtree(path, ignore_errors=True)
        scratch = directory / f"{_SCRATCH}-{part.number}-of-{part.count}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        held.callback(shutil.rmtree, scratch, ignore_errors=True)
        yield scratch


def parts_begun(directory: Path) -> list[Part]:
    """The parts that processes have worked on, sorted."""
    found = (_PART_FILE.fullmatch(path.name) for path in directory.glob(".part-*"))
    return sorted((Part(int(name[1]), int(name[2])) for name in found if name), key=lambda p: (p.count, p.number))


def forget_parts(directory: Path) -> None:
    """Remove what ``parts_begun`` finds; the caller has claimed all of ``directory``."""
    for part in parts_begun(directory):
        _path(directory, part).unlink()


@contextlib.contextmanager
def _part_file(directory: Path, part: Part) -> Iterator[None]:
    """Hold the lock of a part. Its file stays, and says how the set was divided, unless nothing was written."""
    path = _path(directory, part)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    with contextlib.ExitStack() as held:
        held.callback(os.close, handle)
        _check_free(directory, part, handle)
        try:
            yield
        except BaseException:
            if not any(each.name.startswith(".note") or each.suffix == ".tar" for each in directory.iterdir()):
                path.unlink(missing_ok=True)
            raise


def _check_free(directory: Path, part: Part, handle: int) -> None:
    """Raise ValueError if another process has this part, or one of another division."""
    if not _locked(handle, alone=True):
        raise ValueError(f"{directory}: another dcgan-shard is writing part {part} here")
    for other in parts_begun(directory):
        if other.count != part.count and _is_held(_path(directory, other)):
            raise ValueError(f"{directory}: another dcgan-shard is writing part {other} here, of other parts")


def _path(directory: Path, part: Part) -> Path:
    return directory / f".part-{part.number}-of-{part.count}"


def _is_held(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _locked(handle, alone=True)
    finally:
        os.close(handle)


def _locked(handle: int, *, alone: bool) -> bool:
    """Take the lock that ends with this process; a file system that has none goes without."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):  # a directory with something in it stays
        directory.rmdir()
