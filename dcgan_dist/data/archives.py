"""The files in a folder, zip or tar, read one by one at random; nothing is ever extracted under its own name."""

import bz2
import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

MAX_MEMBER_BYTES = 256 * 2**20
"""A file inside a folder or archive that is larger is refused when it is to be read."""
MAX_SPOOL_BYTES = 2**30
"""A compressed tar may always unpack to this much,"""
MAX_SPOOL_RATIO = 200
"""and beyond that to this many times its own size; more is taken for a bomb."""

_TAR_BLOCK = 512
_COPY_BYTES = 2**20
_DECOMPRESSORS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"BZh": bz2.open,
}
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
_ZIP_HEADER = struct.Struct("<4s22xHH")  # of a member: magic, ..., length of the name, length of the extra field


@dataclass(frozen=True)
class Slice:
    """Part of a file on disk: a member of a tar, or a whole file."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it has become shorter.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise ValueError(f"must have {self.size} bytes, has {len(data)}")
        return data


@dataclass(frozen=True)
class ZipSlice:
    """A member of a zip, stored or deflated."""

    path: Path
    offset: int
    """Of the member's local header."""
    stored: int
    """Bytes in the file."""
    size: int
    """Bytes when inflated."""
    crc: int
    deflated: bool

    def read(self) -> bytes:
        """The inflated bytes; never more than the archive's directory declares.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If the member is damaged.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            header = file.read(_ZIP_HEADER.size)
            if len(header) < _ZIP_HEADER.size or not header.startswith(_ZIP_STARTS[0]):
                raise ValueError("has no local header in the zip")
            _, name_bytes, extra_bytes = _ZIP_HEADER.unpack(header)
            file.seek(name_bytes + extra_bytes, os.SEEK_CUR)
            data = file.read(self.stored)
        if self.deflated:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.size + 1)
            except zlib.error as error:
                raise ValueError(f"cannot be inflated: {error}") from None
        if len(data) != self.size:
            raise ValueError(f"the zip declares {self.size} bytes, the member does not have as many")
        if zlib.crc32(data) != self.crc:
            raise ValueError("the checksum in the zip is another")
        return data


@dataclass(frozen=True)
class Member:
    """A regular file of a folder or archive, under its checked name."""

    name: str
    """Relative, with ``/`` between the parts and no ``.`` or ``..`` among them."""
    data: Slice | ZipSlice


def list_members(path: Path, scratch: Path) -> list[Member]:
    """All regular files of a folder, zip, tar or compressed tar (told by its content), sorted by name.

    Args:
        path: The folder or archive.
        scratch: A directory of the caller's; a compressed tar is unpacked once into a file there, in which its
            members are then read, so the directory must outlive them.

    Raises:
        ValueError: If the archive is missing, damaged, cut short, empty or of no known kind, or if a member is a
            link, a device or has a name that could lead outside.
    """
    if path.is_dir():
        found = list(_folder_members(path))
    elif not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    else:
        with path.open("rb") as file:
            start = file.read(_TAR_BLOCK)
        decompress = next((open_ for magic, open_ in _DECOMPRESSORS.items() if start.startswith(magic)), None)
        if decompress is not None:
            spool = scratch / "spool.tar"
            _unpack(path, spool, decompress=decompress)
            found = list(_tar_members(path, spool))
        elif start.startswith(_ZIP_STARTS):
            found = list(_zip_members(path))
        elif start[257:262] == b"ustar":
            found = list(_tar_members(path, path))
        else:
            raise ValueError(f"{path}: must be a folder, a zip, a tar or a tar compressed by gzip, xz or bzip2")
    if not found:
        raise ValueError(f"{path}: is empty")
    return sorted(found, key=lambda member: member.name)


def checked_name(name: str, where: Path) -> str:
    """The member name ``name`` in normal form.

    Raises:
        ValueError: If it is absolute, has a ``..``, a backslash or a NUL in it, or is not UTF-8.
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
    if broken:
        raise ValueError(f"{where}: the member name {name!r} {broken}")
    return "/".join(parts)


def _folder_members(folder: Path) -> Iterator[Member]:
    def fail(error: OSError) -> None:
        raise error

    for parent, directories, files in os.walk(folder, onerror=fail):
        for name in directories:
            if Path(parent, name).is_symlink():
                raise ValueError(f"{Path(parent, name)}: links to folders are not followed; put the folder there")
        for name in files:
            file = Path(parent, name)
            if file.is_file():  # no pipe or device, no link to nowhere
                yield Member(
                    checked_name(file.relative_to(folder).as_posix(), folder), Slice(file, 0, file.stat().st_size)
                )


def _zip_members(path: Path) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error, ValueError) as error:
        raise ValueError(f"{path}: damaged or cut short: {error}") from None
    for entry in entries:
        name = checked_name(entry.orig_filename, path)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if entry.is_dir():
            continue
        if kind not in (0, stat.S_IFREG):
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
                path,
                entry.header_offset,
                stored=entry.compress_size,
                size=entry.file_size,
                crc=entry.CRC,
                deflated=entry.compress_type == zipfile.ZIP_DEFLATED,
            ),
        )


def _tar_members(path: Path, unpacked: Path) -> Iterator[Member]:
    """Members of the tar file ``unpacked``; errors speak of ``path``, what the user gave."""
    try:
        with tarfile.open(unpacked, "r:") as archive:
            entries = archive.getmembers()
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a tar, damaged or cut short: {error}") from None
    end = 0
    for entry in entries:
        name = checked_name(entry.name, path)
        if entry.isreg() and not entry.issparse():
            yield Member(name, Slice(unpacked, entry.offset_data, entry.size))
            end = entry.offset_data + -(-entry.size // _TAR_BLOCK) * _TAR_BLOCK
        elif entry.isdir():
            end = entry.offset_data
        else:
            raise _not_a_file(path, name)
    # tarfile takes a damaged header in the middle for the end; the true end is a block of zeros.
    with unpacked.open("rb") as file:
        file.seek(end)
        if file.read(_TAR_BLOCK) != bytes(_TAR_BLOCK):
            raise ValueError(f"{path}: damaged or cut short behind member {len(entries)}: no header and no end mark")


def _not_a_file(path: Path, name: str) -> ValueError:
    return ValueError(
        f"{path}: the member {name!r} is a link, a device or sparse; only plain files and folders are read"
    )


def _unpack(path: Path, spool: Path, *, decompress: Callable[[Path], Any]) -> None:
    """Write the decompressed content of ``path`` to ``spool``, within the limit of MAX_SPOOL_*."""
    limit = max(MAX_SPOOL_BYTES, MAX_SPOOL_RATIO * path.stat().st_size)
    written = 0
    with decompress(path) as packed, spool.open("wb") as out:
        while chunk := _read_chunk(path, packed):
            written += len(chunk)
            if written > limit:
                raise ValueError(f"{path}: unpacks to more than {limit:,} bytes, {MAX_SPOOL_RATIO} times its size")
            out.write(chunk)


def _read_chunk(path: Path, packed: IO[bytes]) -> bytes:
    try:
        return packed.read(_COPY_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path}: damaged or cut short: {error}") from None
    except OSError as error:
        if error.errno is None:  # how bz2 says that the data are wrong
            raise ValueError(f"{path}: damaged: {error}") from None
        raise
