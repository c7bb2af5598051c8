"""Command dcgan-shard: an original data set -> checked shards; what is in them; whether they are whole."""

import argparse
import contextlib
import dataclasses
import functools
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NoReturn, get_args

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dcgan_dist.data.convert import UnreadableImagesError, claimed, convert
from dcgan_dist.data.shards import FORMAT, Index, Settings, read_index, read_rows, verify
from dcgan_dist.data.sources import SOURCES, Request, Source
from dcgan_dist.data.transforms import MAX_PIXELS, Crop, Resize, Target
from dcgan_dist.images import grid, write_png
from dcgan_dist.machine import cores

PROGRAM = "dcgan-shard"
PLAIN_LINE_SECONDS = 10
SHEET_PER_CLASS = 8
SHEET_CLASSES = 24
SHEET_NAME = "contact-sheet.png"
CROP_HELP = "none: the whole image, squashed to the square (default); center: the square in its middle"
RESIZE_HELP = "area: mean of what a pixel covers (default); bilinear: plain, without smoothing; lanczos"


def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand; exit 0 done, 1 failed, 2 the user's mistake, 130 interrupted."""
    arguments = _parser().parse_args([_dashed(argument) for argument in (sys.argv[1:] if argv is None else argv)])
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it cleans up as Ctrl-C does
    try:
        arguments.run(arguments)
    except ValueError as error:
        _fail(str(error), 2)
    except UnreadableImagesError as error:
        lines = [f"{image.name}: {image.reason}" for image in error.skipped]
        _fail("\n  ".join([f"{error}; there is no index (--skip-bad leaves them out):", *lines]), 1)
    except BrokenProcessPool:
        _fail("a worker process died (out of memory?); run again, with fewer --workers", 1)
    except MemoryError:
        _fail("out of memory; fewer --workers need less", 1)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted; the shards that were finished are kept, the same command goes on from there", 130)
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, code: int) -> NoReturn:
    print(f"{PROGRAM}: error: {message}", file=sys.stderr)
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        PROGRAM,
        description="Convert an original data set to WebDataset shards with an index, or look at such shards.",
        epilog="\n".join(["examples:", *(f"  {PROGRAM} {name} {source.example}" for name, source in SOURCES.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example:\n  {PROGRAM} {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    for name, source in SOURCES.items():
        command = add(name, source.help, source.example)
        _add_source(command, source)
        command.set_defaults(run=functools.partial(_convert, name))
    command = add("info", "what is in a directory of shards: a table and a contact sheet", "shards/flowers17-32")
    command.add_argument("directory", type=Path, metavar="DIR")
    command.add_argument("--out", type=Path, metavar="FILE", help=f"the contact sheet (default DIR/{SHEET_NAME})")
    command.add_argument("--json", action="store_true", help="print JSON alone; a contact sheet only with --out")
    command.set_defaults(run=_info)
    command = add("verify", "check every byte and decode every image of a directory of shards", "shards/flowers17-32")
    command.add_argument("directory", type=Path, metavar="DIR")
    command.add_argument("--quiet", action="store_true", help="print nothing but damage")
    command.set_defaults(run=_verify)
    return parser


def _add_source(command: argparse.ArgumentParser, source: Source) -> None:
    """The arguments of a conversion."""
    add = command.add_argument
    for name, text in source.inputs.items():
        add(name, type=Path, metavar=name.upper(), help=text)
    add("--out", type=Path, required=True, metavar="DIR", help="directory to write; its name names the shards")
    for name, (default, text) in source.options.items():
        add(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default {default})")
    add("--size", type=_positive, default=64, metavar="N", help="height and width, pixels (default 64)")
    add("--gray", action="store_true", help="one channel instead of RGB")
    if source.decodes:
        add("--crop", choices=get_args(Crop), default="none", help=CROP_HELP)
        add("--resize", choices=get_args(Resize), default="area", help=RESIZE_HELP)
        add(
            "--skip-bad", action="store_true", help="leave out images that cannot be read, and record them in the index"
        )
    else:
        command.set_defaults(crop="none", resize="area", skip_bad=False)
    add("--shard-images", type=_positive, default=512, metavar="N", help="images a shard (default 512)")
    add("--shuffle-seed", type=int, default=0, metavar="N", help="seed of the order in the shards (default 0)")
    add("--workers", type=_positive, default=cores(), metavar="N", help=f"processes (default all cores, {cores()})")
    add("--quiet", action="store_true", help="print nothing but errors")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be positive, got {number}")
    return number


def _dashed(argument: str) -> str:
    """``--shuffle_seed=1`` as ``--shuffle-seed=1``; the trainer's flags have underscores, so both are taken."""
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else argument


def _convert(name: str, arguments: argparse.Namespace) -> None:
    """Convert one source."""
    began = time.monotonic()
    source = SOURCES[name]
    inputs = tuple(getattr(arguments, key) for key in source.inputs)
    values = {key: getattr(arguments, key) for key in source.options}
    target = Target(arguments.size, 1 if arguments.gray else 3, arguments.crop, arguments.resize)
    if target.size < source.smallest_size:
        raise ValueError(f"--size: {name} needs at least {source.smallest_size}, got {target.size}")
    if target.size**2 > MAX_PIXELS:
        raise ValueError(f"--size: an image must have at most {MAX_PIXELS:,} pixels, got {target.size} x {target.size}")
    with claimed(arguments.out) as scratch:
        found = source.open(Request(inputs, values, scratch))
        settings = Settings(
            format=FORMAT,
            name=arguments.out.resolve().name,
            source=name,
            source_files=found.files,
            source_options=values,
            source_images=len(found.records),
            classes=found.classes,
            target=target,
            shuffle_seed=arguments.shuffle_seed,
            shard_images=arguments.shard_images,
        )
        with _progress(len(found.records), quiet=arguments.quiet) as report:
            index, converted = convert(
                found.records,
                arguments.out,
                settings=settings,
                workers=arguments.workers,
                skip_bad=arguments.skip_bad,
                report=report,
            )
    if not arguments.quiet:
        _print_summary(index, converted, found.notes, seconds=time.monotonic() - began)


def _print_summary(index: Index, converted: int, notes: Sequence[str], *, seconds: float) -> None:
    contents = index.contents
    for note in notes:
        print(note)
    if contents.skipped:
        print(f"skipped images that cannot be read, listed in the index: {len(contents.skipped):,}")
        for image in contents.skipped:
            print(f"  {image.name}: {image.reason}")
    if converted == 0:
        print(f"nothing to do: {index.directory} is whole")
    else:
        rate = f"converted {converted:,} images in {seconds:.1f} s, {converted / seconds:,.0f} images/s"
        print(f"{rate}, {_megabytes(index)} in {len(contents.shards):,} shards")
    print(f"{contents.images:,} images, {len(contents.settings.classes):,} classes: {index.directory}")
    print(f"next: {PROGRAM} info {index.directory}")


def _info(arguments: argparse.Namespace) -> None:
    index = read_index(arguments.directory)
    if arguments.json:
        print(json.dumps({"directory": str(index.directory), **dataclasses.asdict(index.contents)}, indent=1))
    else:
        _print_info(index)
    if arguments.out or not arguments.json:
        sheet = arguments.out or arguments.directory / SHEET_NAME
        _write_sheet(index, sheet)
    if not arguments.json:
        print(f"contact sheet: {sheet}")


def _print_info(index: Index) -> None:
    contents = index.contents
    settings, target = contents.settings, contents.settings.target
    colours = "RGB" if target.channels == 3 else "grey"
    print(f"{settings.name}: {contents.images:,} images of {target.size} x {target.size}, {colours}")
    print(f"{len(contents.shards):,} shards, {_megabytes(index)}; shuffle seed {settings.shuffle_seed}")
    print(f"made with crop {target.crop}, resize {target.resize} by dcgan_dist {contents.tool}")
    options = "".join(f" --{name} {value}" for name, value in settings.source_options.items())
    print(f"source: {settings.source}{options}, {settings.source_images:,} images, {len(contents.skipped):,} skipped")
    for file in settings.source_files:
        print(f"  {file.name}: {file.bytes:,} bytes, sha256 {file.sha256}")
    table = Table("class", "name", "images", "share")
    for column in (0, 2, 3):
        table.columns[column].justify = "right"
    for label, (name, count) in enumerate(zip(settings.classes, contents.class_counts, strict=True)):
        table.add_row(str(label), Text(name), f"{count:,}", f"{count / contents.images:.1%}")
    Console().print(table)


def _write_sheet(index: Index, path: Path) -> None:
    """Write a grid with a row of each class, in order; of the first images when the classes are one or very many."""
    classes = len(index.contents.settings.classes)
    if 1 < classes <= SHEET_CLASSES:
        rows = [np.flatnonzero(index.labels == label)[:SHEET_PER_CLASS] for label in range(classes)]
        sheet = np.full((classes, SHEET_PER_CLASS, *index.shape[1:]), 255, np.uint8)  # white where a class has fewer
        for row, places in enumerate(rows):
            sheet[row, : len(places)] = read_rows(index, places.tolist())
        picture = grid(sheet.reshape(-1, *index.shape[1:]), SHEET_PER_CLASS)
    else:
        picture = grid(read_rows(index, range(min(SHEET_PER_CLASS**2, index.contents.images))))
    write_png(path, picture)


def _verify(arguments: argparse.Namespace) -> None:
    index = read_index(arguments.directory)
    with _progress(index.contents.images, quiet=arguments.quiet) as report:
        problems = verify(index, report=report)
    if problems:
        _fail("\n  ".join([f"{arguments.directory}: {len(problems):,} things are damaged:", *problems]), 1)
    if not arguments.quiet:
        contents = index.contents
        print(f"checked {contents.images:,} images, {len(contents.shards):,} shards, {_megabytes(index)}: all whole")


def _megabytes(index: Index) -> str:
    return f"{sum(shard.bytes for shard in index.contents.shards) / 1e6:,.1f} MB"


class _Rate(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        """The speed of the last half minute."""
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")


@contextlib.contextmanager
def _progress(total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Something to call with numbers of finished images: a bar on a terminal, else a line now and then, on stderr."""
    if quiet:
        yield lambda count: None
    elif sys.stderr.isatty():
        columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=total)
            yield lambda count: bar.advance(task, count)
    else:
        began = time.monotonic()
        done, last = 0, began

        def line(count: int) -> None:
            nonlocal done, last
            done, now = done + count, time.monotonic()
            if now - last >= PLAIN_LINE_SECONDS or done == total:
                last = now
                print(f"{done:,} of {total:,} images, {now - began:.0f} s", file=sys.stderr, flush=True)

        yield line


if __name__ == "__main__":
    main()
