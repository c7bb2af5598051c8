"""CelebA of Liu, Luo, Wang and Tang: 202,599 aligned faces, 40 attributes and 10,177 identities."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.members import Member
from dcgan_dist.data.sources.base import ImageFile, Option, Record, Request, SourceFile, SourceSet, digests_in
from dcgan_dist.data.sources.folder import check_names, images_of
from dcgan_dist.data.sources.inputs import Input, ignored, is_image, read_inputs
from dcgan_dist.data.sources.keys import unique_keys
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
        wanted = {name for name, part in parts.items() if part == PART_NUMBERS[split]}
    classes, class_of = _classes(tables, label, used)
    images: list[tuple[Member, str]] = []
    files = []
    notes = [f"{name} is not used without --{_flag(name)}" for name in tables if name not in used]
    for given in inputs:
        found = images_of(given) if any(is_image(member.name) for member in given.members) else []
        notes += ignored(given, [*found, *(member for member in given.members if _is_table(member.name))])
        if found:
            check_names(given.path, [member.name for member in found])
            known = verdict(given.name, given.digests, data_set=CELEBA, held=len(found), total=IMAGES)
            file, contents = given.recorded(found, known)
            files.append(file)
            images += zip(found, contents, strict=True)
    if not images:
        raise ValueError("CelebA needs its images: img_align_celeba.zip or the folder img_align_celeba")
    if wanted is not None:
        _check_covered(images, set(parts), used[PARTS].path)
        images = [(member, content) for member, content in images if _base(member) in wanted]
    if class_of is not None:
        _check_covered(images, set(class_of), next(t.path for n, t in used.items() if n != PARTS))
    if not images:
        raise ValueError(f"--split {split}: none of its images is there")
    keys = unique_keys([member.name for member, _ in images])
    records = [
        Record(key, class_of[_base(member)] if class_of else 0, member.name, ImageFile(member.data), content)
        for key, (member, content) in zip(keys, images, strict=True)
    ]
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


def _base(member: Member) -> str:
    return PurePosixPath(member.name).name


def _is_table(name: str) -> bool:
    return PurePosixPath(name).name in (ATTRIBUTES, IDENTITIES, PARTS)


def _tables(inputs: Sequence[Input]) -> dict[str, _Table]:
    """The text files among the inputs, by name."""
    found: dict[str, _Table] = {}
    for given in inputs:
        for member in given.members:
            if not _is_table(member.name):
                continue
            name = _base(member)
            path = given.path if given.lone else given.path / member.name
            if name in found:
                raise ValueError(f"{path}: is there twice, the other is {found[name].path}")
            if member.data.size > MAX_TABLE_BYTES:
                raise ValueError(f"{path}: has {member.data.size:,} bytes, more than {MAX_TABLE_BYTES:,}")
            data = member.read(given.path)
            digests = digests_in(data)
            known = verdict(name, digests, data_set=CELEBA)
            lines = data.decode("utf-8", "replace").splitlines()
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
        if name:
            values[name] = sys.intern(row[place])
    return values


def _check_covered(images: Sequence[tuple[Member, str]], names: set[str], path: Path) -> None:
    """Raise ValueError if an image is not in a list."""
    missing = next((member.name for member, _ in images if _base(member) not in names), None)
    if missing:
        raise DamagedError(f"{path}: has no line for {missing!r}")
