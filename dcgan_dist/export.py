"""Command dcgan-export: a trained generator as a file that others can use, with a model card."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from dcgan_dist.terminal import EXIT_CODES, command, end

PROGRAM = "dcgan-export"

DESCRIPTION = """Write a trained generator, its average where there is one, to a file that others can use; read it
back and compare its images with the PyTorch generator's; write a model card (README.md) beside it.
"""

EXAMPLES = """examples:
  dcgan-export runs/flowers17-arch1-001                   generator.safetensors, for dcgan_dist.load
  dcgan-export runs/flowers17-arch1-001 --format onnx     generator.onnx beside it
  dcgan-export runs/flowers17-arch1-001/best --format export --out flowers
"""


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    """Export the generator of a run or checkpoint; see ``--help``."""
    arguments = _parser().parse_args(argv)
    from dcgan_dist.exporting import export  # torch takes seconds to import, --help should not
    from dcgan_dist.exporting.formats import TOLERANCE, UnequalError

    try:
        done = export(arguments.run, name=arguments.format, out=arguments.out)
    except UnequalError as error:
        end(PROGRAM, str(error), code=1)
    if arguments.json:
        places = {"checkpoint": str(done.checkpoint), "directory": str(done.directory)}
        print(json.dumps(done.facts | places, indent=1))
        return
    written = done.written
    sizes = " and ".join(map(str, written.batch_sizes))
    print(f"{done.directory / written.file}: {written.bytes / 1e6:.1f} MB")
    print(
        f"largest difference from the PyTorch generator: {written.largest_difference:.1e} in batches of {sizes} "
        f"(at most {TOLERANCE:g})"
    )
    print(f"model card: {done.card}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", type=Path, help="a run directory (its newest checkpoint is used) or one checkpoint of it")
    add(
        "--format",
        choices=("safetensors", "onnx", "export"),
        default="safetensors",
        help="safetensors: weights and settings, for dcgan_dist.load. onnx: float32, any batch size; needs the extra "
        "onnx. export: the same for torch.export.load (default: %(default)s)",
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory to write (default: RUN/export/step-N); it may have other formats of the same generator",
    )
    add("--json", action="store_true", help="print JSON, and nothing else, on standard output")
    return parser


if __name__ == "__main__":
    main()
