"""One process at a time trains in a run directory: the kernel's lock on a file there. Standard library only.

A POSIX record lock: it ends with the process that holds it, however that ends, is not handed on to its children, and is
seen on every machine that shares the file system.
"""

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

LOCK = "lock"
"""Name of the file in a run directory; it stays, and says who held it last."""
PATIENCE_SECONDS = 1.0
"""How long a trainer tries: whoever only looks holds the lock for a moment."""


@contextlib.contextmanager
def training_alone(directory: Path) -> Iterator[list[str]]:
    """Be the one process that trains in ``directory`` until the block ends; yields what there is to say about it.

    Raises:
        ValueError: when another process trains there, naming it.
        OSError: when the file cannot be made.
    """
    path = directory / LOCK
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        told = []
        try:
            if not _patiently_locked(handle):
                raise ValueError(
                    f"run_dir {directory}: {_read(path)} trains there; if its machine has died, remove {path}"
                )
        except OSError as error:
            told = [f"warning: no locks on the file system of {path} ({error.strerror}): start no second trainer there"]
        else:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{_this_process()}\n".encode(), 0)
        yield told
    finally:
        os.close(handle)


def trainer_in(directory: Path) -> str | None:
    """Who trains in ``directory``, as ``process 7 on node-a``; None when nobody does.

    Raises:
        OSError: when the file system has no locks, or the file cannot be read.
    """
    path = directory / LOCK
    return _read(path) if is_locked(path) else None


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock of a file. Not for the holder, which would lose it by asking.

    Raises:
        OSError: when the file system has no locks, or the file cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return not _locked(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def try_lock(handle: int) -> bool:
    """Take the lock of a file that is open for writing; False when another process has it.

    It ends with this process, or when the process closes any handle of the file.

    Raises:
        OSError: when the file system has no locks.
    """
    return _locked(handle, fcntl.LOCK_EX)


def _patiently_locked(handle: int) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not try_lock(handle):
        if time.monotonic() > deadline:
            return False
        time.sleep(PATIENCE_SECONDS / 20)
    return True


def _locked(handle: int, kind: int) -> bool:
    try:
        fcntl.lockf(handle, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either
        return False
    return True


def _read(path: Path) -> str:
    """Who holds the lock, or another process where it has not written that yet."""
    try:
        return path.read_text(encoding="utf-8").strip() or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"


def _this_process() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f"process {os.getpid()} on {platform.node()}" + (f" in Slurm's job {job}" if job else "")
