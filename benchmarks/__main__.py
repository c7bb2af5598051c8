"""All that is measured of speed, with the machine's name: ``python -m benchmarks``, which writes benchmarks/results.md.

``--quick`` times one step beside the textbook's alone, in less than two minutes, and fails where a ratio has fallen
more than a fifth below the recorded one. Ratios hold from machine to machine better than times do, not well: record
them anew (no ``--quick``) on the machine that they guard.
"""

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import torch

from benchmarks import changes, epochs, overheads, parts, processes, steps
from benchmarks.loading import converted
from dcgan_dist.files import write_whole
from dcgan_dist.machine import cores, cpu_model

HERE = Path(__file__).resolve().parent
RECORD, PAGE = HERE / "results.json", HERE / "results.md"
LARGEST_LOSS = 0.2
ARCHIVE = Path(os.environ.get("DCGAN_SHARED", "../shared")) / "data" / "flowers17" / "17flowers.tgz"


def machine() -> str:
    """What was measured on, in a line."""
    return f"{cpu_model()}, {cores()} cores, PyTorch {torch.__version__}, {date.today().isoformat()}"


def quick() -> int:
    """Compare ratios of steps with the recorded ones; the exit code."""
    if not RECORD.exists():
        print(f"error: nothing to compare with, {RECORD} is missing: python -m benchmarks writes it", file=sys.stderr)
        return 2
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    print(f"{machine()}; recorded on {recorded['machine']}")
    lost = False
    for case in steps.CASES:
        found = steps.in_steps(case, turns=3, beside={})
        for side in ("float32", "bf16"):
            ratio, before = found.ratio("textbook", side), recorded["ratios"][f"{case} {side}"]
            is_lost = ratio < (1 - LARGEST_LOSS) * before
            lost |= is_lost
            told = "LOST" if is_lost else "fine"
            print(f"{case}, {side}: {ratio:.2f} times the textbook's pace, recorded {before:.2f}: {told}", flush=True)
    return int(lost)


def whole(archive: Path, scratch: Path, *, turns: int) -> None:
    """Measure everything and write it down, part by part."""
    ratios: dict[str, float] = {}
    lines = ["# Speed", "", f"Measured by `make bench` on {machine()}. Medians; the spread is in brackets."]
    lines += ["", "## One step beside the textbook's", "", *steps.HEADER]
    for case in steps.CASES:
        found = steps.measure(case, turns=turns)
        ratios |= {f"{case} {side}": round(found.ratio(side), 3) for side in ("float32", "bf16")}
        lines += found.rows()
        print("\n".join(found.rows()), flush=True)
    write_whole(RECORD, (json.dumps({"machine": machine(), "ratios": ratios}, indent=1) + "\n").encode())
    lines += [""] + [f"- {case}: {steps.agreement(steps.CASES[case])}." for case in steps.CASES]
    parts_of_page: dict[str, Callable[[], list[str]]] = {
        "What each change brings": lambda: _told(changes.main, []),
        "Epochs of Flowers-17": lambda: _told(epochs.main, [str(archive), "--scratch", str(scratch)]),
        "Where the time of a step goes": lambda: _told(parts.main, []),
        "Several processes on the same cores": lambda: _told(processes.main, []),
        "The start, and what rows cost": lambda: _told(overheads.main, [str(converted(archive, scratch, 32))]),
    }
    if not archive.exists():
        print(f"{archive} is not here: no epochs, start and rows", file=sys.stderr)
        del parts_of_page["Epochs of Flowers-17"], parts_of_page["The start, and what rows cost"]
    for title, measure in parts_of_page.items():
        lines += ["", f"## {title}", "", *measure()]
        write_whole(PAGE, ("\n".join(lines) + "\n").encode())
    print(f"written: {PAGE}")


def _told(benchmark: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> list[str]:
    """What a benchmark prints, which is printed too."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        benchmark(arguments)
    print(output.getvalue(), flush=True)
    return output.getvalue().rstrip("\n").splitlines()


def main() -> None:
    """See ``--help``."""
    parser = argparse.ArgumentParser("benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="compare one step with what is recorded")
    parser.add_argument("--archive", type=Path, default=ARCHIVE, help="17flowers.tgz (default: %(default)s)")
    parser.add_argument("--scratch", type=Path, default=Path("benchmarks/scratch"), help="images and shards; kept")
    parser.add_argument("--turns", type=int, default=7, help="of both sides of a step")
    arguments = parser.parse_args()
    if arguments.quick:
        sys.exit(quick())
    whole(arguments.archive, arguments.scratch, turns=arguments.turns)


if __name__ == "__main__":
    main()
