"""A directory of downloaded files that the processes of a machine share: each fetched once, the least used removed.

DIRECTORY/dcgan_dist-DIGEST/NAME        a whole file, as its sha256 says; locked (shared) by whoever uses it
DIRECTORY/dcgan_dist-DIGEST/NAME.part   being fetched by the process that holds its lock
DIRECTORY/.dcgan_dist-lock              held for the moment in which room is made or a file gets its name

Nothing else in DIRECTORY is counted or removed, so that it may be one that has other things in it.

Locks are the kernel's (flock), so they end with the process that holds them, however it ends. A file has its final
length from the start, so that the lengths of all files are the room that is taken or promised.
"""

import contextlib
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

from dcgan_dist.data.remote import Expected, StoppedError

POLL_SECONDS = 0.05
"""How often a process looks whether another has fetched the file it waits for."""
STALLED_SECONDS = 600.0
"""A process that fetches and has written nothing for so long, longer than all its attempts may take, is stopped."""

_LOCK = ".dcgan_dist-lock"
_SET = "dcgan_dist-" + "[0-9a-f]" * 32  # a pattern


class CacheFullError(Exception):
    """There is no room, because all that lies in the cache is in use."""


class Cache:
    """Whole files by name, fetched when they are not there.

    Args:
        directory: where; made if it is not there, and it must be this user's own, on a disk of this machine.
        limit_bytes: what all files together may take; half-fetched ones count in full.

    Raises:
        ValueError: If it cannot be made, is another user's, or its file system has no such locks.
    """

    def __init__(self, directory: Path, *, limit_bytes: int) -> None:
        self.directory = directory
        self.limit_bytes = limit_bytes
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            owner = directory.stat()
            if not stat.S_ISDIR(owner.st_mode) or owner.st_uid != os.getuid():
                raise ValueError(f"cache_dir {directory}: must be a directory of this user")
            with self._locked():
                if not self._is_locked():  # NFS: its locks are a process's, not an open file's
                    raise ValueError(f"cache_dir {directory}: must be on a disk of this machine, for its locks (flock)")
        except OSError as error:
            raise ValueError(f"cache_dir {directory}: cannot be used: {error.strerror}; name another") from None

    def place(self, digest: str) -> Path:
        """The directory of a set of files, told apart from others by 32 hexadecimal digits."""
        return self.directory / f"dcgan_dist-{digest[:32]}"

    def hold(
        self, path: Path, expected: Expected, *, fetch: Callable[[int], None], known_whole: bool, stop: Event
    ) -> int:
        """An open file, whole and safe from removal until it is closed.

        Args:
            path: in the place of a set.
            expected: what the file is.
            fetch: writes it to an open file and checks it; called by one process at a time.
            known_whole: this process has checked the file before.
            stop: set when nobody wants the file any more.

        Raises:
            CacheFullError: If there is no room for it.
            StoppedError: If ``stop`` was set while another process was fetching it.
            OSError: If it cannot be written, ``fetch`` raised it, or the process that is fetching it is stopped.
        """
        assert path.parent.match(_SET)
        written, since = None, time.monotonic()
        while True:
            held = self._existing(path, expected, known_whole=known_whole)
            if held is not None:
                return held
            claim = _claimed(path)
            if claim is None:
                if stop.wait(POLL_SECONDS):
                    raise StoppedError
                part = _stat(_part(path))
                if part is None or part.st_mtime_ns != written:
                    written, since = part.st_mtime_ns if part else None, time.monotonic()
                elif time.monotonic() - since > STALLED_SECONDS:
                    raise OSError(
                        f"{path}: is being fetched by another process, which has written nothing for "
                        f"{STALLED_SECONDS:.0f} seconds; is it stopped?"
                    )
                continue
            try:
                if path.exists():  # it got its name between the two looks
                    _part(path).unlink()
                    continue
                self._fill(claim, path, expected, fetch=fetch)
                fcntl.flock(claim, fcntl.LOCK_SH)
                if os.fstat(claim).st_nlink:  # else it was removed in the moment between the two locks
                    claim, held = -1, claim
                    return held
            finally:
                if claim != -1:
                    os.close(claim)

    def _existing(self, path: Path, expected: Expected, *, known_whole: bool) -> int | None:
        """The file, held; None if it is not there or damaged, and then removed."""
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        keep = False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)  # at most for the moment in which it is removed or gets its name
            found = os.fstat(handle)
            if found.st_nlink == 0:
                return None
            if found.st_size != expected.bytes or not (known_whole or _sha256(handle) == expected.sha256):
                with self._locked(), contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(path.stat(), found):
                        path.unlink()
                return None
            os.utime(handle)  # used just now
            keep = True
            return handle
        finally:
            if not keep:
                os.close(handle)

    def _fill(self, claim: int, path: Path, expected: Expected, *, fetch: Callable[[int], None]) -> None:
        """Make room for a file, fetch it and give it its name."""
        try:
            self._make_room(claim, expected.bytes)
            fetch(claim)
            os.fchmod(claim, 0o400)
            with self._locked():  # so that whoever counts sees it under one of its names
                _part(path).rename(path)
        except BaseException as error:
            _part(path).unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno is not None:
                error.filename = str(path)
            raise

    def _make_room(self, claim: int, needed: int) -> None:
        """Remove what was not used for longest until ``needed`` bytes fit, and promise them to the open file."""
        with self._locked():
            own = os.fstat(claim).st_ino
            files = [(path, found) for path in self.directory.glob(f"{_SET}/*") if (found := _stat(path)) is not None]
            others = sorted((found.st_mtime, found.st_size, path) for path, found in files if found.st_ino != own)
            taken = sum(size for _, size, _ in others)
            for _, size, path in others:
                if taken + needed <= self.limit_bytes:
                    break
                if _removed(path):
                    taken -= size
            if taken + needed > self.limit_bytes:
                raise CacheFullError(f"{taken:,} of {self.limit_bytes:,} bytes are in use, {needed:,} are needed")
            os.ftruncate(claim, needed)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _is_locked(self) -> bool:
        """Whether somebody has ``_locked`` the cache, as another open file sees it."""
        handle = os.open(self.directory / _LOCK, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False


def _claimed(path: Path) -> int | None:
    """The open ``.part`` file of ``path``, which this process alone may write; None while another has it."""
    part = _part(path)
    part.parent.mkdir(exist_ok=True)
    handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
    keep = False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = _stat(part)
        keep = found is not None and os.path.samestat(found, os.fstat(handle))  # else it has got its name, or gone
        return handle if keep else None
    except BlockingIOError:
        return None
    finally:
        if not keep:
            os.close(handle)


def _removed(path: Path) -> bool:
    """Whether a file could be removed: not if somebody uses or fetches it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat(follow_symlinks=False)
    except OSError:
        return None


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _sha256(handle: int) -> str:
    with open(handle, "rb", closefd=False) as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()
