"""Any images: folders, tars and zips, and the tars of other WebDatasets."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dcgan_dist.data.members import Member
from dcgan_dist.data.sources.base import (
    ImageFile,
    Record,
    Request,
    SourceFile,
    SourceSet,
    check_member_sizes,
)
from dcgan_dist.data.sources.inputs import IMAGE_SUFFIXES, Input, hidden, ignored, is_image, read_inputs
from dcgan_dist.data.sources.keys import unique_keys

_ALL = "all"


@dataclass(frozen=True)
class Labelled:
    """An image of an input, before it has a key and its class a number."""

    name: str
    """Of the member."""
    category: str
    member: Member
    content: str


def folder(request: Request) -> SourceSet:
    """Any folders, tars or zips of images; the class is the first folder that not all images of an input share.

    Raises:
        ValueError: If one cannot be read, has no image, or has images beside class folders.
    """
    inputs = read_inputs(request)
    found: list[list[Labelled]] = []
    files: list[SourceFile] = []
    notes: list[str] = []
    for given in inputs:
        images = images_of(given)
        file, contents = given.recorded(images, "")
        names = _categories(given.path, images, lone=given.stem if len(inputs) > 1 else _ALL)
        found.append(
            [
                Labelled(member.name, name, member, content)
                for member, name, content in zip(images, names, contents, strict=True)
            ]
        )
        files.append(file)
        notes += ignored(given, images)
    categories = sorted({image.category for images in found for image in images})
    return joined(inputs, found, categories=categories, files=files, notes=notes)


def images_of(given: Input) -> list[Member]:
    """The image files of a folder or archive. Hidden files do not count.

    Raises:
        ValueError: If there is none, or one is too large.
    """
    images = [member for member in given.members if is_image(member.name) and not hidden(member.name)]
    if not images:
        raise ValueError(f"{given.path}: has no image ({', '.join(IMAGE_SUFFIXES)})")
    check_member_sizes(given.path, images)
    return images


def joined(
    inputs: Sequence[Input],
    found: Sequence[Sequence[Labelled]],
    *,
    categories: Sequence[str],
    files: Sequence[SourceFile],
    notes: Sequence[str],
) -> SourceSet:
    """The images of several inputs as one set; with more than one, keys and names begin with the input's name.

    Args:
        inputs: What was given.
        found: The images of each.
        categories: Names of all classes, in the order of their numbers.
        files: What is recorded of each input.
        notes: Sentences for the user.

    Raises:
        ValueError: If an input has two files of the same name.
    """
    for given, images in zip(inputs, found, strict=True):
        check_names(given.path, [image.name for image in images])
    many = len(inputs) > 1
    flat = [(given, image) for given, images in zip(inputs, found, strict=True) for image in images]
    keys = unique_keys([f"{given.stem}/{image.name}" if many else image.name for given, image in flat])
    number = {name: label for label, name in enumerate(categories)}
    records = [
        Record(
            key,
            number[image.category],
            f"{given.name}/{image.name}" if many else image.name,
            ImageFile(image.member.data),
            image.content,
        )
        for key, (given, image) in zip(keys, flat, strict=True)
    ]
    return SourceSet(records, tuple(categories), tuple(files), tuple(notes))


def check_names(path: Path, names: Sequence[str]) -> None:
    """Raise ValueError if two members have the same name; ``names`` are sorted."""
    for one, other in itertools.pairwise(names):
        if one == other:
            raise ValueError(f"{path}: {one!r} is there twice")


def _categories(path: Path, images: Sequence[Member], *, lone: str) -> list[str]:
    """The class name of each image; ``lone`` for images in no folder."""
    folders = [PurePosixPath(member.name).parts[:-1] for member in images]
    while min(map(len, folders)) > 1 and len({parts[0] for parts in folders}) == 1:
        folders = [parts[1:] for parts in folders]
    beside = next((member.name for member, parts in zip(images, folders, strict=True) if not parts), None)
    if beside is not None and any(folders):
        raise ValueError(f"{path}: every image must be in a class folder, or none; {beside!r} is beside folders")
    return [parts[0] if parts else lone for parts in folders]
