"""CIFAR-10 of Krizhevsky, Nair and Hinton: the binary and the python version, which give the same shards."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.members import Member, Slice
from dcgan_dist.data.sources.base import Option, RawImage, Record, Records, Request, SourceFile, SourceSet, chained
from dcgan_dist.data.sources.inputs import Input, ignored, read_inputs, spooled
from dcgan_dist.data.sources.known import CIFAR10, verdict
from dcgan_dist.data.sources.pickled import plain_values

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
BATCH_IMAGES = 10_000
SPLIT_OPTION = Option("train", "the 50,000 training images, the 10,000 test images or all", (*BATCHES, "all"))
_SIDE, _CHANNELS = 32, 3
_IMAGE_BYTES = _CHANNELS * _SIDE * _SIDE
_COMPANIONS = ("batches.meta", "batches.meta.txt", "readme.html")
_NAME = re.compile(r"(data_batch_[1-5]|test_batch)(\.bin)?")


@dataclass(frozen=True)
class _Batch:
    """The images of a batch on disk: ``stride`` bytes each, of which the last are the pixels."""

    name: str
    path: Path
    offset: int
    stride: int
    labels: NDArray[np.int64]

    def records(self, content: str) -> Records:
        """One for each image; ``content`` is that of the file they are in."""
        first = self.offset + self.stride - _IMAGE_BYTES

        def make(index: int) -> Record:
            image = RawImage(Slice(self.path, _IMAGE_BYTES, first + index * self.stride), _SIDE, _SIDE, _CHANNELS)
            return Record(
                f"{self.name}/{index:05d}", int(self.labels[index]), f"{self.name} image {index}", image, content
            )

        return Records(len(self.labels), make)


def cifar10(request: Request) -> SourceSet:
    """CIFAR-10, from cifar-10-binary.tar.gz or cifar-10-python.tar.gz, packed in any way or unpacked.

    Raises:
        ValueError: If no batch is there, or one is there twice, damaged or of another kind.
        OSError: If a file cannot be read.
    """
    inputs = read_inputs(request, core=_is_batch, archives=r"cifar-10-.*", lone=True)
    split = request.text("split", "train")
    wanted = [name for part in (BATCHES if split == "all" else [split]) for name in BATCHES[part]]
    records: dict[str, Records] = {}
    files: list[SourceFile] = []
    notes: list[str] = []
    for given in inputs:
        chosen = given.members.at(_chosen(given, wanted))
        batches = [_opened(given, member, request.scratch) for member in chosen]
        known = verdict(
            given.name,
            given.digests,
            data_set=CIFAR10,
            held=sum(len(batch.labels) for batch in batches),
            total=BATCH_IMAGES * len(wanted),
            what="images" if split == "all" else f"{split} images",
        )
        file, contents = given.recorded(chosen, known)
        for batch, content in zip(batches, contents, strict=True):
            if batch.name in records:
                raise ValueError(f"{given.path}: {batch.name} is in another input too")
            records[batch.name] = batch.records(content.tobytes().hex())
        files += [file] if chosen else []
        notes += ignored(given, lambda name: _is_batch(name) or PurePosixPath(name).name in _COMPANIONS)
    if not records:
        raise ValueError(f"CIFAR-10's {split} images are in {', '.join(wanted)} (.bin or not); none is there")
    ordered = [records[name] for name in wanted if name in records]
    return SourceSet(chained(ordered), CLASSES, tuple(files), tuple(notes))


def _base(member: Member) -> str:
    return PurePosixPath(member.name).name


def _is_batch(name: str) -> bool:
    return _NAME.fullmatch(PurePosixPath(name).name) is not None


def _chosen(given: Input, wanted: Sequence[str]) -> list[int]:
    """The places of the members with the batches that are wanted, in their order.

    Raises:
        ValueError: If one is there twice, as when both versions lie in one folder.
    """
    names = given.members.names
    place_of: dict[str, int] = {}
    for place, name in enumerate(names):
        match = _NAME.fullmatch(PurePosixPath(name).name)
        if match is None or match[1] not in wanted:
            continue
        if match[1] in place_of:
            raise ValueError(f"{given.path}: {names[place_of[match[1]]]!r} and {name!r} are the same batch; give one")
        place_of[match[1]] = place
    return [place_of[name] for name in wanted if name in place_of]


def _opened(given: Input, member: Member, scratch: Path) -> _Batch:
    """A batch of either version."""
    name = _base(member).removesuffix(".bin")
    shown = given.path if given.lone else given.path / member.name
    data = member.read(given.path)
    if not member.name.endswith(".bin"):
        try:
            pixels, labels = _python_batch(data)
        except ValueError as error:
            raise DamagedError(f"{shown}: {error}") from None
        return _Batch(name, spooled(pixels.tobytes(), scratch), 0, _IMAGE_BYTES, labels)
    stride = 1 + _IMAGE_BYTES
    if not data or len(data) % stride:
        raise DamagedError(f"{shown}: must have {stride:,} bytes for each image, has {len(data):,}")
    labels = np.frombuffer(data, np.uint8).reshape(-1, stride)[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise DamagedError(f"{shown}: labels must be 0 to 9, got {labels.max()}")
    if isinstance(member.data, Slice):
        return _Batch(name, member.data.path, member.data.offset, stride, labels)
    return _Batch(name, spooled(data, scratch), 0, stride, labels)


def _python_batch(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (images, 3072) and labels of a pickled batch."""
    values = plain_values(data)
    pixels = values.get("data") if isinstance(values, dict) else None
    labels = values.get("labels") if isinstance(values, dict) else None
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _IMAGE_BYTES or not len(pixels):
        raise DamagedError(f"must have 'data' of {_IMAGE_BYTES:,} bytes an image")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(each) is int for each in labels):
        raise DamagedError(f"must have 'labels', a list of {len(pixels):,} whole numbers")
    if not all(0 <= label < len(CLASSES) for label in labels):
        raise DamagedError("labels must be 0 to 9")
    return pixels, np.array(labels, np.int64)
