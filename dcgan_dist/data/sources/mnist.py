"""MNIST of LeCun, Cortes and Burges: handwritten digits in idx files, gzip or not."""

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.members import Member, Slice
from dcgan_dist.data.sources.base import Option, RawImage, Record, Records, Request, SourceFile, SourceSet, chained
from dcgan_dist.data.sources.inputs import Input, OnDisk, ignored, on_disk, read_inputs
from dcgan_dist.data.sources.known import MNIST, verdict
from dcgan_dist.files import sha256_of

CLASSES = tuple("0123456789")
IMAGES_IN = {"train": 60_000, "test": 10_000}
SPLIT_OPTION = Option("train", "the 60,000 training images, the 10,000 test images or all", (*IMAGES_IN, "all"))
MAX_SIDE = 1024
"""Pixels; MNIST's images and all its successors' have 28."""
MAX_IMAGES = 4_000_000
"""A file that has more is refused before they fill the memory."""
_NAME = re.compile(r"(train|t10k|test)[-_.].*(images|labels).*", re.IGNORECASE)
_HEADERS = {"images": struct.Struct(">IIII"), "labels": struct.Struct(">II")}
_MAGIC = {"images": 2051, "labels": 2049}


@dataclass(frozen=True)
class _Idx:
    """One of the four files."""

    path: Path
    data: Slice
    """Of its numbers, without the header."""
    shape: tuple[int, ...]
    file: SourceFile


def mnist(request: Request) -> SourceSet:
    """MNIST: train-images-idx3-ubyte, train-labels-idx1-ubyte and t10k-..., each with or without gzip.

    Raises:
        ValueError: If a file is missing, damaged or of another kind.
        OSError: If a file cannot be read.
    """
    inputs = read_inputs(request, core=_is_idx, archives=".*mnist.*", lone=True)
    splits = list(IMAGES_IN) if request.text("split", "train") == "all" else [request.text("split", "train")]
    members = _by_kind(inputs)
    records: list[Records] = []
    files: list[SourceFile] = []
    for split in splits:
        missing = [f"the {split} {kind}" for kind in _MAGIC if (split, kind) not in members]
        if missing:
            names = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"
            raise ValueError(f"MNIST needs {' and '.join(missing)}; the files are {names}, or .gz of them")
        images, labels = (
            _opened(on_disk(*members[split, kind], request.scratch), kind=kind, split=split) for kind in _MAGIC
        )
        records.append(_records(images, labels, split=split))
        files += [images.file, labels.file]
    used = {member.name for _, member in members.values()}
    notes = [note for given in inputs for note in ignored(given, used.__contains__)]
    unused = sorted(split for split in IMAGES_IN if split not in splits and (split, "images") in members)
    notes += [f"the {split} images are not used; --split all takes both parts" for split in unused]
    return SourceSet(chained(records), CLASSES, tuple(files), tuple(notes))


def _is_idx(name: str) -> bool:
    return _NAME.fullmatch(PurePosixPath(name).name) is not None


def _is_gzip(name: str) -> bool:
    return name.lower().endswith(".gz")


def _by_kind(inputs: Sequence[Input]) -> dict[tuple[str, str], tuple[Input, Member]]:
    """The files by part and kind; of a folder that has a file with and without .gz, the one without."""
    found: dict[tuple[str, str], tuple[Input, Member]] = {}
    for given in inputs:
        for member in sorted(given.members, key=lambda member: _is_gzip(member.name)):
            match = _NAME.fullmatch(PurePosixPath(member.name).name)
            if match is None:
                continue
            kind = ("train" if match[1].lower() == "train" else "test", match[2].lower())
            other = found.setdefault(kind, (given, member))[1]
            if other is not member and _is_gzip(other.name) == _is_gzip(member.name):
                raise ValueError(f"{given.path}: {member.name!r} and {other.name!r} are both the {kind[0]} {kind[1]}")
    return found


def _opened(file: OnDisk, *, kind: str, split: str) -> _Idx:
    """The header of a file checked, and where its numbers are."""
    header, total = _HEADERS[kind], file.plain.stat().st_size
    with file.plain.open("rb") as stream:
        start = stream.read(header.size)
    magic, *shape = header.unpack(start) if len(start) == header.size else (0, 0)
    if magic != _MAGIC[kind]:
        raise DamagedError(f"{file.shown}: not an idx file of {kind}: it must begin with {_MAGIC[kind]}, got {magic}")
    if math.prod(shape) != total - header.size or not all(0 < side <= MAX_SIDE for side in shape[1:]) or not shape[0]:
        raise DamagedError(
            f"{file.shown}: cut short or changed: by its header {' x '.join(map(str, shape))} bytes follow, "
            f"there are {total - header.size:,}"
        )
    if shape[0] > MAX_IMAGES:
        raise ValueError(f"{file.shown}: must have at most {MAX_IMAGES:,} {kind}, has {shape[0]:,}")
    known = verdict(
        file.shown.name,
        file.digests,
        data_set=MNIST,
        held=shape[0],
        total=IMAGES_IN[split],
        content=sha256_of(file.plain),
    )
    recorded = SourceFile(file.shown.name, file.bytes, file.digests.sha256, known)
    return _Idx(file.shown, Slice(file.plain, total - header.size, header.size), tuple(shape), recorded)


def _records(images: _Idx, labels: _Idx, *, split: str) -> Records:
    count, height, width = images.shape
    if labels.shape != (count,):
        raise DamagedError(
            f"{labels.path}: must have as many labels as there are images, {count}, has {labels.shape[0]}"
        )
    numbers: NDArray[np.uint8] = np.frombuffer(labels.data.read(), np.uint8)
    if numbers.max() >= len(CLASSES):
        raise DamagedError(f"{labels.path}: labels must be 0 to 9, got {numbers.max()}")
    first, size = images.data.offset, height * width

    def make(index: int) -> Record:
        image = RawImage(Slice(images.data.path, size, first + index * size), height, width, 1)
        return Record(f"{split}/{index:05d}", int(numbers[index]), f"{split} image {index}", image, images.file.sha256)

    return Records(count, make)
