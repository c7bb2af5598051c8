"""From what the user gave to the files in it: lone files, folders, archives, and folders that hold archives."""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.archives import check_exists, kind, list_archive, list_folder, unpacked
from dcgan_dist.data.members import Member, Members, Slice, sorted_members
from dcgan_dist.data.sources.base import (
    Digests,
    Request,
    SourceFile,
    digests_in,
    digests_of,
    folder_file,
    same_content,
)
from dcgan_dist.words import counted

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
ARCHIVE_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".txz", ".tar.xz", ".tbz", ".tar.bz2", ".zip")
_NAMED = 3


@dataclass(frozen=True)
class Input:
    """A folder, an archive or a lone file, which is its own only member."""

    path: Path
    members: Members
    digests: Digests | None
    """None for a folder."""
    odd: tuple[str, ...] = ()
    lone: bool = False
    """Whether it is a lone file."""

    @property
    def name(self) -> str:
        """Of the file or folder, without where it lies."""
        return self.path.resolve().name

    @property
    def stem(self) -> str:
        """The name without the suffix of an archive."""
        suffix = next((s for s in ARCHIVE_SUFFIXES if self.name.lower().endswith(s)), "")
        return self.name.removesuffix(self.name[len(self.name) - len(suffix) :]) if suffix else self.name

    def recorded(self, used: Members, known: str) -> tuple[SourceFile, NDArray[np.void]]:
        """What is recorded of it, and for each of the members that are used, ``Record.content`` as 32 bytes.

        Raises:
            OSError: If a file cannot be read.
        """
        if self.digests is None:
            file, contents = folder_file(self.path, used)
            return SourceFile(file.name, file.bytes, file.sha256, known), contents
        file = SourceFile(self.name, self.path.stat().st_size, self.digests.sha256, known)
        return file, same_content(self.digests, len(used))


def read_inputs(
    request: Request,
    *,
    core: Callable[[str], bool] = lambda name: True,
    beside: Callable[[str], bool] = lambda name: False,
    archives: str = "",
    lone: bool = False,
) -> list[Input]:
    """Each input of a request.

    A folder of downloads, one that has archives and nothing of what is in them, stands for these archives.

    Args:
        request: Its inputs and scratch directory.
        core: Whether a member's name is that of what the source is about: images, batches.
        beside: Whether it is that of a file that belongs to it: labels.
        archives: Which archives count in a folder of downloads, as a regular expression for the whole name.
        lone: Whether files that are no archives may be given.

    Raises:
        ValueError: If an input is missing, damaged, empty or of no known kind, or given twice.
        OSError: If one cannot be read.
    """
    found: list[Input] = []
    for path in request.inputs:
        check_exists(path)
        if not path.is_dir():
            found.append(_read_file(path, request.scratch, lone=lone))
            continue
        listing = list_folder(path)
        visible = listing.members.where(lambda name: not hidden(name))
        packed = visible.where(
            lambda name: name.lower().endswith(ARCHIVE_SUFFIXES) and bool(re.fullmatch(archives, name))
        )
        if packed and not any(map(core, visible.names)):
            files = [*packed, *visible.where(beside)]
            found += [_read_file(member.data.path, request.scratch, lone=lone) for member in files]
        else:
            found.append(Input(path, listing.members, None, listing.odd))
    paths = Counter(each.path.resolve() for each in found)
    twice = [str(path) for path, times in paths.items() if times > 1]
    if twice:
        raise ValueError(f"{twice[0]}: is given twice")
    return found


def _read_file(path: Path, scratch: Path, *, lone: bool) -> Input:
    plain = unpacked(path, scratch)
    if lone and not kind(plain):
        only = sorted_members([(path.name, (plain.stat().st_size,))], lambda _, row: Slice(plain, *row))
        return Input(path, only, digests_of(path), lone=True)
    return Input(path, list_archive(path, plain).members, digests_of(path))


@dataclass(frozen=True)
class OnDisk:
    """A member as a file of its own, not compressed."""

    shown: Path
    """For messages."""
    plain: Path
    digests: Digests
    """Of the member as it is, compressed or not."""
    bytes: int


def on_disk(given: Input, member: Member, scratch: Path) -> OnDisk:
    """A file with a member's bytes, out of which parts can be read.

    Raises:
        ValueError: If it is damaged or too large.
        OSError: If it cannot be read.
    """
    shown = given.path / member.name
    if given.lone:
        assert given.digests is not None
        assert isinstance(member.data, Slice)
        return OnDisk(given.path, member.data.path, given.digests, given.path.stat().st_size)
    if given.digests is None:
        assert isinstance(member.data, Slice)
        return OnDisk(shown, unpacked(member.data.path, scratch), digests_of(member.data.path), member.data.size)
    data = member.read(given.path)
    return OnDisk(shown, unpacked(spooled(data, scratch), scratch), digests_in(data), len(data))


def spooled(data: bytes, scratch: Path) -> Path:
    """A new file in ``scratch`` with these bytes."""
    handle, path = tempfile.mkstemp(dir=scratch)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return Path(path)


def hidden(name: str) -> bool:
    """Whether a member is a hidden file, or what macOS puts beside files in archives."""
    parts = name.split("/")
    return parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)


def is_image(name: str) -> bool:
    """Whether a member's name ends as an image's."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def ignored(given: Input, used: Callable[[str], bool]) -> tuple[str, ...]:
    """Notes on what an input has and is not read; hidden files do not count.

    Args:
        given: The input.
        used: Whether a file with this name is of use.
    """
    notes = []
    others = sum(not hidden(name) and not used(name) for name in given.members.names)
    if others:
        notes.append(f"ignored {counted(others, 'other file')} in {given.path}")
    odd = [name for name in given.odd if not hidden(name)]
    if odd:
        shown = ", ".join(odd[:_NAMED]) + ", ..." * (len(odd) > _NAMED)
        notes.append(f"ignored in {given.path}, being a pipe, a device or a link to nowhere: {shown}")
    return tuple(notes)
