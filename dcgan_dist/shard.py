"""Command dcgan-shard: an original data set -> checked shards; what is in them; whether they are whole."""

import argparse
import contextlib
import dataclasses
import functools
import inspect
import json
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NoReturn, get_args

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dcgan_dist.data.claim import Part, claimed
from dcgan_dist.data.conversion import write_shards
from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.members import printable
from dcgan_dist.data.shard_writing import UnreadableImagesError, finish
from dcgan_dist.data.shards import Index, read_images, read_index, verify
from dcgan_dist.data.sources import SOURCES, Option, Source, SourceSet
from dcgan_dist.data.subset import names_in
from dcgan_dist.data.transforms import Crop, Format, Resize
from dcgan_dist.images import grid, write_png
from dcgan_dist.machine import cores
from dcgan_dist.terminal import INTERRUPTED, SCREEN_COLUMNS, can_draw, ending, in_words, no_traceback
from dcgan_dist.words import counted

PROGRAM = "dcgan-shard"
PLAIN_LINE_SECONDS = 10
SHEET_PER_CLASS = 8
SHEET_CLASSES = 24
SHEET_NAME = "contact-sheet.png"
EXAMPLE = "shards/flowers17-32"
SHOWN_SOURCES = ("flowers17", "folder", "synthetic")
SHOWN_CLASSES = 200
CROP_HELP = (
    "none: the whole image, squashed to the square (default); center: the square in its middle; square: the whole "
    "image in its own shape, padded with black to a square"
)
RESIZE_HELP = "area: mean of what a pixel covers (default); bilinear: plain, without smoothing; lanczos"
SKIP_BAD_HELP = "leave out images that cannot be read, and record them in the index"
PART_HELP = (
    "convert part I of N (1 to N) alone, beside others, for example in a job array; any can be run again; when all are "
    "done, 'dcgan-shard finish DIR' writes the index"
)
FORMAT_HELP = "of the images in the shards: png (default) and webp lose nothing, jpg (quality 95) does"


@no_traceback()
def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand; exit 0 done, 1 failed, 2 the user's mistake, 130 interrupted."""
    arguments = _parser().parse_args([_dashed(argument) for argument in (sys.argv[1:] if argv is None else argv)])
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it cleans up as Ctrl-C does
    try:
        arguments.run(arguments)
    except BrokenPipeError:
        raise
    except DamagedError as error:
        _fail(str(error), 1)
    except ValueError as error:
        _fail(str(error), 2)
    except UnreadableImagesError as error:
        state = "there is no index (--skip-bad leaves them out)"
        if error.finished:
            state = f"{arguments.out} is finished without them and stays so (--skip-bad says that this is meant)"
        _fail(f"{error}; {state}:", 1, *(f"{image.name}: {image.reason}" for image in error.skipped))
    except BrokenProcessPool:
        _fail("a worker process died (out of memory?); run again, with fewer --workers", 1)
    except MemoryError:
        _fail("out of memory; fewer --workers need less", 1)
    except OSError as error:
        _fail(in_words(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted; the shards that were finished are kept, the same command goes on from there", INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, code: int, *lines: str) -> NoReturn:
    print("\n  ".join(printable(line) for line in (f"{PROGRAM}: error: {message}", *lines)), file=sys.stderr)
    sys.exit(code)


def _say(line: str) -> None:
    """Print a line in which names that somebody else has chosen may stand."""
    print(printable(line))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        PROGRAM,
        description="Convert an original data set to WebDataset shards with an index, or look at such shards.",
        epilog=ending(PROGRAM, *(f"{name} {SOURCES[name].example}" for name in SHOWN_SOURCES)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, text: str, *examples: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=textwrap.fill(f"{text[0].upper()}{text[1:]}.", SCREEN_COLUMNS),
            epilog=ending(PROGRAM, *(f"{name} {example}" for example in examples)),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    for name, source in SOURCES.items():
        command = add(name, source.help, source.example, f"{source.example} --part 1/8")
        _add_source(command, source)
        command.usage = f"{PROGRAM} {name} {'FILE... ' * bool(source.inputs)}--out DIR [OPTION...]"
        command.set_defaults(run=functools.partial(_convert, name))
    text = "check what the parts of a conversion with --part wrote, and write the index"
    command = add("finish", text, EXAMPLE, f"{EXAMPLE} --skip-bad")
    command.add_argument("directory", type=Path, metavar="DIR")
    command.add_argument("--skip-bad", action="store_true", help=SKIP_BAD_HELP)
    command.add_argument("--quiet", action="store_true", help="print nothing but errors")
    command.set_defaults(run=_finish)
    text = "what is in a directory of shards: a table and a contact sheet"
    command = add("info", text, EXAMPLE, f"{EXAMPLE} --out sheet.png", f"{EXAMPLE} --json")
    command.add_argument("directory", type=Path, metavar="DIR")
    command.add_argument("--out", type=Path, metavar="FILE", help=f"the contact sheet (default DIR/{SHEET_NAME})")
    command.add_argument(
        "--json",
        action="store_true",
        help="print JSON, and nothing else, on standard output; a contact sheet only with --out",
    )
    command.set_defaults(run=_info)
    text = "check every byte and decode every image of a directory of shards"
    command = add("verify", text, EXAMPLE, f"{EXAMPLE} --json")
    command.add_argument("directory", type=Path, metavar="DIR")
    command.add_argument("--json", action="store_true", help="print JSON, and nothing else, on standard output")
    command.add_argument("--quiet", action="store_true", help="print nothing but damage")
    command.set_defaults(run=_verify)
    return parser


def _add_source(command: argparse.ArgumentParser, source: Source) -> None:
    """The arguments of a conversion, with the defaults of ``write_shards``."""
    parameters = inspect.signature(write_shards).parameters.values()
    command.set_defaults(**{each.name: each.default for each in parameters if each.default is not each.empty})
    add = command.add_argument
    if source.inputs:
        add("inputs", type=Path, nargs="+", metavar="FILE", help=source.inputs)
    add("--out", type=Path, required=True, metavar="DIR", help="directory to write; its name names the shards")
    for name, option in source.options.items():
        _add_option(command, name, option)
    add("--size", type=_positive, metavar="N", help="height and width, pixels (default %(default)s)")
    add("--gray", action="store_true", help="one channel instead of RGB")
    if source.decodes:
        add("--crop", choices=get_args(Crop), help=CROP_HELP)
        add("--resize", choices=get_args(Resize), help=RESIZE_HELP)
        add("--skip-bad", action="store_true", help=SKIP_BAD_HELP)
    add("--format", choices=get_args(Format), help=FORMAT_HELP)
    add("--classes", type=names_in, metavar="NAME,NAME", help="these classes alone (default all)")
    add("--limit", type=_positive, metavar="N", help="N images alone, drawn at random (default all)")
    add("--subset-seed", type=int, metavar="N", help="seed of that draw (default %(default)s)")
    add("--shard-images", type=_positive, metavar="N", help="images a shard (default %(default)s)")
    add("--shuffle-seed", type=int, metavar="N", help="seed of the order in the shards (default %(default)s)")
    add("--workers", type=_positive, default=cores(), metavar="N", help=f"processes (default all cores, {cores()})")
    add("--part", type=_part, metavar="I/N", help=PART_HELP)
    add("--quiet", action="store_true", help="print nothing but errors")


def _add_option(command: argparse.ArgumentParser, name: str, option: Option) -> None:
    """An option of one source."""
    text = f"{option.help} (default {option.default})"
    if isinstance(option.default, int):
        command.add_argument(f"--{name}", type=int, default=option.default, metavar="N", help=text)
    elif option.choices:
        command.add_argument(f"--{name}", choices=option.choices, default=option.default, help=text)
    else:
        command.add_argument(f"--{name}", default=option.default, metavar="NAME", help=text)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be positive, got {number}")
    return number


def _part(text: str) -> Part:
    number, _, count = text.partition("/")
    try:
        return Part(int(number), int(count))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be I/N with I from 1 to N, as 2/8, got {text}") from None


def _dashed(argument: str) -> str:
    """``--shuffle_seed=1`` as ``--shuffle-seed=1``; the trainer's flags have underscores, so both are taken."""
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else argument


def _convert(name: str, arguments: argparse.Namespace) -> None:
    """Convert one source."""
    began = time.monotonic()
    part: Part = arguments.part

    @contextlib.contextmanager
    def watch(found: SourceSet, images: int) -> Iterator[Callable[[int], None]]:
        if not arguments.quiet:
            _print_source(found, grey=SOURCES[name].grey and not arguments.gray)
        with _progress(images, quiet=arguments.quiet) as report:
            yield report

    written = write_shards(
        name,
        arguments.out,
        inputs=arguments.inputs,
        options={key: getattr(arguments, key) for key in SOURCES[name].options},
        size=arguments.size,
        gray=arguments.gray,
        crop=arguments.crop,
        resize=arguments.resize,
        format=arguments.format,
        classes=arguments.classes,
        limit=arguments.limit,
        subset_seed=arguments.subset_seed,
        shard_images=arguments.shard_images,
        shuffle_seed=arguments.shuffle_seed,
        workers=arguments.workers,
        skip_bad=arguments.skip_bad,
        part=part,
        watch=watch,
    )
    seconds = time.monotonic() - began
    if arguments.quiet:
        return
    if written.index:
        _print_summary(written.index, written.images, seconds=seconds)
    else:
        _say(f"part {part}: {_rate(written.images, seconds)} in {counted(written.shards, 'shard')}")
        _say(f"when all {part.count} parts are done: {PROGRAM} finish {arguments.out}")


def _finish(arguments: argparse.Namespace) -> None:
    began = time.monotonic()
    if not arguments.directory.is_dir():
        raise ValueError(f"{arguments.directory}: must be a directory that parts of a conversion were written to")
    with claimed(arguments.directory), _progress(None, quiet=arguments.quiet) as report:
        index = finish(arguments.directory, skip_bad=arguments.skip_bad, report=report)
    if not arguments.quiet:
        _say(f"checked {counted(len(index.contents.shards), 'shard')} in {time.monotonic() - began:.1f} s")
        _print_end(index)


def _print_source(found: SourceSet, *, grey: bool) -> None:
    """What was found, before the work begins."""
    for file in found.files:
        if file.known:
            _say(f"{file.name}: {file.known}")
    for note in found.notes:
        _say(note)
    if grey:
        _say("these images are grey: --gray makes shards of one channel, a third of the memory in training")


def _print_summary(index: Index, converted: int, *, seconds: float) -> None:
    contents = index.contents
    if contents.skipped:
        _say(f"skipped images that cannot be read, listed in the index: {len(contents.skipped):,}")
        for image in contents.skipped:
            _say(f"  {image.name}: {image.reason}")
    if converted == 0:
        _say(f"nothing to do: {index.directory} is whole")
    else:
        _say(f"{_rate(converted, seconds)}, {_megabytes(index)} in {counted(len(contents.shards), 'shard')}")
    _print_end(index)


def _rate(images: int, seconds: float) -> str:
    return f"converted {images:,} images in {seconds:.1f} s, {images / seconds:,.0f} images/s"


def _print_end(index: Index) -> None:
    contents = index.contents
    _say(f"{contents.images:,} images, {len(contents.settings.classes):,} classes: {index.directory}")
    _say(f"next: {PROGRAM} info {index.directory}")


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
        _say(f"contact sheet: {sheet}")


def _print_info(index: Index) -> None:
    contents = index.contents
    settings, target, subset = contents.settings, contents.settings.target, contents.settings.subset
    colours = "RGB" if target.channels == 3 else "grey"
    _say(f"{settings.name}: {contents.images:,} images of {target.size} x {target.size}, {colours}, {target.format}")
    _say(f"{len(contents.shards):,} shards, {_megabytes(index)}; shuffle seed {settings.shuffle_seed}")
    versions = dict.fromkeys(shard.made_with or f"dcgan_dist {contents.tool}" for shard in contents.shards)
    _say(f"made with crop {target.crop}, resize {target.resize} by {' and '.join(versions)}")
    options = "".join(f" --{name} {value}" for name, value in settings.source_options.items())
    _say(f"source: {settings.source}{options}, {settings.source_images:,} images, {len(contents.skipped):,} skipped")
    if subset.limit:
        _say(f"of these, at most {subset.limit:,} images, drawn with seed {subset.subset_seed}")
    for file in settings.source_files:
        _say(f"  {file.name}: {file.bytes:,} bytes, sha256 {file.sha256}" + (f"; {file.known}" if file.known else ""))
    table = Table("class", "name", "images", "share")
    for column in (0, 2, 3):
        table.columns[column].justify = "right"
    counted = list(zip(settings.classes, contents.class_counts, strict=True))
    for label, (name, count) in enumerate(counted[:SHOWN_CLASSES]):
        table.add_row(str(label), Text(printable(name)), f"{count:,}", f"{count / contents.images:.1%}")
    Console().print(table)
    if len(counted) > SHOWN_CLASSES:
        _say(f"and {len(counted) - SHOWN_CLASSES:,} more classes; --json has all")


def _write_sheet(index: Index, path: Path) -> None:
    """Write a grid with a row of each class, in order; of the first images when the classes are one or very many."""
    classes = len(index.contents.settings.classes)
    if 1 < classes <= SHEET_CLASSES:
        rows = [np.flatnonzero(index.labels == label)[:SHEET_PER_CLASS] for label in range(classes)]
        sheet = np.full((classes, SHEET_PER_CLASS, *index.shape[1:]), 255, np.uint8)  # white where a class has fewer
        for row, places in enumerate(rows):
            sheet[row, : len(places)] = read_images(index, places.tolist())
        picture = grid(sheet.reshape(-1, *index.shape[1:]), SHEET_PER_CLASS)
    else:
        picture = grid(read_images(index, range(min(SHEET_PER_CLASS**2, index.contents.images))))
    write_png(path, picture)


def _verify(arguments: argparse.Namespace) -> None:
    sizes: dict[str, int | None] = {"images": None, "shards": None, "bytes": None}
    try:
        index = read_index(arguments.directory)
    except DamagedError as error:
        if arguments.json:
            _print_verified(arguments.directory, sizes, [str(error)])
        raise
    with _progress(index.contents.images, quiet=arguments.quiet) as report:
        problems = verify(index, report=report)
    contents = index.contents
    if arguments.json:
        sizes = {"images": contents.images, "shards": len(contents.shards), "bytes": _bytes(index)}
        _print_verified(arguments.directory, sizes, problems)
    if problems:
        _fail(f"{arguments.directory}: {len(problems):,} things are damaged:", 1, *problems)
    if not (arguments.quiet or arguments.json):
        _say(f"checked {contents.images:,} images, {len(contents.shards):,} shards, {_megabytes(index)}: all whole")


def _print_verified(directory: Path, sizes: Mapping[str, int | None], problems: Sequence[str]) -> None:
    print(json.dumps({"directory": str(directory), "whole": not problems, **sizes, "problems": problems}))


def _megabytes(index: Index) -> str:
    return f"{_bytes(index) / 1e6:,.1f} MB"


def _bytes(index: Index) -> int:
    return sum(shard.bytes for shard in index.contents.shards)


class _Rate(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        """The speed of the last half minute."""
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")


@contextlib.contextmanager
def _progress(total: int | None, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Something to call with numbers of finished images: a bar on a terminal, else a line now and then, on stderr.

    Args:
        total: How many there will be, if that is known.
        quiet: Show nothing.
    """
    if quiet:
        yield lambda count: None
    elif can_draw(sys.stderr):
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
                of_all = f" of {total:,}" if total else ""
                print(f"{done:,}{of_all} images, {now - began:.0f} s", file=sys.stderr, flush=True)

        yield line


if __name__ == "__main__":
    main()
