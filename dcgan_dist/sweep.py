"""Command dcgan-sweep: the points of a sweep file, and what the launchers need to run one of them."""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dcgan_dist.cli import fail, read_yaml, settings
from dcgan_dist.config import LENGTHS, TrainConfig, changed
from dcgan_dist.sweep_file import Point, Sweep, read_sweep

PROGRAM = "dcgan-sweep"


def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand; exit 0 done, 2 the user's mistake."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except ValueError as error:
        fail(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        PROGRAM,
        description="The points of a sweep file in W&B's schema; launchers/submit-sweep runs them on a cluster.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        command.add_argument("file", type=Path, metavar="FILE", help="the sweep, as configs/sweeps/batch_size.yaml")
        return command

    add("count", "check a sweep and print its number of points").set_defaults(run=_count)
    add("list", "check a sweep and print its points with the names of their run directories").set_defaults(run=_list)
    command = add("args", "print the arguments of dcgan_dist.train for one point, one a line")
    command.add_argument("index", type=int, metavar="I", help="its number, from 0")
    command.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are (default runs)")
    command.set_defaults(run=_args)
    command = add("report", "write one page and a table about the runs: means over seeds, intervals, tests, plots")
    command.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are (default runs)")
    command.add_argument(
        "--out", type=Path, metavar="HTML", help="page (default DIR/SWEEP/report.html); a .csv beside it"
    )
    command.add_argument(
        "--baseline",
        metavar="NAME=VALUE,...",
        help="setting to compare with (default: the recipe's own values, else the first of the file)",
    )
    at = command.add_mutually_exclusive_group()
    at.add_argument(
        "--step", type=int, metavar="N", help="compare at this step (default: the last that all done runs have)"
    )
    at.add_argument("--images", type=int, metavar="N", help="compare after this many real images seen")
    command.add_argument("--wandb", action="store_true", help="log table and page to W&B too, offline without a key")
    command.set_defaults(run=_report)
    return parser


def checked_sweep(path: Path) -> Sweep:
    """The sweep of a file whose points are all runs that could start, as far as their settings tell.

    Raises:
        ValueError: naming the file, the point and the setting.
    """
    sweep = read_sweep(path)
    for index in range(sweep.count):
        point = sweep.point(index)
        try:
            config_of(point)
        except ValueError as error:
            raise ValueError(f"sweep {path}, point {index} ({point.name}): {error}") from None
    return sweep


def config_of(point: Point) -> TrainConfig:
    """The settings of a point's run.

    Raises:
        ValueError: naming the setting that is wrong.
    """
    values = settings(point.flags)
    recipe = _recipe(values["config"]) if "config" in values else {}
    if set(values) & set(LENGTHS):
        recipe = {name: value for name, value in recipe.items() if name not in LENGTHS}
    return changed(TrainConfig(), recipe | values)


@functools.cache
def _recipe(path: str) -> dict[str, object]:
    return read_yaml(Path(path))


def _count(arguments: argparse.Namespace) -> None:
    print(checked_sweep(arguments.file).count)


def _list(arguments: argparse.Namespace) -> None:
    sweep = checked_sweep(arguments.file)
    table = Table("point", "run directory", title=f"sweep {sweep.name}, {sweep.method}")
    table.columns[0].justify = "right"
    for index in range(sweep.count):
        table.add_row(str(index), f"{sweep.name}/{sweep.point(index).name}")
    Console().print(table)


def _args(arguments: argparse.Namespace) -> None:
    sweep = read_sweep(arguments.file)
    point = sweep.point(arguments.index)
    print(f"--run_dir={arguments.runs / sweep.name / point.name}", *point.flags, sep="\n")


def _report(arguments: argparse.Namespace) -> None:
    from dcgan_dist.sweep_report import write_sweep_report  # torch and scipy take seconds to import, --help should not

    options = {name: getattr(arguments, name) for name in ("out", "baseline", "step", "images", "wandb")}
    try:
        told = write_sweep_report(checked_sweep(arguments.file), arguments.runs, **options)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), code=1)
    print(*told, sep="\n")


if __name__ == "__main__":
    main()
