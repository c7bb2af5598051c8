"""The tars of other WebDatasets: KEY.jpg, KEY.png or KEY.webp, and KEY.cls with the class number."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.members import Member, Members
from dcgan_dist.data.sources.base import Request, SourceSet, check_member_sizes
from dcgan_dist.data.sources.folder import Labelled, check_names, joined
from dcgan_dist.data.sources.inputs import Input, hidden, read_inputs
from dcgan_dist.words import counted

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
PICKLED_ENDINGS = ("pyd", "pkl", "pickle", "pth", "pt", "ten", "npy", "npz", "joblib")
"""What other readers decode by running what is in it, or may."""
_MAX_CLASS_BYTES = 20
_ALL = "all"
_NO_CLASS = -1
_SHOWN = 5


def webdataset(request: Request) -> SourceSet:
    """The images and class numbers of any WebDataset; nothing else in it is decoded.

    Raises:
        ValueError: If a tar cannot be read, has no image, two images of one key, or a class that is no number.
    """
    inputs = read_inputs(request, core=lambda name: ending(name) in IMAGE_ENDINGS, archives=".*")
    found: list[Labelled] = []
    files, notes = [], []
    for given in inputs:
        images, numbers, told = _samples(given)
        file, contents = given.recorded(images, "")
        found.append(Labelled(given, images, numbers, contents))
        files.append(file)
        notes += told
    _check_all_or_none(found)
    distinct = np.unique(np.concatenate([each.labels for each in found]))
    classes = [_ALL] if distinct[0] == _NO_CLASS else [str(number) for number in distinct]
    records = joined([replace(each, labels=np.searchsorted(distinct, each.labels)) for each in found])
    return SourceSet(records, tuple(classes), tuple(files), tuple(notes))


def ending(name: str) -> str:
    """What WebDataset takes for the extension: everything behind the first dot of the base name, in lower case."""
    return PurePosixPath(name).name.partition(".")[2].lower()


def _samples(given: Input) -> tuple[Members, NDArray[np.int64], list[str]]:
    """The images of an input, the class number of each or _NO_CLASS, and notes."""
    visible = given.members.where(lambda name: not hidden(name))
    check_names(given.path, visible.names)
    images: dict[str, int] = {}  # by key, places in ``visible``
    classes: dict[str, int] = {}
    pickled: list[str] = []
    others = 0
    for place, name in enumerate(visible.names):
        kind, key = ending(name), _key(name)
        if kind in (*IMAGE_ENDINGS, "cls"):
            places, what = (classes, "class") if kind == "cls" else (images, "image")
            if key in places:
                first = visible.names[places[key]]
                raise ValueError(f"{given.path}: a key must have one {what}, {key!r} has {first!r} and {name!r}")
            places[key] = place
        elif kind.split(".")[0] in PICKLED_ENDINGS or kind.split(".")[-1] in PICKLED_ENDINGS:
            pickled.append(name)
        else:
            others += 1
    if not images:
        raise ValueError(f"{given.path}: has no image (KEY.{', KEY.'.join(IMAGE_ENDINGS)})")
    chosen = visible.at(list(images.values()))
    check_member_sizes(given.path, chosen)
    notes = []
    if pickled:
        shown = ", ".join(pickled[:_SHOWN]) + ", ..." * (len(pickled) > _SHOWN)
        notes.append(f"ignored {counted(len(pickled), 'file')} that could run code when decoded: {shown}")
    if others:
        notes.append(f"ignored {counted(others, 'other file')} in {given.path}")
    numbers = (_number(given.path, visible[classes[key]]) if key in classes else _NO_CLASS for key in images)
    return chosen, np.fromiter(numbers, np.int64), notes


def _key(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0] or path.name))


def _number(path: Path, member: Member) -> int:
    text = member.read(path).strip() if member.data.size <= _MAX_CLASS_BYTES else b""
    if not re.fullmatch(rb"\d{1,9}", text):
        raise ValueError(f"{path}: {member.name!r} must be the number of a class, got {text!r}")
    return int(text)


def _check_all_or_none(found: Sequence[Labelled]) -> None:
    """Raise ValueError if some images have a class and others have none."""
    without = [(each, place) for each in found for place in np.flatnonzero(each.labels == _NO_CLASS)[:1]]
    if without and any((each.labels != _NO_CLASS).any() for each in found):
        each, place = without[0]
        name = each.images.names[place]
        raise ValueError(f"{each.given.path}: every image must have a KEY.cls, or none; {name!r} has none")
