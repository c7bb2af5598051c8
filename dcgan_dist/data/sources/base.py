"""What a source is asked and what it answers."""

import hashlib
import itertools
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.members import Members, Slice, ZipSlice, named
from dcgan_dist.data.permute import permutation
from dcgan_dist.data.subset import labels_of
from dcgan_dist.data.transforms import Pixels, Target, decode, fitted
from dcgan_dist.files import sha256_of

LARGE_FILE_BYTES = 16 * 2**20
"""A larger image file counts as a large image, whatever it says of its size."""
_DIGEST = np.dtype("V32")  # a sha256
_FILES_AT_ONCE = 1024  # whose digests may wait


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
class Records(Sequence[Record]):
    """Records that are made whenever they are asked for, because a million of them would fill the memory."""

    length: int
    make: Callable[[int], Record]
    """From a place, 0 to ``length`` - 1."""

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> list[Record]: ...
    def __getitem__(self, place: int | slice) -> Record | list[Record]:
        if isinstance(place, slice):
            return [self.make(each) for each in range(self.length)[place]]
        return self.make(range(self.length)[place])


def chained(parts: Sequence[Sequence[Record]]) -> Records:
    """The records of all parts, one part after the other."""
    starts = [0, *itertools.accumulate(map(len, parts))]

    def make(place: int) -> Record:
        part = bisect(starts, place) - 1
        return parts[part][place - starts[part]]

    return Records(starts[-1], make)


def taken(records: Sequence[Record], places: NDArray[np.int64]) -> Records:
    """The records at these places, in their order."""
    return Records(len(places), lambda place: records[int(places[place])])


def changed(records: Sequence[Record], change: Callable[[Record], Record]) -> Records:
    """Every record, changed."""
    return Records(len(records), lambda place: change(records[place]))


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
            ValueError: If a class is unknown or the seed out of range.
        """
        records, classes, notes = found.records, found.classes, found.notes
        if not 0 <= self.subset_seed < 2**64:
            raise ValueError(f"--subset-seed must be at least 0 and below 2**64, got {self.subset_seed}")
        if self.only_classes:
            chosen = labels_of(self.only_classes, classes, what="--classes")
            number = {label: place for place, label in enumerate(chosen)}
            places = np.fromiter((place for place, r in enumerate(records) if r.label in number), np.int64)
            records = changed(taken(records, places), lambda record: replace(record, label=number[record.label]))
            classes = tuple(classes[label] for label in chosen)
        if self.limit and self.limit >= len(records):
            notes = (*notes, f"--limit {self.limit:,} has no effect: there are {len(records):,} images")
        elif self.limit:
            records = taken(records, np.sort(permutation(len(records), self.subset_seed)[: self.limit]))
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


def folder_file(path: Path, members: Members) -> tuple[SourceFile, NDArray[np.void]]:
    """What is recorded of a folder from which these members are read, and the sha256 of each, (members,) of 32 bytes.

    Raises:
        OSError: If one cannot be read.
    """
    digests = np.empty(len(members), _DIGEST)
    listing = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(members), _FILES_AT_ONCE):
            some = members[first : first + _FILES_AT_ONCE]
            for place, digest in enumerate(pool.map(lambda member: sha256_of(member.data.path), some), first):
                digests[place] = np.void(bytes.fromhex(digest))
                listing.update(f"{digest}  {members.names[place]}\n".encode())
    return SourceFile(path.resolve().name, int(members.sizes.sum()), listing.hexdigest()), digests


def same_content(digests: Digests, count: int) -> NDArray[np.void]:
    """The sha256 of an archive for each of ``count`` files in it, (count,) of 32 bytes."""
    return np.broadcast_to(np.void(bytes.fromhex(digests.sha256)), (count,))


def image_records(
    images: Members, *, keys: Sequence[str], labels: NDArray[np.int64], contents: NDArray[np.void], prefix: str = ""
) -> Records:
    """Records of image files.

    Args:
        images: The files.
        keys: One for each.
        labels: (images,).
        contents: (images,), the sha256 of the files they are read from.
        prefix: Of the names.
    """

    def make(place: int) -> Record:
        member = images[place]
        label, content = int(labels[place]), contents[place].tobytes().hex()
        return Record(keys[place], label, prefix + member.name, ImageFile(member.data), content)

    return Records(len(images), make)


def check_member_sizes(where: Path, members: Members) -> None:
    """Raise ValueError if an image file is too large to be read."""
    if len(members):
        members[int(members.sizes.argmax())].check_size(where)
