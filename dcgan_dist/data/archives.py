"""The files in a folder, zip or tar, read one by one at random; nothing is ever extracted under its own name."""

import bz2
import errno
import gzip
import lzma
import os
import stat
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.members import (
    ZIP_DEFLATED,
    ZIP_MEMBER_START,
    ZIP_STORED,
    Members,
    Slice,
    ZipSlice,
    checked_name,
    named,
    sorted_members,
)

MAX_SPOOL_BYTES = 2**30
"""A compressed file may always unpack to this much,"""
MAX_SPOOL_RATIO = 200
"""and beyond that to this many times its own size; more is taken for a bomb."""
MAX_MEMBERS = 4_000_000
"""An archive that lists more is refused before they fill the memory."""
MAX_HEADER_BYTES = 4 * 2**20
"""What may stand in a tar in front of one member (long names, PAX records), or for the whole of it (global records)."""
MAX_XZ_MEMORY = 256 * 2**20
"""What a decoder may take; xz -9 needs 65 MiB."""

_TAR_BLOCK = 512
_COPY_BYTES = 2**20
_ZIP_END_START = b"PK\x05\x06"
_ZIP_ENTRY = struct.Struct("<4s4xHH4xIIIHHH4xII")
"""In the directory: magic, flags, method, crc, bytes stored and inflated, lengths of name, extra field and comment,
attributes, offset."""
_ZIP_END = struct.Struct("<12xII2x")  # length and offset of the directory
_ZIP64_END = struct.Struct("<4s36xQQ4s16x")  # the same, between two magics: of the record, and of what points to it
_ZIP64_EXTRA = 1
_ZIP_UTF8 = 1 << 11
_MAX_NAMES_CHARACTERS = 128 * MAX_MEMBERS  # of all members of an archive together
_PARSER_ERRORS = (
    ValueError,
    ArithmeticError,
    LookupError,
    EOFError,
    RecursionError,
    TypeError,
    AttributeError,
    struct.error,
)
"""What tarfile lets through when it meets nonsense."""


@dataclass(frozen=True)
class Listing:
    """What a folder or archive holds."""

    members: Members
    odd: tuple[str, ...] = ()
    """Names of what is in a folder and cannot be read: pipes, devices, links to nowhere."""


def list_archive(path: Path, plain: Path) -> Listing:
    """All regular files of a zip or tar.

    Args:
        path: What the user gave, for messages.
        plain: ``unpacked(path, ...)``, in which the members are read.

    Raises:
        ValueError: If the archive is damaged, cut short, empty or of no known kind, or if a member is a link, a
            device or has a name that could lead outside.
        OSError: If it cannot be read.
    """
    if kind(plain) == "zip":
        found = sorted_members(_zip_members(path, plain), lambda _, row: ZipSlice(plain, *row))
    elif kind(plain) == "tar" or plain != path:
        found = sorted_members(_tar_members(path, plain), lambda _, row: Slice(plain, *row))
    else:
        raise ValueError(f"{path}: must be a folder, a zip, a tar or a tar compressed by gzip, xz or bzip2")
    if not found:
        raise ValueError(f"{path}: is empty")
    return Listing(found)


def list_folder(folder: Path) -> Listing:
    """All regular files below a folder; links to files count as files.

    Raises:
        ValueError: If there is none, or a link to a folder.
        OSError: If a folder cannot be read.
    """
    odd: list[str] = []
    found = sorted_members(_folder_members(folder, odd), lambda name, row: Slice(folder / name, *row))
    if not found:
        raise ValueError(f"{folder}: is empty")
    return Listing(found, tuple(sorted(odd)))


def _folder_members(folder: Path, odd: list[str]) -> Iterator[tuple[str, tuple[int]]]:
    """Name and size of each regular file; names of what is none join ``odd``."""

    def fail(error: OSError) -> None:
        raise error

    for parent, directories, files in os.walk(folder, onerror=fail):
        for name in directories:
            if Path(parent, name).is_symlink():
                raise ValueError(f"{Path(parent, name)}: links to folders are not followed; put the folder there")
        for name in files:
            file = Path(parent, name)
            inner = checked_name(file.relative_to(folder).as_posix(), folder)
            if file.is_file():
                yield inner, (file.stat().st_size,)
            else:
                odd.append(inner)


def check_exists(path: Path) -> None:
    """Raise ValueError unless ``path`` is a file or folder, the only things that are opened."""
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    if not path.is_dir() and not path.is_file():
        raise ValueError(f"{path}: must be a file or a folder, is a pipe or a device")


def kind(path: Path) -> str:
    """``zip``, ``tar`` or, for any other file, nothing."""
    with named(path), path.open("rb") as file:
        start = file.read(_TAR_BLOCK)
    if start.startswith((ZIP_MEMBER_START, _ZIP_END_START)):
        return "zip"
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return "tar" if start[257:262] == b"ustar" else ""  # damaged, but what it was meant for is plain
    return "tar"


def unpacked(path: Path, scratch: Path) -> Path:
    """``path``; if its content is compressed (gzip, xz, bzip2), a new file in ``scratch`` with what is in it.

    Raises:
        ValueError: If it is damaged or unpacks to more than MAX_SPOOL_* allow.
        OSError: If it cannot be read.
    """
    with named(path), path.open("rb") as file:
        start = file.read(6)
        chunks = next((read for magic, read in _DECOMPRESSORS.items() if start.startswith(magic)), None)
        if chunks is None:
            return path
        file.seek(0)
        limit = max(MAX_SPOOL_BYTES, MAX_SPOOL_RATIO * path.stat().st_size)
        written = 0
        handle, spool = tempfile.mkstemp(dir=scratch)
        with os.fdopen(handle, "wb") as out:
            for chunk in _checked_chunks(path, chunks(file)):
                written += len(chunk)
                if written > limit:
                    raise ValueError(f"{path}: unpacks to more than {limit:,} bytes, {MAX_SPOOL_RATIO} times its size")
                with named(Path(spool)):
                    out.write(chunk)
    return Path(spool)


def _checked_chunks(path: Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks; what decompressors raise becomes one kind of error."""
    try:
        yield from chunks
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DamagedError(f"{path}: damaged or cut short: {error}") from None
    except OSError as error:
        if error.errno is None:  # how bz2 says that the data are wrong
            raise DamagedError(f"{path}: damaged: {error}") from None
        raise


def _gzip_chunks(file: BinaryIO) -> Iterator[bytes]:
    with gzip.open(file) as content:
        while chunk := content.read(_COPY_BYTES):
            yield chunk


def _bzip2_chunks(file: BinaryIO) -> Iterator[bytes]:
    with bz2.open(file) as content:
        while chunk := content.read(_COPY_BYTES):
            yield chunk


def _xz_chunks(file: BinaryIO) -> Iterator[bytes]:
    """As lzma.open would, which has no limit of memory."""
    data = file.read(_COPY_BYTES)
    while data:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY)
        while not decoder.eof:
            yield decoder.decompress(data, _COPY_BYTES)
            data = b""
            if decoder.needs_input and not decoder.eof:
                data = file.read(_COPY_BYTES)
                if not data:
                    raise EOFError("the compressed data end too early")
        data = (decoder.unused_data or file.read(_COPY_BYTES)).lstrip(b"\0")  # between streams, zeros may stand


_DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], Iterator[bytes]]] = {
    b"\x1f\x8b": _gzip_chunks,
    b"\xfd7zXZ\x00": _xz_chunks,
    b"BZh": _bzip2_chunks,
}


class _Guarded:
    """A file for a parser of archives, that hands out metadata with measure."""

    def __init__(self, file: IO[bytes], path: Path, *, budget: int) -> None:
        self._file = file
        self._path = path
        self.budget = budget
        """Bytes that may be read until somebody fills it up again."""
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.name, self.mode = str(path), "rb"

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        if size > self.budget:
            raise ValueError(f"{size:,} bytes of metadata in one place are more than is believed")
        data = self._file.read(self.budget if size < 0 else size)
        self.budget -= len(data)
        return data


def _zip_members(path: Path, plain: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names in the zip file ``plain`` and what ZipSlice needs; errors speak of ``path``, what the user gave.

    Python's zipfile takes ten times the memory for each.
    """
    total = plain.stat().st_size
    count = characters = 0
    with named(path), plain.open("rb") as file:
        start, end, shift = _zip_directory(file, path, total)
        file.seek(start)
        while file.tell() < end:
            header = file.read(_ZIP_ENTRY.size)
            if len(header) < _ZIP_ENTRY.size or not header.startswith(b"PK\x01\x02"):
                raise DamagedError(f"{path}: damaged or cut short: member {count + 1} is not in its directory")
            _, flags, method, crc, stored, size, *lengths, attributes, offset = _ZIP_ENTRY.unpack(header)
            encoded, extra, _ = map(file.read, lengths)
            if file.tell() > end:
                raise DamagedError(f"{path}: damaged or cut short: member {count + 1} ends outside of its directory")
            count, characters = count + 1, characters + len(encoded)
            _check_amount(path, count, characters)
            decoded = encoded.decode("utf-8" if flags & _ZIP_UTF8 else "cp437", "surrogateescape")
            name = checked_name(decoded, path)
            if decoded.endswith("/"):
                continue
            size, stored, offset = _zip_numbers(extra, [size, stored, offset])
            if not 0 <= offset + shift < total:
                raise DamagedError(f"{path}: damaged: the member {name!r} lies outside of it")
            if stat.S_IFMT(attributes >> 16) not in (0, stat.S_IFREG):
                raise _not_a_file(path, name)
            if flags & 1:
                raise ValueError(f"{path}: the member {name!r} is encrypted")
            if method not in (ZIP_STORED, ZIP_DEFLATED):
                raise ValueError(f"{path}: the member {name!r} must be stored or deflated, not method {method}")
            yield name, (size, offset + shift, stored, crc, method == ZIP_DEFLATED)


def _zip_directory(file: BinaryIO, path: Path, total: int) -> tuple[int, int, int]:
    """Where a zip's directory begins and ends, and what to add to offsets in it, if something stands before the zip."""
    first = max(0, total - _ZIP_END.size - 0xFFFF)
    file.seek(first)
    tail = file.read()
    place = tail.rfind(_ZIP_END_START)
    if place < 0 or len(tail) < place + _ZIP_END.size:
        raise DamagedError(f"{path}: damaged or cut short: a zip must end in its directory")
    length, offset = _ZIP_END.unpack_from(tail, place)
    end = first + place
    if end >= _ZIP64_END.size:
        file.seek(end - _ZIP64_END.size)
        start, wide_length, wide_offset, locator = _ZIP64_END.unpack(file.read(_ZIP64_END.size))
        if (start, locator) == (b"PK\x06\x06", b"PK\x06\x07"):
            length, offset, end = wide_length, wide_offset, end - _ZIP64_END.size
    shift = end - length - offset
    if shift < 0:
        raise DamagedError(f"{path}: damaged or cut short: its directory lies outside of it")
    return end - length, end, shift


def _zip_numbers(extra: bytes, numbers: list[int]) -> list[int]:
    """Sizes and offset of a member; those that 32 bits cannot hold stand in its extra field."""
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, place)
        if kind == _ZIP64_EXTRA:
            wide = extra[place + 4 : place + 4 + length]
            values = iter([int.from_bytes(wide[at : at + 8], "little") for at in range(0, len(wide) - 7, 8)])
            return [next(values, number) if number == 0xFFFFFFFF else number for number in numbers]
        place += 4 + length
    return numbers


def _tar_members(path: Path, plain: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name, size and offset of each file in the tar ``plain``; errors speak of ``path``, what the user gave."""
    count = end = characters = 0
    total = plain.stat().st_size
    for entry in _tar_entries(path, plain):
        count, characters = count + 1, characters + len(entry.name)
        _check_amount(path, count, characters)
        name = checked_name(entry.name, path)
        if entry.isreg() and not entry.issparse():
            if entry.offset_data + entry.size > total:
                raise DamagedError(f"{path}: damaged or cut short: the member {name!r} ends outside of it")
            yield name, (entry.size, entry.offset_data)
            end = entry.offset_data + -(-entry.size // _TAR_BLOCK) * _TAR_BLOCK
        elif entry.isdir():
            end = entry.offset_data
        else:
            raise _not_a_file(path, name)
    # tarfile takes a damaged header in the middle for the end; the true end is a block of zeros.
    with named(path), plain.open("rb") as file:
        file.seek(end)
        if file.read(_TAR_BLOCK) != bytes(_TAR_BLOCK):
            raise DamagedError(f"{path}: damaged or cut short behind member {count}: no header and no end mark")


def _tar_entries(path: Path, plain: Path) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar, one at a time, in bounded memory."""
    with named(path), plain.open("rb") as file:
        guarded = _Guarded(file, path, budget=MAX_HEADER_BYTES)
        last = -1
        try:
            with tarfile.open(fileobj=guarded, mode="r:") as archive:  # type: ignore[call-overload]
                while entry := archive.next():
                    if entry.offset <= last or entry.size < 0:
                        raise ValueError("a header points backwards")
                    if sum(map(len, archive.pax_headers.values())) > MAX_HEADER_BYTES:
                        raise ValueError("too many global records")
                    last = entry.offset
                    yield entry
                    archive.members.clear()
                    guarded.budget = MAX_HEADER_BYTES
        except (*_PARSER_ERRORS, tarfile.TarError) as error:
            raise DamagedError(f"{path}: not a tar, damaged or cut short: {error}") from None
        except OSError as error:
            raise _not_a_disk_error(error, path) from None


def _check_amount(path: Path, count: int, characters: int) -> None:
    """Raise ValueError at too many members."""
    if count > MAX_MEMBERS or characters > _MAX_NAMES_CHARACTERS:
        raise ValueError(f"{path}: more than {MAX_MEMBERS:,} members, or too long names, are refused")


def _not_a_disk_error(error: OSError, path: Path) -> Exception:
    """A seek to nowhere, which a damaged archive asks for, as damage; any other error as it is."""
    if error.errno == errno.EINVAL:
        return DamagedError(f"{path}: damaged: it points outside of itself")
    return error


def _not_a_file(path: Path, name: str) -> ValueError:
    return ValueError(
        f"{path}: the member {name!r} is a link, a device or sparse; only plain files and folders are read"
    )
