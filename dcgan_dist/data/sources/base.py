"""What a source is asked and what it answers."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from dcgan_dist.data.members import Member, Slice, ZipSlice, named
from dcgan_dist.data.permute import permutation
from dcgan_dist.data.subset import labels_of
from dcgan_dist.data.transforms import Pixels, Target, decode, fitted
from dcgan_dist.files import sha256_of

LARGE_FILE_BYTES = 16 * 2**20
"""A larger image file counts as a large image, whatever it says of its size."""


class Picture(Protocol):
    """An image that can be made at any size, small enough to send to a worker."""

    def pixels(self, target: Target, *, large: AbstractContextManager[None] | None = None) -> Pixels:
        """(size, size, channels).

        Args:
            target: What it is made into.
            large: Entered while much memory is needed.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is damaged, too large or of no known format.
        """


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image that has to be decoded."""

    data: Slice | ZipSlice

    def pixels(self, target: Target, *, large: AbstractContextManager[None] | None = None) -> Pixels:
        if self.data.size > LARGE_FILE_BYTES and large:
            with large:
                return decode(self.data.read(), target)
        return decode(self.data.read(), target, large=large)


@dataclass(frozen=True, slots=True)
class RawImage:
    """An image stored as its bytes, channel after channel, row after row."""

    data: Slice | ZipSlice
    height: int
    width: int
    channels: int

    def pixels(self, target: Target, *, large: AbstractContextManager[None] | None = None) -> Pixels:
        planes = np.frombuffer(self.data.read(), np.uint8).reshape(self.channels, self.height, self.width)
        return fitted(np.ascontiguousarray(planes.transpose(1, 2, 0)), target)


@dataclass(frozen=True, slots=True)
class Record:
    """One labelled image of a source."""

    key: str
    """Unique in its set; the name of the image in the shards, with no dot in its last part."""
    label: int
    name: str
    """What the source calls it, for messages."""
    image: Picture
    content: str = ""
    """sha256 of the file it is read from (the archive's, if it is in one): with the key, what it looks like."""


@dataclass(frozen=True)
class SourceFile:
    """A file or folder that was read."""

    name: str
    bytes: int
    sha256: str
    """Of the file; for a folder, of its list of images as ``sha256sum`` writes it, sorted by name."""
    known: str = ""
    """Whether it is what its authors published, as far as we know their checksums."""


@dataclass(frozen=True)
class SourceSet:
    """Everything a source has."""

    records: Sequence[Record]
    classes: tuple[str, ...]
    files: tuple[SourceFile, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences the user should see: what was ignored, what is missing."""


@dataclass(frozen=True)
class Request:
    """What the user asked of a source."""

    inputs: tuple[Path, ...]
    """Files and folders, in the order given."""
    values: Mapping[str, int | str]
    """The source's own ``options``."""
    scratch: Path
    """A directory for temporary files, which outlives the records."""

    def number(self, name: str) -> int:
        """The value of an option that is a whole number."""
        return int(self.values[name])

    def text(self, name: str, default: str = "") -> str:
        """The value of an option that is text."""
        return str(self.values.get(name, default))


@dataclass(frozen=True)
class Option:
    """An option of one source: a whole number, or text."""

    default: int | str
    help: str
    choices: tuple[str, ...] = ()
    """What the text may be; anything when empty."""


@dataclass(frozen=True)
class Source:
    """A row of SOURCES, from which dcgan-shard makes a subcommand."""

    open: Callable[[Request], SourceSet]
    help: str
    example: str
    """Arguments of a command that works."""
    inputs: str
    """Help text of the files that are its arguments; empty for none."""
    options: Mapping[str, Option]
    decodes: bool
    """Whether its images can be damaged or of any shape, so that cropping, resizing and skipping are of concern."""
    smallest_size: int = 1
    """The least height and width it can give, pixels."""
    grey: bool = False
    """Whether its images are."""


@dataclass(frozen=True)
class Subset:
    """A part of a source that is asked for. In the order of these fields: classes first."""

    only_classes: tuple[str, ...] = ()
    """Empty for all."""
    limit: int = 0
    """Images, drawn at random; 0 for all."""
    subset_seed: int = 0
    """Of that draw."""

    def of(self, found: SourceSet) -> SourceSet:
        """That part; its classes are the chosen ones, in the order of the set, numbered anew.

        Raises:
            ValueError: If a class is unknown.
        """
        records, classes, notes = found.records, found.classes, found.notes
        if self.only_classes:
            chosen = labels_of(self.only_classes, classes, what="--classes")
            number = {label: place for place, label in enumerate(chosen)}
            records = [replace(r, label=number[r.label]) for r in records if r.label in number]
            classes = tuple(classes[label] for label in chosen)
        if self.limit and self.limit >= len(records):
            notes = (*notes, f"--limit {self.limit:,} has no effect: there are {len(records):,} images")
        elif self.limit:
            drawn = permutation(len(records), self.subset_seed)[: self.limit]
            records = [records[place] for place in sorted(drawn.tolist())]
        return replace(found, records=records, classes=classes, notes=notes)


ALL = Subset()
"""The whole source."""


@dataclass(frozen=True)
class Digests:
    """Checksums of a whole file."""

    sha256: str
    md5: str
    """What authors of data sets publish; proves nothing about malice."""


def digests_in(data: bytes) -> Digests:
    """Both checksums of what a file holds."""
    return Digests(hashlib.sha256(data).hexdigest(), hashlib.md5(data, usedforsecurity=False).hexdigest())


def digests_of(path: Path) -> Digests:
    """Both checksums from one reading.

    Raises:
        OSError: If it cannot be read.
    """
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with named(path), path.open("rb") as file:
        while chunk := file.read(2**20):
            sha256.update(chunk)
            md5.update(chunk)
    return Digests(sha256.hexdigest(), md5.hexdigest())


def folder_file(path: Path, members: Sequence[Member]) -> tuple[SourceFile, list[str]]:
    """What is recorded of a folder from which these members are read, and the sha256 of each.

    Raises:
        OSError: If one cannot be read.
    """
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda member: sha256_of(member.data.path), members))
    listing = hashlib.sha256()
    for digest, member in zip(digests, members, strict=True):
        listing.update(f"{digest}  {member.name}\n".encode())
    size = sum(member.data.size for member in members)
    return SourceFile(path.resolve().name, size, listing.hexdigest()), digests


def check_member_sizes(where: Path, members: Sequence[Member]) -> None:
    """Raise ValueError if an image file is too large to be read."""
    for member in members:
        member.check_size(where)


def counted(count: int, thing: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count:,} {thing}" + "s" * (count != 1)
