"""The tars of other WebDatasets: KEY.jpg, KEY.png or KEY.webp, and KEY.cls with the class number."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from dcgan_dist.data.members import Member
from dcgan_dist.data.sources.base import Request, SourceSet, check_member_sizes, counted
from dcgan_dist.data.sources.folder import Labelled, check_names, joined
from dcgan_dist.data.sources.inputs import Input, hidden, read_inputs

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
PICKLED_ENDINGS = ("pyd", "pkl", "pickle", "pth", "pt", "ten", "npy", "npz", "joblib")
"""What other readers decode by running what is in it, or may."""
_MAX_CLASS_BYTES = 20
_ALL = "all"
_SHOWN = 5


def webdataset(request: Request) -> SourceSet:
    """The images and class numbers of any WebDataset; nothing else in it is decoded.

    Raises:
        ValueError: If a tar cannot be read, has no image, two images of one key, or a class that is no number.
    """
    inputs = read_inputs(request, core=lambda name: ending(name) in IMAGE_ENDINGS, archives=".*")
    found: list[list[tuple[Member, int | None, str]]] = []
    files, notes = [], []
    for given in inputs:
        images, labels, told = _samples(given)
        file, contents = given.recorded(images, "")
        found.append(list(zip(images, labels, contents, strict=True)))
        files.append(file)
        notes += told
    _check_all_or_none(inputs, found)
    numbers = sorted({label for images in found for _, label, _ in images if label is not None})
    labelled = [
        [Labelled(m.name, _ALL if label is None else str(label), m, content) for m, label, content in images]
        for images in found
    ]
    categories = [str(number) for number in numbers] or [_ALL]
    return joined(inputs, labelled, categories=categories, files=files, notes=notes)


def ending(name: str) -> str:
    """What WebDataset takes for the extension: everything behind the first dot of the base name, in lower case."""
    return PurePosixPath(name).name.partition(".")[2].lower()


def _samples(given: Input) -> tuple[list[Member], list[int | None], list[str]]:
    """The images of an input, the class of each, and notes."""
    visible = [member for member in given.members if not hidden(member.name)]
    check_names(given.path, [member.name for member in visible])
    images: dict[str, Member] = {}
    classes: dict[str, Member] = {}
    pickled: list[str] = []
    others = 0
    for member in visible:
        kind, key = ending(member.name), _key(member.name)
        if kind in IMAGE_ENDINGS:
            if key in images:
                raise ValueError(
                    f"{given.path}: a key must have one image, {key!r} has {images[key].name!r} and {member.name!r}"
                )
            images[key] = member
        elif kind == "cls":
            classes[key] = member
        elif kind.split(".")[0] in PICKLED_ENDINGS or kind.split(".")[-1] in PICKLED_ENDINGS:
            pickled.append(member.name)
        else:
            others += 1
    if not images:
        raise ValueError(f"{given.path}: has no image (KEY.{', KEY.'.join(IMAGE_ENDINGS)})")
    check_member_sizes(given.path, list(images.values()))
    notes = []
    if pickled:
        shown = ", ".join(pickled[:_SHOWN]) + ", ..." * (len(pickled) > _SHOWN)
        notes.append(f"ignored {counted(len(pickled), 'file')} that could run code when decoded: {shown}")
    if others:
        notes.append(f"ignored {counted(others, 'other file')} in {given.path}")
    return list(images.values()), [_label(given.path, classes.get(key)) for key in images], notes


def _key(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0] or path.name))


def _label(path: Path, member: Member | None) -> int | None:
    if member is None:
        return None
    text = member.read(path).strip() if member.data.size <= _MAX_CLASS_BYTES else b""
    if not re.fullmatch(rb"\d{1,9}", text):
        raise ValueError(f"{path}: {member.name!r} must be the number of a class, got {text!r}")
    return int(text)


def _check_all_or_none(inputs: Sequence[Input], found: Sequence[Sequence[tuple[Member, int | None, str]]]) -> None:
    """Raise ValueError if some images have a class and others have none."""
    pairs = [(given, m, label) for given, images in zip(inputs, found, strict=True) for m, label, _ in images]
    without = [(given, member) for given, member, label in pairs if label is None]
    if without and len(without) < len(pairs):
        given, member = without[0]
        raise ValueError(f"{given.path}: every image must have a KEY.cls, or none; {member.name!r} has none")
