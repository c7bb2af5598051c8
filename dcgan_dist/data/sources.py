"""Original data sets, as their authors publish them, as lists of records that can be read independently.

To add one: a function from a Request to a SourceSet, a row in SOURCES, a tiny fixture for its test.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dcgan_dist.data import synthetic
from dcgan_dist.data.archives import MAX_MEMBER_BYTES, Member, Slice, ZipSlice, list_members
from dcgan_dist.data.transforms import Pixels, Target, decode, with_channels
from dcgan_dist.files import sha256_of

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")

FLOWERS17_CLASSES = (
    "daffodil",
    "snowdrop",
    "lily of the valley",
    "bluebell",
    "crocus",
    "iris",
    "tiger lily",
    "tulip",
    "fritillary",
    "sunflower",
    "daisy",
    "colt's foot",
    "dandelion",
    "cowslip",
    "buttercup",
    "windflower",
    "pansy",
)
FLOWERS17_PER_CLASS = 80


@dataclass(frozen=True)
class ImageFile:
    """An image that has to be decoded."""

    data: Slice | ZipSlice

    def pixels(self, target: Target) -> Pixels:
        """(size, size, channels).

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is damaged, too large or of no known format.
        """
        return decode(self.data.read(), target)


@dataclass(frozen=True)
class Drawing:
    """An image of the synthetic flowers, drawn at the size that is asked for."""

    index: int
    seed: int

    def pixels(self, target: Target) -> Pixels:
        """(size, size, channels)."""
        image, _ = synthetic.draw_flower(self.index, seed=self.seed, size=target.size)
        return with_channels(image, target.channels)


@dataclass(frozen=True)
class Record:
    """One labelled image of a source, small enough to send to a worker."""

    key: str
    """Unique in its set; the name of the image in the shards, with no dot in its last part."""
    label: int
    name: str
    """What the source calls it, for messages."""
    image: ImageFile | Drawing


@dataclass(frozen=True)
class SourceFile:
    """A file or folder that was read."""

    name: str
    bytes: int
    sha256: str
    """Of the file; for a folder, of its list of images as ``sha256sum`` writes it, sorted by name."""


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
    """As many as the source has ``inputs``."""
    values: Mapping[str, int]
    """The source's own ``options``."""
    scratch: Path
    """A directory for temporary files, which outlives the records."""


@dataclass(frozen=True)
class Source:
    """A row of SOURCES, from which dcgan-shard makes a subcommand."""

    open: Callable[[Request], SourceSet]
    help: str
    example: str
    """Arguments of a command that works."""
    inputs: Mapping[str, str]
    """Positional arguments: name to help text."""
    options: Mapping[str, tuple[int, str]]
    """Whole-number options of its own: name to default and help text."""
    decodes: bool
    """Whether its images are files, so that cropping, resizing and damage are of concern."""
    smallest_size: int = 1
    """The least height and width it can give, pixels."""


def flowers17(request: Request) -> SourceSet:
    """Oxford Flowers-17 (Nilsback and Zisserman 2006): jpg/image_0001.jpg ... image_1360.jpg, 80 to a class in turn.

    Raises:
        ValueError: If the archive cannot be read, has no image or one with a number out of range.
    """
    (path,) = request.inputs
    images, notes = _images_in(path, request.scratch)
    total = FLOWERS17_PER_CLASS * len(FLOWERS17_CLASSES)
    records = []
    for member in images:
        match = re.fullmatch(r"(?:.*/)?image_(\d{4})\.jpg", member.name)
        number = int(match[1]) if match else 0
        if not 1 <= number <= total:
            raise ValueError(f"{path}: images must be image_0001.jpg to image_{total}.jpg, got {member.name!r}")
        records.append(_file_record(member, label=(number - 1) // FLOWERS17_PER_CLASS))
    if len(records) < total:
        notes = (*notes, f"{path.name} has {len(records):,} of the {total:,} images of Flowers-17")
    return SourceSet(_unique(records, path), FLOWERS17_CLASSES, (_source_file(path, images),), notes)


def folder(request: Request) -> SourceSet:
    """Any folder, tar or zip of images; the class is the first folder that not all images share.

    Raises:
        ValueError: If it cannot be read, has no image, or has images beside class folders.
    """
    (path,) = request.inputs
    images, notes = _images_in(path, request.scratch)
    folders = [PurePosixPath(member.name).parts[:-1] for member in images]
    while min(map(len, folders)) > 1 and len({parts[0] for parts in folders}) == 1:
        folders = [parts[1:] for parts in folders]
    lone = next((member.name for member, parts in zip(images, folders, strict=True) if not parts), None)
    if lone is not None and any(folders):
        raise ValueError(f"{path}: every image must be in a class folder, or none; {lone!r} is beside folders")
    names = [parts[0] if parts else "all" for parts in folders]
    classes = sorted(set(names))
    label_of = {name: label for label, name in enumerate(classes)}
    records = [_file_record(member, label=label_of[name]) for member, name in zip(images, names, strict=True)]
    return SourceSet(_unique(records, path), tuple(classes), (_source_file(path, images),), notes)


def synthetic_flowers(request: Request) -> SourceSet:
    """``count`` flowers drawn by a program, labelled with their mode.

    Raises:
        ValueError: If ``count`` is not positive or ``seed`` is out of range.
    """
    count, seed = request.values["count"], request.values["seed"]
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    names = [f"synthetic-{index:06d}" for index in range(count)]
    records = [
        Record(name, synthetic.mode_of(index, seed=seed), name, Drawing(index, seed))
        for index, name in enumerate(names)
    ]
    return SourceSet(records, tuple(mode.name for mode in synthetic.MODES))


SOURCES: dict[str, Source] = {
    "flowers17": Source(
        flowers17,
        help="Oxford Flowers-17: 1,360 photographs, 17 classes",
        example="17flowers.tgz --out shards/flowers17-32 --size 32",
        inputs={"archive": "17flowers.tgz as the authors publish it, or with fewer images"},
        options={},
        decodes=True,
    ),
    "folder": Source(
        folder,
        help="any folder, tar, tgz or zip of images; class = folder name",
        example="photos.zip --out shards/photos-64 --size 64 --crop center",
        inputs={"images": "folder or archive; images in no folder get the one class 'all'"},
        options={},
        decodes=True,
    ),
    "synthetic": Source(
        synthetic_flowers,
        help="flowers drawn by a program: known modes with known shares, nothing to download",
        example="--out shards/synthetic-32 --size 32 --count 4000",
        inputs={},
        options={"count": (4000, "images"), "seed": (0, "seed of the drawings")},
        decodes=False,
        smallest_size=synthetic.SMALLEST_SIZE,
    ),
}


def _images_in(path: Path, scratch: Path) -> tuple[list[Member], tuple[str, ...]]:
    """The image files of a folder or archive, and a note on the others. Hidden files do not count."""
    members = [m for m in list_members(path, scratch) if not any(p.startswith(".") for p in m.name.split("/"))]
    images = [member for member in members if PurePosixPath(member.name).suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise ValueError(f"{path}: has no image ({', '.join(IMAGE_SUFFIXES)})")
    for member in images:
        if member.data.size > MAX_MEMBER_BYTES:
            raise ValueError(f"{path}: {member.name!r} has {member.data.size:,} bytes, more than {MAX_MEMBER_BYTES:,}")
    others = len(members) - len(images)
    return images, (f"ignored {others:,} other file{'s'[: others > 1]} in {path}",) if others else ()


def _file_record(member: Member, *, label: int) -> Record:
    """A record whose key is the member's name without its suffix; other dots would end a WebDataset key."""
    path = PurePosixPath(member.name)
    return Record(str(path.with_name(path.stem.replace(".", "_"))), label, member.name, ImageFile(member.data))


def _unique(records: Sequence[Record], path: Path) -> Sequence[Record]:
    seen: dict[str, str] = {}
    for record in records:
        if record.key in seen:
            raise ValueError(f"{path}: {seen[record.key]!r} and {record.name!r} have the same key {record.key!r}")
        seen[record.key] = record.name
    return records


def _source_file(path: Path, images: Sequence[Member]) -> SourceFile:
    name = path.resolve().name
    if not path.is_dir():
        return SourceFile(name, path.stat().st_size, sha256_of(path))
    files = [member.data.path for member in images]
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(sha256_of, files))
    listing = "".join(f"{digest}  {member.name}\n" for digest, member in zip(digests, images, strict=True))
    size = sum(member.data.size for member in images)
    return SourceFile(name, size, hashlib.sha256(listing.encode()).hexdigest())
