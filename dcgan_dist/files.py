"""Files that are whole or absent: written aside, fsynced, renamed. Standard library only."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file, open for writing and reading back, that takes its name when the block ends without an error.

    Until then it is ``.NAME.RANDOM.tmp`` in the same directory, removed on any error or interrupt; a kill leaves it
    behind. Of several processes that write ``path`` each writes its own, and the last one to end has its way.

    Raises:
        OSError: If the directory cannot be written or the disk is full; its ``filename`` is ``path``.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with aside.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(aside)):
            error.filename = str(path)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that after a crash the file is the old one or the new one, never a part.

    Raises:
        OSError: If the directory cannot be written or the disk is full; its ``filename`` is ``path``.
    """
    with whole_file(path) as file:
        file.write(data)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make a file's contents, or the renames in a directory, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
