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
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.members import ZIP_MEMBER_START, Member, Slice, ZipSlice, checked_name, named

MAX_SPOOL_BYTES = 2**30
"""A compressed file may always unpack to this much,"""
MAX_SPOOL_RATIO = 200
"""and beyond that to this many times its own size; more is taken for a bomb."""
MAX_MEMBERS = 4_000_000
"""An archive that lists more is refused before they fill the memory."""
MAX_HEADER_BYTES = 4 * 2**20
"""What may stand in a tar in front of one member (long names, PAX records), or for the whole of it (global records)."""
MAX_ZIP_DIRECTORY_BYTES = 512 * 2**20
MAX_XZ_MEMORY = 256 * 2**20
"""What a decoder may take; xz -9 needs 65 MiB."""

_TAR_BLOCK = 512
_COPY_BYTES = 2**20
_ZIP_STARTS = (ZIP_MEMBER_START, b"PK\x05\x06")
_ZIP_ENTRY = b"PK\x01\x02"
_MAX_NAMES_CHARACTERS = 128 * MAX_MEMBERS  # of all members of an archive together
_PARSER_ERRORS = (
    ValueError,
    ArithmeticError,
    LookupError,
    EOFError,
    NotImplementedError,
    RecursionError,
    TypeError,
    AttributeError,
    struct.error,
)
"""What tarfile and zipfile let through when they meet nonsense."""


@dataclass(frozen=True)
class Listing:
    """What a folder or archive holds."""

    members: list[Member]
    """Sorted by name."""
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
        found = list(_zip_members(path, plain))
    elif kind(plain) == "tar" or plain != path:
        found = list(_tar_members(path, plain))
    else:
        raise ValueError(f"{path}: must be a folder, a zip, a tar or a tar compressed by gzip, xz or bzip2")
    if not found:
        raise ValueError(f"{path}: is empty")
    return Listing(sorted(found, key=lambda member: member.name))


def list_folder(folder: Path) -> Listing:
    """All regular files below a folder; links to files count as files.

    Raises:
        ValueError: If there is none, or a link to a folder.
        OSError: If a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    found, odd = [], []
    for parent, directories, files in os.walk(folder, onerror=fail):
        for name in directories:
            if Path(parent, name).is_symlink():
                raise ValueError(f"{Path(parent, name)}: links to folders are not followed; put the folder there")
        for name in files:
            file = Path(parent, name)
            inner = checked_name(file.relative_to(folder).as_posix(), folder)
            if file.is_file():
                found.append(Member(inner, Slice(file, 0, file.stat().st_size)))
            else:
                odd.append(inner)
    if not found:
        raise ValueError(f"{folder}: is empty")
    return Listing(sorted(found, key=lambda member: member.name), tuple(sorted(odd)))


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
    if start.startswith(_ZIP_STARTS):
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


class _GuardedZip(_Guarded):
    """The same, that counts the members of a zip in its directory, before it is parsed."""

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        data = super().read(size)
        if data.count(_ZIP_ENTRY) > MAX_MEMBERS:
            raise ValueError(f"more than {MAX_MEMBERS:,} members are refused")
        return data


def _zip_members(path: Path, plain: Path) -> Iterator[Member]:
    """Members of the zip file ``plain``; errors speak of ``path``, what the user gave."""
    with named(path), plain.open("rb") as file:
        guarded = _GuardedZip(file, path, budget=MAX_ZIP_DIRECTORY_BYTES)
        try:
            with zipfile.ZipFile(guarded) as archive:
                entries: list[zipfile.ZipInfo] = archive.infolist()
        except (*_PARSER_ERRORS, zipfile.BadZipFile) as error:
            raise DamagedError(f"{path}: damaged or cut short: {error}") from None
        except OSError as error:
            raise _not_a_disk_error(error, path) from None
    size = plain.stat().st_size
    for entry in entries:
        name = checked_name(entry.orig_filename, path)
        file_kind = stat.S_IFMT(entry.external_attr >> 16)
        if entry.is_dir():
            continue
        if not 0 <= entry.header_offset < size:
            raise DamagedError(f"{path}: damaged: the member {name!r} lies outside of it")
        if file_kind not in (0, stat.S_IFREG):
            raise _not_a_file(path, name)
        if entry.flag_bits & 1:
            raise ValueError(f"{path}: the member {name!r} is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"{path}: the member {name!r} must be stored or deflated, not method {entry.compress_type}"
            )
        yield Member(
            name,
            ZipSlice(
                plain,
                entry.header_offset,
                stored=entry.compress_size,
                size=entry.file_size,
                crc=entry.CRC,
                deflated=entry.compress_type == zipfile.ZIP_DEFLATED,
            ),
        )


def _tar_members(path: Path, plain: Path) -> Iterator[Member]:
    """Members of the tar file ``plain``; errors speak of ``path``, what the user gave."""
    count = end = characters = 0
    for entry in _tar_entries(path, plain):
        count, characters = count + 1, characters + len(entry.name)
        if count > MAX_MEMBERS or characters > _MAX_NAMES_CHARACTERS:
            raise ValueError(f"{path}: more than {MAX_MEMBERS:,} members, or too long names, are refused")
        name = checked_name(entry.name, path)
        if entry.isreg() and not entry.issparse():
            yield Member(name, Slice(plain, entry.offset_data, entry.size))
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


def _not_a_disk_error(error: OSError, path: Path) -> Exception:
    """A seek to nowhere, which a damaged archive asks for, as damage; any other error as it is."""
    if error.errno == errno.EINVAL:
        return DamagedError(f"{path}: damaged: it points outside of itself")
    return error


def _not_a_file(path: Path, name: str) -> ValueError:
    return ValueError(
        f"{path}: the member {name!r} is a link, a device or sparse; only plain files and folders are read"
    )
