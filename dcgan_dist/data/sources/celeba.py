"""CelebA of Liu, Luo, Wang and Tang: 202,599 aligned faces, 40 attributes and 10,177 identities."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.members import Members
from dcgan_dist.data.sources.base import Option, Request, SourceFile, SourceSet, digests_in
from dcgan_dist.data.sources.folder import Labelled, images_of, joined
from dcgan_dist.data.sources.inputs import Input, ignored, is_image, read_inputs
from dcgan_dist.data.sources.known import CELEBA, verdict

IMAGES = 202_599
ATTRIBUTES, IDENTITIES, PARTS = "list_attr_celeba.txt", "identity_CelebA.txt", "list_eval_partition.txt"
PART_NUMBERS = {"train": "0", "valid": "1", "test": "2"}
LABEL_OPTION = Option(
    "none",
    f"what the class is: none (all are 'face'), identity (needs {IDENTITIES}), or an attribute as Smiling or Male "
    f"(needs {ATTRIBUTES})",
)
SPLIT_OPTION = Option("all", f"the authors' part of the images; needs {PARTS}", (*PART_NUMBERS, "all"))
MAX_TABLE_BYTES = 64 * 2**20
MAX_TABLE_LINES = 1_000_000
_FACE = ("face",)


@dataclass(frozen=True)
class _Table:
    """One of the text files."""

    path: Path
    lines: list[str]
    file: SourceFile


def celeba(request: Request) -> SourceSet:
    """CelebA's aligned faces, from img_align_celeba.zip or its folder; classes from the authors' lists when asked for.

    Raises:
        ValueError: If the archive or a list cannot be read, is missing or does not cover an image.
        OSError: If a file cannot be read.
    """
    inputs = read_inputs(request, core=is_image, beside=_is_table, archives=r"img_align_celeba.*", lone=True)
    tables = _tables(inputs)
    label, split = request.text("label", "none"), request.text("split", "all")
    used: dict[str, _Table] = {}
    wanted = None
    if split != "all":
        used[PARTS] = _needed(tables, PARTS, f"--split {split}")
        parts = _column(used[PARTS])
        wrong = next((part for part in parts.values() if part not in PART_NUMBERS.values()), None)
        if wrong is not None:
            raise DamagedError(f"{used[PARTS].path}: a part must be 0, 1 or 2, got {wrong!r}")
        wanted = {name for name, part in parts.items() if part == PART_NUMBERS[split]}
    classes, class_of = _classes(tables, label, used)
    found: list[Labelled] = []
    files = []
    notes = [f"{name} is not used without --{_flag(name)}" for name in tables if name not in used]
    for given in inputs:
        notes += ignored(given, lambda name: is_image(name) or _is_table(name))
        if any(map(is_image, given.members.names)):
            images = images_of(given)
            known = verdict(given.name, given.digests, data_set=CELEBA, held=len(images), total=IMAGES)
            file, contents = given.recorded(images, known)
            files.append(file)
            if wanted is not None:
                _check_covered(images, parts, used[PARTS].path)
                places = [place for place, name in enumerate(images.names) if _base(name) in wanted]
                images, contents = images.at(places), contents[places]
            if class_of is not None:
                _check_covered(images, class_of, next(t.path for n, t in used.items() if n != PARTS))
            labels = np.fromiter((class_of[_base(n)] if class_of else 0 for n in images.names), np.int64)
            found.append(Labelled(given, images, labels, contents))
    if not found:
        raise ValueError("CelebA needs its images: img_align_celeba.zip or the folder img_align_celeba")
    records = joined(found)
    if not records:
        raise ValueError(f"--split {split}: none of its images is there")
    return SourceSet(records, classes, (*files, *(table.file for table in used.values())), tuple(notes))


def _classes(
    tables: dict[str, _Table], label: str, used: dict[str, _Table]
) -> tuple[tuple[str, ...], dict[str, int] | None]:
    """Names of the classes and the class of each image by its name; the list that says so joins ``used``."""
    if label == "none":
        return _FACE, None
    if label == "identity":
        used[IDENTITIES] = table = _needed(tables, IDENTITIES, "--label identity")
        names = _column(table)
        if not all(number.isascii() and number.isdigit() for number in names.values()):
            raise DamagedError(f"{table.path}: identities must be whole numbers")
        classes = sorted(set(names.values()), key=int)
        number_of = {name: place for place, name in enumerate(classes)}
        return tuple(classes), {name: number_of[number] for name, number in names.items()}
    used[ATTRIBUTES] = table = _needed(tables, ATTRIBUTES, f"--label {label}")
    attributes = table.lines[1].split() if len(table.lines) > 1 else []
    if label not in attributes:
        raise ValueError(f"--label must be none, identity or one of {', '.join(attributes)}; got {label!r}")
    values = _column(table, attributes.index(label), of=len(attributes), skip=2)
    wrong = next((value for value in values.values() if value not in ("1", "-1")), None)
    if wrong is not None:
        raise DamagedError(f"{table.path}: {label} must be 1 or -1, got {wrong!r}")
    return (f"not {label}", label), {name: int(value == "1") for name, value in values.items()}


def _flag(name: str) -> str:
    return "split" if name == PARTS else "label"


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _is_table(name: str) -> bool:
    return _base(name) in (ATTRIBUTES, IDENTITIES, PARTS)


def _tables(inputs: Sequence[Input]) -> dict[str, _Table]:
    """The text files among the inputs, by name."""
    found: dict[str, _Table] = {}
    for given in inputs:
        for member in given.members.where(_is_table):
            name = _base(member.name)
            path = given.path if given.lone else given.path / member.name
            if name in found:
                raise ValueError(f"{path}: is there twice, the other is {found[name].path}")
            if member.data.size > MAX_TABLE_BYTES:
                raise ValueError(f"{path}: has {member.data.size:,} bytes, more than {MAX_TABLE_BYTES:,}")
            data = member.read(given.path)
            digests = digests_in(data)
            known = verdict(name, digests, data_set=CELEBA)
            if data.count(b"\n") > MAX_TABLE_LINES:
                raise ValueError(f"{path}: has more than {MAX_TABLE_LINES:,} lines")
            lines = data.decode("utf-8", "replace").split("\n")
            found[name] = _Table(path, lines, SourceFile(name, len(data), digests.sha256, known))
    return found


def _needed(tables: dict[str, _Table], name: str, what: str) -> _Table:
    if name not in tables:
        raise ValueError(f"{what} needs the file {name}; give it behind the archive")
    return tables[name]


def _column(table: _Table, place: int = 0, *, of: int = 1, skip: int = 0) -> dict[str, str]:
    """What stands behind each image's name.

    Args:
        table: The file.
        place: Of the column, behind the name.
        of: Columns there must be.
        skip: Lines before the first image.
    """
    values = {}
    for number, line in enumerate(table.lines[skip:], skip + 1):
        name, *row = line.split() or [""]
        if name and len(row) != of:
            raise DamagedError(
                f"{table.path}, line {number}: must be a name and {of} number{'s' * (of != 1)}, got {line[:80]!r}"
            )
        if name in values:
            raise DamagedError(f"{table.path}, line {number}: {name!r} is there twice")
        if name:
            values[name] = sys.intern(row[place])
    return values


def _check_covered(images: Members, names: Collection[str], path: Path) -> None:
    """Raise ValueError if an image is not in a list."""
    missing = next((name for name in images.names if _base(name) not in names), None)
    if missing:
        raise DamagedError(f"{path}: has no line for {missing!r}")
