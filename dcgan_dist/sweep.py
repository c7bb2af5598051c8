"""Command dcgan-sweep: trains the points of a sweep file here, says how far they are, and helps the launchers."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dcgan_dist.run_lock import is_locked
from dcgan_dist.sweeps.file import Point, Sweep
from dcgan_dist.sweeps.plan import Plan, visible_gpus
from dcgan_dist.sweeps.points import STATES, Progress, checked_sweep, eta_seconds, own_settings, progress_of
from dcgan_dist.sweeps.run import SweepRun
from dcgan_dist.sweeps.screen import Screen
from dcgan_dist.terminal import EXIT_CODES, TRAINING_EXIT_CODES, command, ending

PROGRAM = "dcgan-sweep"
DESCRIPTION = """The points of a sweep file in W&B's schema: train those that are left on this machine, or see
how far they are. launchers/submit-sweep trains them on a cluster. docs/sweeps.md says more."""
EXAMPLE = "configs/sweeps/batch_size.yaml"
MOST_USED = ("list", "run", "status", "report")
PIPE_COLUMNS = 200
"""Width of tables that do not go to a terminal."""


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand; exit 0 done, 1 a point failed, 2 the user's mistake, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    parser = _parser()
    arguments = parser.parse_args(words[:end])
    arguments.words, arguments.flags = words, words[end + 1 :]
    if arguments.flags and arguments.run not in (_run, _count, _args):
        parser.error(f"only run, count and args take flags of dcgan_dist.train, got {shlex.join(arguments.flags)}")
    arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        PROGRAM,
        description=DESCRIPTION,
        epilog=ending(PROGRAM, *(f"{name} {EXAMPLE}" for name in MOST_USED)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, text: str, *options: str, exit_codes: str = EXIT_CODES) -> argparse.ArgumentParser:
        """A subcommand; each of ``options`` makes an example of it."""
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=ending(PROGRAM, *(f"{name} {EXAMPLE} {each}" for each in options), exit_codes=exit_codes),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_argument(
            "file",
            type=Path,
            metavar="FILE",
            help=f"the sweep, as {EXAMPLE}, or the name of one that comes with the package",
        )
        return command

    def add_runs(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are (default runs)"
        )

    text = "train the points that are left on this machine; a second run of the same file helps"
    command = add("run", text, "", "--jobs 2", "-- --data shards/mine --max_steps 2000", exit_codes=TRAINING_EXIT_CODES)
    command.usage = f"{PROGRAM} run FILE [--jobs N] [--processes N] [--runs DIR] [--quiet] [-- FLAG...]"
    command.description = f"{command.description}\nFLAG: of dcgan_dist.train, for all points."
    command.add_argument(
        "--jobs", type=_positive, metavar="N", help="points at a time (default: GPUs divided by --processes, else 1)"
    )
    command.add_argument(
        "--processes", type=_positive, default=1, metavar="N", help="of each point, on GPUs one each (default 1)"
    )
    add_runs(command)
    command.add_argument(
        "--quiet", action="store_true", help="print only what fails, warnings, and what came of it all"
    )
    command.set_defaults(run=_run)
    command = add("status", "print how far the points are, also while others train them", "", "--json")
    add_runs(command)
    command.add_argument("--json", action="store_true", help="print JSON, and nothing else, on standard output")
    command.set_defaults(run=_status)
    command = add("count", "check a sweep and print its number of points", "", "-- --max_steps 2000")
    command.usage = f"{PROGRAM} count FILE [-- FLAG...]"
    command.set_defaults(run=_count)
    command = add("list", "check a sweep and print its points with the names of their run directories", "")
    command.set_defaults(run=_list)
    text = "print the arguments of dcgan_dist.train for one point, one a line"
    command = add("args", text, "0", "0 --labels", "0 -- --max_steps 2000")
    command.usage = f"{PROGRAM} args FILE I [--labels] [--runs DIR] [-- FLAG...]"
    command.description = (
        f"{command.description}\nFLAG: of dcgan_dist.train, for all points; they are not printed, but a "
        "point's state\nobeys them."
    )
    command.add_argument("index", type=int, metavar="I", help="its number, from 0")
    command.add_argument(
        "--labels", action="store_true", help="first three lines with its group and job type in W&B, and its state"
    )
    add_runs(command)
    command.set_defaults(run=_args)
    text = "write one page and a table about the runs: means over seeds, intervals, tests, plots"
    command = add("report", text, "", "--baseline batch_size=16", "--images 500000 --out sweep.html")
    add_runs(command)
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


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {text!r}")
    return int(text)


def _run(arguments: argparse.Namespace) -> None:
    sweep = checked_sweep(arguments.file, arguments.flags)
    gpus = visible_gpus()
    plan = Plan(
        sweep=sweep,
        runs=arguments.runs,
        flags=tuple(arguments.flags),
        jobs=arguments.jobs or max(1, len(gpus) // arguments.processes),
        processes=arguments.processes,
        gpus=gpus,
        again=shlex.join([PROGRAM, *arguments.words]),
    )
    raise SystemExit(SweepRun(plan, Screen(sweep.name, sweep.count, quiet=arguments.quiet)).run())


def _status(arguments: argparse.Namespace) -> None:
    sweep, directory = checked_sweep(arguments.file), arguments.runs
    points = [sweep.point(index) for index in range(sweep.count)]
    found = [_progress(point, directory / sweep.name, metric=sweep.metric) for point in points]
    counts = {state: sum(each.state == state for each in found) for state in STATES}
    seconds = eta_seconds(found, at_once=counts["running"])
    if arguments.json:
        rows = [
            {
                "point": point.index,
                "name": point.name,
                "run_dir": str(directory / sweep.name / point.name),
                "parameters": point.parameters,
                **asdict(each),
            }
            for point, each in zip(points, found, strict=True)
        ]
        told = {"sweep": sweep.name, "metric": sweep.metric, "goal": sweep.goal, "counts": counts}
        print(json.dumps(told | {"eta_seconds": seconds, "points": rows}, indent=1))
        return
    console = _console()
    console.print(_table(sweep, points, found))
    console.print(", ".join(f"{count} {state}" for state, count in counts.items() if count or state == "done"))
    if seconds is not None:
        console.print(f"ETA {timedelta(seconds=round(seconds))}, {counts['running']} at a time")


def _console() -> Console:
    """Standard output for tables."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    return console


def _progress(point: Point, directory: Path, *, metric: str | None) -> Progress:
    """How far a point is; a log that is locked says that ``dcgan-sweep run`` has taken it and trains in a moment."""
    found = progress_of(directory / point.name, own_settings(point), metric=metric)
    try:
        taken = is_locked(directory / f"{point.name}.log")
    except OSError:  # no locks on this file system
        taken = False
    if taken and found.state not in ("done", "running"):
        return replace(found, state="running", reason="starting")
    return found


def _table(sweep: Sweep, points: Sequence[Point], found: Sequence[Progress]) -> Table:
    title = f"sweep {sweep.name}, {sweep.method}"
    table = Table("point", "run directory", "state", "step", sweep.metric or "metric", "", title=title)
    for column in (0, 3, 4):
        table.columns[column].justify = "right"
    for point, each in zip(points, found, strict=True):
        step = f"{each.step:,}" if each.step else ""
        metric = "" if each.metric is None else f"{each.metric:.4g}"
        table.add_row(
            str(point.index),
            f"{sweep.name}/{point.name}",
            each.state,
            f"{step}/{each.total_steps:,}" if step and each.total_steps else step,
            metric,
            each.reason.partition("\n")[0],
        )
    return table


def _count(arguments: argparse.Namespace) -> None:
    print(checked_sweep(arguments.file, arguments.flags).count)


def _list(arguments: argparse.Namespace) -> None:
    sweep = checked_sweep(arguments.file)
    table = Table("point", "run directory", title=f"sweep {sweep.name}, {sweep.method}")
    table.columns[0].justify = "right"
    for index in range(sweep.count):
        table.add_row(str(index), f"{sweep.name}/{sweep.point(index).name}")
    _console().print(table)


def _args(arguments: argparse.Namespace) -> None:
    sweep = checked_sweep(arguments.file, arguments.flags)
    point = sweep.point(arguments.index)
    run_dir = arguments.runs / sweep.name / point.name
    found = progress_of(run_dir, own_settings(point, arguments.flags))
    if found.state == "changed":
        raise ValueError(f"sweep {arguments.file}, point {point.index}: {run_dir} had other settings: {found.reason}")
    labels = [point.group, point.job_type, found.state] if arguments.labels else []
    print(*labels, f"--run_dir={run_dir}", *point.flags, sep="\n")


def _report(arguments: argparse.Namespace) -> None:
    from dcgan_dist.sweeps.report import write_sweep_report  # torch and scipy take seconds to import, --help should not

    options = {name: getattr(arguments, name) for name in ("out", "baseline", "step", "images", "wandb")}
    print(*write_sweep_report(checked_sweep(arguments.file), arguments.runs, **options), sep="\n")


if __name__ == "__main__":
    main()
