"""Any images: folders, tars and zips, and the tars of other WebDatasets."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.members import Members
from dcgan_dist.data.sources.base import (
    Records,
    Request,
    SourceFile,
    SourceSet,
    chained,
    check_member_sizes,
    image_records,
)
from dcgan_dist.data.sources.inputs import IMAGE_SUFFIXES, Input, hidden, ignored, is_image, read_inputs
from dcgan_dist.data.sources.keys import unique_keys

_ALL = "all"


@dataclass(frozen=True)
class Labelled:
    """The images of one input, each with a class."""

    given: Input
    images: Members
    labels: NDArray[np.int64]
    """(images,)."""
    contents: NDArray[np.void]
    """(images,), as Input.recorded gives them."""


def folder(request: Request) -> SourceSet:
    """Any folders, tars or zips of images; the class is the first folder that not all images of an input share.

    Raises:
        ValueError: If one cannot be read, has no image, or has images beside class folders.
    """
    inputs = read_inputs(request)
    found = [(given, images_of(given)) for given in inputs]
    categories = [
        _categories(given.path, images, lone=given.stem if len(inputs) > 1 else _ALL) for given, images in found
    ]
    classes = sorted({category for by_folder in categories for category in by_folder.values()})
    number = {name: label for label, name in enumerate(classes)}
    labelled: list[Labelled] = []
    files: list[SourceFile] = []
    notes: list[str] = []
    for (given, images), by_folder in zip(found, categories, strict=True):
        file, contents = given.recorded(images, "")
        labels = np.fromiter((number[by_folder[_folder(name)]] for name in images.names), np.int64)
        labelled.append(Labelled(given, images, labels, contents))
        files.append(file)
        notes += ignored(given, is_image)
    return SourceSet(joined(labelled), tuple(classes), tuple(files), tuple(notes))


def images_of(given: Input) -> Members:
    """The image files of a folder or archive. Hidden files do not count.

    Raises:
        ValueError: If there is none, one is too large, or two have the same name.
    """
    images = given.members.where(lambda name: is_image(name) and not hidden(name))
    if not images:
        raise ValueError(f"{given.path}: has no image ({', '.join(IMAGE_SUFFIXES)})")
    check_member_sizes(given.path, images)
    check_names(given.path, images.names)
    return images


def joined(found: Sequence[Labelled]) -> Records:
    """The images of several inputs as one list; with more than one, keys and names begin with the input's name."""
    many = len(found) > 1
    keys = unique_keys([f"{each.given.stem}/{n}" if many else n for each in found for n in each.images.names])
    parts = []
    for each in found:
        own, keys = keys[: len(each.images)], keys[len(each.images) :]
        prefix = f"{each.given.name}/" if many else ""
        parts.append(image_records(each.images, keys=own, labels=each.labels, contents=each.contents, prefix=prefix))
    return chained(parts)


def check_names(path: Path, names: Sequence[str]) -> None:
    """Raise ValueError if two members have the same name; ``names`` are sorted."""
    for one, other in itertools.pairwise(names):
        if one == other:
            raise ValueError(f"{path}: {one!r} is there twice")


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _categories(path: Path, images: Members, *, lone: str) -> dict[str, str]:
    """The class name of the images in each folder; ``lone`` for images in no folder."""
    folders = {name: PurePosixPath(name).parts for name in set(map(_folder, images.names))}
    while min(map(len, folders.values())) > 1 and len({parts[0] for parts in folders.values()}) == 1:
        folders = {name: parts[1:] for name, parts in folders.items()}
    if any(folders.values()) and not all(folders.values()):
        beside = next(name for name in images.names if not folders[_folder(name)])
        raise ValueError(f"{path}: every image must be in a class folder, or none; {beside!r} is beside folders")
    return {name: parts[0] if parts else lone for name, parts in folders.items()}
