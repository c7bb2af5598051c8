"""Command dcgan-report: run directories as one HTML page that needs no network."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dcgan_dist.terminal import EXIT_CODES, command

PROGRAM = "dcgan-report"

DESCRIPTION = """Write one HTML page about one run or several side by side: samples, curves, numbers,
settings. It opens from disk, loads nothing and is smaller than 10 MB.
"""

EXAMPLES = """examples:
  dcgan-report runs/flowers17-arch1-001                    to report.html in that directory
  dcgan-report runs/flowers17-* --out flowers.html         several runs side by side
"""


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    """Write a page about one run or several; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run directory")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="page to write (default: RUN/report.html for one run, report.html for several)",
    )
    arguments = parser.parse_args(argv)
    runs = arguments.runs
    out = arguments.out or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    from dcgan_dist.pages import write_report  # torch takes seconds to import, --help should not

    for sentence in write_report(runs, out):
        print(f"warning: {sentence}", file=sys.stderr)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    main()
