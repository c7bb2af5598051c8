"""Files inside folders and archives: what they are called, where their bytes are, how they are read."""

import contextlib
import os
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import overload

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.errors import DamagedError

MAX_MEMBER_BYTES = 256 * 2**20
"""A file inside a folder or archive that is larger is refused when it is to be read."""
MAX_NAME_CHARACTERS = 1024
"""A longer member name is refused."""
ZIP_MEMBER_START = b"PK\x03\x04"
ZIP_STORED, ZIP_DEFLATED = 0, 8
"""Methods of compression."""
_SLACK_BYTES = 2**16
_ZIP_HEADER = struct.Struct("<4s22xHH")  # of a member: magic, ..., length of the name, length of the extra field


@dataclass(frozen=True, slots=True)
class Slice:
    """Part of a file on disk: a member of a tar, or a whole file."""

    path: Path
    size: int
    offset: int = 0

    def read(self) -> bytes:
        """The bytes.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it has become shorter.
        """
        with named(self.path), self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise DamagedError(f"must have {self.size} bytes, has {len(data)}")
        return data


@dataclass(frozen=True, slots=True)
class ZipSlice:
    """A member of a zip, stored or deflated."""

    path: Path
    size: int
    """Bytes when inflated."""
    offset: int
    """Of the member's local header."""
    stored: int
    """Bytes in the file."""
    crc: int
    deflated: int
    """0 or 1."""

    def read(self) -> bytes:
        """The inflated bytes; never more than the archive's directory declares.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If the member is damaged.
        """
        with named(self.path), self.path.open("rb") as file:
            file.seek(self.offset)
            header = file.read(_ZIP_HEADER.size)
            if len(header) < _ZIP_HEADER.size or not header.startswith(ZIP_MEMBER_START):
                raise DamagedError("has no local header in the zip")
            _, name_bytes, extra_bytes = _ZIP_HEADER.unpack(header)
            file.seek(name_bytes + extra_bytes, os.SEEK_CUR)
            data = file.read(min(self.stored, 2 * self.size + _SLACK_BYTES))  # deflate never doubles anything
        if self.deflated:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.size + 1)
            except zlib.error as error:
                raise DamagedError(f"cannot be inflated: {error}") from None
        if len(data) != self.size:
            raise DamagedError(f"the zip declares {self.size} bytes, the member does not have as many")
        if zlib.crc32(data) != self.crc:
            raise DamagedError("the checksum in the zip is another")
        return data


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of a folder or archive, under its checked name."""

    name: str
    """Relative, with ``/`` between the parts and no ``.`` or ``..`` among them."""
    data: Slice | ZipSlice

    def read(self, where: Path) -> bytes:
        """The bytes of a file that belongs to the set, a table of labels for example.

        Args:
            where: The folder or archive, for messages.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is damaged or larger than MAX_MEMBER_BYTES.
        """
        self.check_size(where)
        try:
            return self.data.read()
        except ValueError as error:
            raise DamagedError(f"{where}: {self.name!r} {error}") from None

    def check_size(self, where: Path) -> None:
        """Raise ValueError if the file is too large to be read at once."""
        if self.data.size > MAX_MEMBER_BYTES:
            raise ValueError(f"{where}: {self.name!r} has {self.data.size:,} bytes, more than {MAX_MEMBER_BYTES:,}")


Locate = Callable[[str, list[int]], Slice | ZipSlice]
"""From a member's name and the numbers kept of it, of which the first is its size, to where its bytes are."""


class Members(Sequence[Member]):
    """The regular files of a folder or archive, by name: some numbers of each, since there may be millions."""

    def __init__(self, names: Sequence[str], numbers: NDArray[np.uint64], locate: Locate) -> None:
        self.names = names
        self.sizes = numbers[:, 0]
        """(files,), bytes."""
        self._numbers = numbers  # (files, as many as ``locate`` needs)
        self._locate = locate

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, place: int) -> Member: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Member]: ...
    def __getitem__(self, place: int | slice) -> Member | Sequence[Member]:
        if isinstance(place, slice):
            return Members(self.names[place], self._numbers[place], self._locate)
        name = self.names[place]
        return Member(name, self._locate(name, self._numbers[place].tolist()))

    def where(self, wanted: Callable[[str], bool]) -> "Members":
        """Those with such names."""
        return self.at([place for place, name in enumerate(self.names) if wanted(name)])

    def at(self, places: Sequence[int]) -> "Members":
        """Those at these places, in this order."""
        numbers = self._numbers[np.asarray(places, np.int64)]
        return Members([self.names[place] for place in places], numbers, self._locate)


def sorted_members(found: Iterable[tuple[str, tuple[int, ...]]], locate: Locate) -> Members:
    """Names and numbers as Members, by name; what has the same name stays in its order."""
    names: list[str] = []
    numbers = array("Q")
    for name, row in found:
        names.append(name)
        numbers.extend(row)
    order = np.argsort(np.array(names, object), kind="stable")
    table = np.array(numbers, np.uint64).reshape(len(names), -1 if names else 1)
    return Members([names[old] for old in order], table[order], locate)


def checked_name(name: str, where: Path) -> str:
    """The member name ``name`` in normal form.

    Raises:
        ValueError: If it is absolute, has a ``..``, a backslash or a NUL in it, is too long or not UTF-8.
    """
    parts = PurePosixPath(name).parts
    broken = None
    if "\0" in name:
        broken = "must not contain a NUL"
    elif "\\" in name:
        broken = "must not contain a backslash"
    elif name.startswith("/") or (len(name) > 1 and name[1] == ":"):
        broken = "must be relative"
    elif ".." in parts:
        broken = "must not contain '..'"
    elif any("\ud800" <= character <= "\udfff" for character in name):
        broken = "must be UTF-8"
    elif len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(
            f"{where}: a member name must have at most {MAX_NAME_CHARACTERS:,} characters, {name[:40]!r}... has "
            f"{len(name):,}"
        )
    if broken:
        raise ValueError(f"{where}: the member name {name!r} {broken}")
    return "/".join(parts)


def printable(text: str) -> str:
    """``text`` for a terminal: control characters and the like as escapes, as Python writes them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Give an OSError in the block the name of the file, if it has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
