"""An original data set to checked shards: what dcgan-shard does, and what a program calls."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import get_args

from dcgan_dist.data.claim import WHOLE, Part, claimed
from dcgan_dist.data.shard_writing import Job, convert, convert_part, images_of
from dcgan_dist.data.shards import FORMAT, Index, Settings
from dcgan_dist.data.sources import SOURCES, Request, Source, SourceSet, Subset
from dcgan_dist.data.transforms import MAX_PIXELS, Crop, Format, Resize, Target
from dcgan_dist.words import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Written:
    """What ``write_shards`` has done."""

    index: Index | None
    """Of the finished directory; None after a part, for ``dcgan-shard finish`` writes it when all are there."""
    shards: int
    """In the directory, or in the part."""
    images: int
    """That had to be converted; 0 when all was there."""


Watch = Callable[[SourceSet, int], AbstractContextManager[Callable[[int], None]]]
"""What is called for progress, before the work begins and during it."""


@contextlib.contextmanager
def unwatched(found: SourceSet, images: int) -> Iterator[Callable[[int], None]]:
    """A Watch that shows nothing."""
    yield lambda count: None


def write_shards(
    source: str,
    out: str | PathLike[str],
    *,
    inputs: Sequence[str | PathLike[str]] = (),
    options: Mapping[str, int | str] | None = None,
    size: int = 64,
    gray: bool = False,
    crop: Crop = "none",
    resize: Resize = "area",
    format: Format = "png",
    classes: Sequence[str] = (),
    limit: int = 0,
    subset_seed: int = 0,
    shard_images: int = 512,
    shuffle_seed: int = 0,
    workers: int = 1,
    skip_bad: bool = False,
    part: Part = WHOLE,
    watch: Watch = unwatched,
) -> Written:
    """Shards, in a directory that is then finished, from an original data set: what ``dcgan-shard SOURCE`` does.

    The result has ``index`` (``index.contents`` is what stands in index.json), ``shards``, their number, and
    ``images``, the number of those that had to be converted. The bytes follow from the arguments alone, whatever the
    workers and interruptions; a second call converts only what is missing or damaged.

    Args:
        source: A row of SOURCES: flowers17, mnist, cifar10, folder, synthetic, ...
        out: Directory to write; its name names the shards.
        inputs: Files and folders as the authors publish them; none for synthetic.
        options: Of the source, for example count and seed of synthetic; each has a default.
        size: Height and width of the images in the shards, pixels.
        gray: One channel instead of RGB.
        crop: none: the whole image, squashed; center: the square in its middle; square: padded with black.
        resize: area: mean of what a pixel covers; bilinear: plain, without smoothing; lanczos.
        format: Of the images in the shards; png and webp lose nothing, jpg does.
        classes: These alone, by their names; empty for all.
        limit: So many images alone, drawn at random; 0 for all.
        subset_seed: Of that draw.
        shard_images: Images a shard.
        shuffle_seed: Of the order in the shards.
        workers: Processes that decode. With more than one a script keeps its work under ``if __name__ == "__main__":``,
            because they import it.
        skip_bad: Leave out images that cannot be read, and record them in the index.
        part: One of several that processes convert beside each other.
        watch: Called with what was found in the source and how many of its images are to become shards; in the context
            that it gives, its result is called with a number of images whenever so many more are done.

    Raises:
        ValueError: An argument or an input is wrong, or ``out`` holds something else; names it. Where the message
            names an argument, it does as dcgan-shard's flag.
        UnreadableImagesError: Images cannot be read, and not ``skip_bad``.
        OSError: A file cannot be read or written.
    """
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {source}{did_you_mean(source, SOURCES)}")
    row, paths, directory = SOURCES[source], tuple(map(Path, inputs)), Path(out)
    values = _values(row, options or {})
    target = Target(size, 1 if gray else 3, crop, resize, format)
    subset = Subset(tuple(classes), limit, subset_seed)
    for name, value, least in (("limit", limit, 0), ("shard-images", shard_images, 1), ("workers", workers, 1)):
        if value < least:
            raise ValueError(f"--{name} must be at least {least}, got {value}")
    if subset_seed and not limit:
        raise ValueError(f"--subset-seed {subset_seed} has no effect without --limit")
    if bool(paths) != bool(row.inputs):
        raise ValueError(
            f"inputs: {source} needs {row.inputs or 'no inputs'}, got {', '.join(map(str, paths)) or 'no inputs'}"
        )
    _check_target(target, source)
    _check_place(directory, paths)
    with claimed(directory, part) as scratch:
        found = subset.of(row.open(Request(paths, values, scratch)))
        settings = Settings(
            format=FORMAT,
            name=directory.resolve().name,
            source=source,
            source_files=found.files,
            source_options=values,
            source_images=len(found.records),
            classes=found.classes,
            target=target,
            shuffle_seed=shuffle_seed,
            shard_images=shard_images,
            subset=subset,
        )
        with watch(found, images_of(part, settings)) as report:
            job = Job(
                found.records,
                directory,
                settings,
                scratch=scratch,
                workers=workers,
                skip_bad=skip_bad,
                report=report,
            )
            if part != WHOLE:
                shards, converted = convert_part(job, part)
                return Written(index=None, shards=shards, images=converted)
            index, converted = convert(job)
            return Written(index=index, shards=len(index.contents.shards), images=converted)


def _values(row: Source, options: Mapping[str, int | str]) -> dict[str, int | str]:
    """Every option of a source: as given, else its default."""
    for name, value in options.items():
        if name not in row.options:
            known = ", ".join(row.options) or "none"
            raise ValueError(f"options: must be among those of the source, {known}; got {name}")
        option = row.options[name]
        if type(value) is not type(option.default) or (option.choices and value not in option.choices):
            kind = "a whole number" if isinstance(option.default, int) else " or ".join(option.choices) or "text"
            raise ValueError(f"options: {name} must be {kind}, got {value!r}")
    return {name: options.get(name, option.default) for name, option in row.options.items()}


def _check_target(target: Target, source: str) -> None:
    """Raise ValueError at images that cannot be made."""
    for name, choices in (("crop", Crop), ("resize", Resize), ("format", Format)):
        if getattr(target, name) not in get_args(choices):
            raise ValueError(f"--{name} must be {' or '.join(get_args(choices))}, got {getattr(target, name)}")
    smallest = SOURCES[source].smallest_size
    if target.size < smallest:
        raise ValueError(f"--size: {source} needs at least {smallest}, got {target.size}")
    if target.size**2 > MAX_PIXELS:
        raise ValueError(f"--size: an image must have at most {MAX_PIXELS:,} pixels, got {target.size} x {target.size}")


def _check_place(out: Path, inputs: Sequence[Path]) -> None:
    """Raise ValueError if ``out`` is among what is read."""
    for path in inputs:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise ValueError(f"--out {out}: must not lie in {path}, from which the images are read")
