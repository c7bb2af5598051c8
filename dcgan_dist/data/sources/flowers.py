"""The Oxford flowers of Nilsback and Zisserman: 17 classes (2006), 102 classes (2008), and both as one set."""

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.members import Members
from dcgan_dist.data.sources.base import (
    ImageFile,
    Option,
    Record,
    Records,
    Request,
    SourceFile,
    SourceSet,
    chained,
    changed,
    digests_in,
)
from dcgan_dist.data.sources.flower_names import FLOWERS17_CLASSES, FLOWERS102_CLASSES
from dcgan_dist.data.sources.folder import images_of
from dcgan_dist.data.sources.inputs import Input, ignored, is_image, read_inputs
from dcgan_dist.data.sources.keys import unique_keys
from dcgan_dist.data.sources.known import FLOWERS17, FLOWERS102, verdict
from dcgan_dist.data.sources.mats import read_mat

FLOWERS17_PER_CLASS = 80
FLOWERS17_IMAGES = FLOWERS17_PER_CLASS * len(FLOWERS17_CLASSES)
FLOWERS102_IMAGES = 8189
LABELS, SPLITS = "imagelabels.mat", "setid.mat"
SPLIT_VARIABLES = {"train": "trnid", "valid": "valid", "test": "tstid"}
SPLIT_OPTION = Option("all", f"the authors' part of the images; needs {SPLITS}", (*SPLIT_VARIABLES, "all"))


@dataclass(frozen=True)
class _Part:
    """The images of one input."""

    given: Input
    numbers: list[int]
    """Rising, from 1."""
    images: Members
    """One for each."""
    file: SourceFile
    contents: NDArray[np.void]
    """(images,), as Input.recorded gives them."""


@dataclass(frozen=True)
class _Table:
    """A MATLAB file."""

    path: Path
    data: bytes
    file: SourceFile


def flowers17(request: Request) -> SourceSet:
    """Oxford Flowers-17: jpg/image_0001.jpg ... image_1360.jpg, 80 to a class in turn.

    Raises:
        ValueError: If an archive cannot be read, has no image or one with a number out of range.
    """
    inputs = read_inputs(request, core=is_image, archives=r"17flowers.*")
    return _flowers17([_part17(given) for given in inputs])


def flowers102(request: Request) -> SourceSet:
    """Oxford Flowers-102: jpg/image_00001.jpg ..., classes from imagelabels.mat, parts from setid.mat.

    Raises:
        ValueError: If a file cannot be read or is missing, or an image has a number out of range.
    """
    inputs = read_inputs(request, core=is_image, beside=_is_table, archives=r"102flowers.*", lone=True)
    return _flowers102(inputs, split=request.text("split", "all"))


def flowers(request: Request) -> SourceSet:
    """Flowers-17 and Flowers-102 as one set of 119 classes, ``17/daffodil`` ... ``102/blackberry lily``.

    Raises:
        ValueError: If a file cannot be read or is missing, or an image has a number out of range.
    """
    inputs = read_inputs(request, core=is_image, beside=_is_table, archives=r"(17|102)flowers.*", lone=True)
    small: list[Input] = []
    rest: list[Input] = []
    for given in inputs:
        (small if any(_number(name, digits=4) for name in given.members.names) else rest).append(given)
    if not small:
        raise ValueError("flowers needs the images of both sets; there are none of Flowers-17 (17flowers.tgz)")
    one = _flowers17([_part17(given) for given in small])
    other = _flowers102(rest, split="all")
    return SourceSet(
        chained([_moved(one.records, "17", 0), _moved(other.records, "102", len(one.classes))]),
        (*(f"17/{name}" for name in one.classes), *(f"102/{name}" for name in other.classes)),
        (*one.files, *other.files),
        (*one.notes, *other.notes),
    )


def _moved(records: Sequence[Record], prefix: str, first_label: int) -> Records:
    return changed(
        records,
        lambda record: replace(
            record, key=f"{prefix}/{record.key}", label=first_label + record.label, name=f"{prefix}/{record.name}"
        ),
    )


def _flowers17(parts: Sequence[_Part]) -> SourceSet:
    records = _records(parts, lambda number: (number - 1) // FLOWERS17_PER_CLASS)
    notes = [note for part in parts for note in ignored(part.given, is_image)]
    return SourceSet(records, FLOWERS17_CLASSES, tuple(part.file for part in parts), tuple(notes))


def _part17(given: Input) -> _Part:
    numbers, images = _numbered(given, digits=4, total=FLOWERS17_IMAGES)
    content = _listing(given, images) if len(images) == FLOWERS17_IMAGES else ""
    known = verdict(
        given.name, given.digests, data_set=FLOWERS17, held=len(images), total=FLOWERS17_IMAGES, content=content
    )
    return _Part(given, numbers, images, *given.recorded(images, known))


def _listing(given: Input, images: Members) -> str:
    """As CONTENTS has it: of the images themselves, whatever they are packed in."""
    lines = [
        f"{hashlib.sha256(member.read(given.path)).hexdigest()}  {PurePosixPath(member.name).name}\n"
        for member in images
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _flowers102(inputs: Sequence[Input], *, split: str) -> SourceSet:
    tables = _tables(inputs)
    if LABELS not in tables:
        raise ValueError(f"Flowers-102 needs the file {LABELS} for its classes; give it behind the archive")
    labels = _labels(tables[LABELS])
    numbers = _split_numbers(tables.get(SPLITS), split, total=len(labels))
    with_images = [given for given in inputs if any(map(is_image, given.members.names))]
    if not with_images:
        raise ValueError("Flowers-102 needs its images: 102flowers.tgz or the folder jpg")
    parts = [_part102(given, total=len(labels)) for given in with_images]
    notes: list[str] = []
    for given in inputs:
        notes += ignored(given, lambda name: is_image(name) or _is_table(name))
    if split == "all" and SPLITS in tables:
        del tables[SPLITS]
        notes.append(f"{SPLITS} is not used without --split")
    records = _records(parts, lambda number: int(labels[number - 1]) - 1, only=numbers)
    if not records:
        raise ValueError(f"--split {split}: none of its images is there")
    files = (*(part.file for part in parts), *(table.file for table in tables.values()))
    return SourceSet(records, FLOWERS102_CLASSES, files, tuple(notes))


def _part102(given: Input, *, total: int) -> _Part:
    numbers, images = _numbered(given, digits=5, total=total)
    known = verdict(given.name, given.digests, data_set=FLOWERS102, held=len(images), total=FLOWERS102_IMAGES)
    return _Part(given, numbers, images, *given.recorded(images, known))


def _is_table(name: str) -> bool:
    return PurePosixPath(name).name in (LABELS, SPLITS)


def _tables(inputs: Sequence[Input]) -> dict[str, _Table]:
    """The MATLAB files among the inputs, by name."""
    found: dict[str, _Table] = {}
    for given in inputs:
        for member in given.members.where(_is_table):
            name = PurePosixPath(member.name).name
            if name in found:
                raise ValueError(f"{given.path}: {name} is there twice")
            data = member.read(given.path)
            digests = digests_in(data)
            known = verdict(name, digests, data_set=FLOWERS102)
            path = given.path / member.name if given.digests is None else given.path
            found[name] = _Table(path, data, SourceFile(name, len(data), digests.sha256, known))
    return dict(sorted(found.items()))


def _labels(table: _Table) -> NDArray[np.int64]:
    """(images,) classes from 1, of image number 1 and so on."""
    labels = read_mat(table.data, ["labels"], where=table.path)["labels"]
    if labels.min() < 1 or labels.max() > len(FLOWERS102_CLASSES):
        raise DamagedError(
            f"{table.path}: labels must be 1 to {len(FLOWERS102_CLASSES)}, got {labels.min()} to {labels.max()}"
        )
    return labels


def _split_numbers(table: _Table | None, split: str, *, total: int) -> Collection[int] | None:
    """The numbers of the images of a part; None for all."""
    if split == "all":
        return None
    if table is None:
        raise ValueError(f"--split {split} needs the file {SPLITS}; give it behind the archive")
    name = SPLIT_VARIABLES[split]
    numbers = read_mat(table.data, [name], where=table.path)[name]
    if numbers.min() < 1 or numbers.max() > total:
        raise DamagedError(f"{table.path}: {name} must be 1 to {total}, got {numbers.min()} to {numbers.max()}")
    return set(numbers.tolist())


def _number(name: str, *, digits: int) -> int:
    """The number in ``image_0001.jpg``, in whatever folder; 0 if that is not its name."""
    match = re.fullmatch(rf"(?:.*/)?image_([0-9]{{{digits}}})\.jpg", name)
    return int(match[1]) if match else 0


def _numbered(given: Input, *, digits: int, total: int) -> tuple[list[int], Members]:
    """The images of an input and their numbers, rising.

    Raises:
        ValueError: If there is none, or one with another name, a number out of range or one that is there already.
    """
    images = images_of(given)
    places: dict[int, int] = {}
    for place, name in enumerate(images.names):
        number = _number(name, digits=digits)
        if not 1 <= number <= total:
            last = f"image_{total:0{digits}d}.jpg"
            raise ValueError(f"{given.path}: images must be image_{1:0{digits}d}.jpg to {last}, got {name!r}")
        if number in places:
            raise ValueError(f"{given.path}: {images.names[places[number]]!r} and {name!r} have the same number")
        places[number] = place
    numbers = sorted(places)
    return numbers, images.at([places[number] for number in numbers])


def _records(
    parts: Sequence[_Part], label_of: Callable[[int], int], *, only: Collection[int] | None = None
) -> list[Record]:
    """The images of all parts, by number.

    Raises:
        ValueError: If two parts have the same image.
    """
    owners: dict[int, tuple[_Part, int]] = {}
    for part in parts:
        for place, number in enumerate(part.numbers):
            if number in owners:
                raise ValueError(
                    f"{part.given.path}: {part.images.names[place]!r} is in {owners[number][0].given.path} too"
                )
            owners[number] = (part, place)
    chosen = [number for number in sorted(owners) if only is None or number in only]
    members = [part.images[place] for part, place in (owners[number] for number in chosen)]
    contents = [part.contents[place].tobytes().hex() for part, place in (owners[number] for number in chosen)]
    keys = unique_keys([member.name for member in members])
    return [
        Record(key, label_of(number), member.name, ImageFile(member.data), content)
        for key, number, member, content in zip(keys, chosen, members, contents, strict=True)
    ]
