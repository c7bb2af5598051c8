"""Tiny image sets for the tests of conversion."""

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dcgan_dist.data.claim import claimed
from dcgan_dist.data.shard_writing import Job, convert
from dcgan_dist.data.shards import FORMAT, Index, Settings
from dcgan_dist.data.sources import SOURCES, Request, SourceSet
from dcgan_dist.data.transforms import Target


def noise(seed: int, *, height: int = 8, width: int = 8) -> NDArray[np.uint8]:
    """(height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def file_of(image: Image.Image, *, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def png(seed: int) -> bytes:
    return file_of(Image.fromarray(noise(seed)))


def photos(folder: Path, *, images: int = 40) -> Path:
    """8 x 8 noise in the classes cat (even seeds) and dog (odd seeds)."""
    for seed in range(images):
        path = folder / ("cat", "dog")[seed % 2] / f"{seed:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed))
    return folder


def tar(path: Path, members: dict[str, bytes], *, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zipped(path: Path, members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def files(folder: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def opened(name: str, *inputs: Path, scratch: Path, **values: int | str) -> SourceSet:
    """What a source finds in these files."""
    return SOURCES[name].open(Request(inputs, values, scratch))


def settings(source: SourceSet, *, shard_images: int = 8, size: int = 8, shuffle_seed: int = 0) -> Settings:
    return Settings(
        format=FORMAT,
        name="set",
        source="folder",
        source_files=source.files,
        source_options={},
        source_images=len(source.records),
        classes=source.classes,
        target=Target(size, 3, "none", "area"),
        shuffle_seed=shuffle_seed,
        shard_images=shard_images,
    )


def bytes_of(directory: Path) -> dict[str, bytes]:
    """Every file of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def job(source: SourceSet, directory: Path, scratch: Path, **changes: Any) -> Job:
    """A conversion of ``photos`` in shards of 8."""
    values: dict[str, Any] = {"settings": settings(source), "workers": 1, "skip_bad": False, "report": lambda n: None}
    return Job(source.records, directory, scratch=scratch, **values | changes)


def converted(source: SourceSet, directory: Path, **changes: Any) -> tuple[Index, int]:
    """The index and the number of images converted."""
    with claimed(directory) as scratch:
        return convert(job(source, directory, scratch, **changes))
