"""Command dcgan-sample: images from a trained generator, the same for a seed whatever else."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dcgan_dist.terminal import EXIT_CODES, command

PROGRAM = "dcgan-sample"

EXAMPLES = """examples:
  dcgan-sample runs/flowers17-arch1-001                      64 images of seed 0 to samples.png
  dcgan-sample runs/flowers17-arch1-001 --seed 7 --count 100 --out grid.png
  dcgan-sample runs/flowers17-arch1-001/checkpoints/step-00005000 --out earlier.png
  dcgan-sample runs/flowers17-arch1-001 --interpolate 8      8 rows, each from one z to another
  dcgan-sample runs/flowers17-arch1-001 --interpolate 64 --out ways.webp          the same, moving
  dcgan-sample runs/flowers17-arch1-001 --progress --out run.mp4            its sample grids, moving
"""

COUNT = 64
ROW_IMAGES = 10
"""Images in a row of an interpolation; fits a page."""
MOVING_IMAGES = 40
"""Images of each way in a moving interpolation: two seconds there, two back."""


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    """Write images from a run's or checkpoint's generator; see ``--help``."""
    arguments = _parser().parse_args(argv)
    _check(arguments)
    if arguments.progress:
        _progress(arguments.run, out=arguments.out or Path("progress.webp"))
    else:
        _sample(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Draw images from a trained generator. Image i of a seed is the same whatever the count.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "run",
        type=Path,
        help="a run directory (its newest checkpoint is used), one checkpoint of it, or dcgan-export's safetensors",
    )
    add("--count", type=int, metavar="N", help=f"images (default: {COUNT})")
    add("--seed", type=int, help="of the noise z (default: 0)")
    add(
        "--interpolate",
        type=int,
        metavar="ROWS",
        help="instead: this many ways from one z to another, on the sphere for a normal prior, straight for a uniform; "
        "way i goes from image 2i of the seed to image 2i + 1",
    )
    add(
        "--steps",
        type=int,
        metavar="N",
        help=f"images of each way, both ends included (default: {ROW_IMAGES}; {MOVING_IMAGES} in an animation)",
    )
    add("--progress", action="store_true", help="instead: the run's sample grids of its fixed z as an animation")
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="a PNG (default: samples.png, interpolation.png); an animation is a .webp, .gif or .mp4 "
        "(default: progress.webp). MP4 needs the extra video",
    )
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be, before torch is imported.

    Raises:
        ValueError: naming flag, rule and value.
    """
    for name, least in (("count", 1), ("interpolate", 1), ("steps", 2)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} must be at least {least}, got {value}")
    if not 0 <= (arguments.seed or 0) < 2**63:
        raise ValueError(f"--seed must be at least 0 and below 2**63, got {arguments.seed}")
    if arguments.count is not None and (arguments.interpolate or arguments.progress):
        raise ValueError("--count has no effect with --interpolate or --progress; leave it out")
    if arguments.seed is not None and arguments.progress:
        raise ValueError("--seed has no effect with --progress; leave it out")
    if arguments.steps is not None and not arguments.interpolate:
        raise ValueError("--steps has no effect without --interpolate; leave it out")
    if arguments.interpolate and arguments.progress:
        raise ValueError("give --interpolate or --progress, not both")


def _progress(run: Path, *, out: Path) -> None:
    from dcgan_dist.pictures import animate_samples  # torch takes seconds to import, --help should not
    from dcgan_dist.run_directory import RunDirectory

    frames = animate_samples(RunDirectory(run), out)
    print(f"{out}: {frames} sample grids of {run}")


def _sample(arguments: argparse.Namespace) -> None:
    import torch

    from dcgan_dist.animation import SUFFIXES
    from dcgan_dist.images import grid, write_png
    from dcgan_dist.interpolation import interpolated
    from dcgan_dist.pictures import animate_ways
    from dcgan_dist.sampling import pixels_of
    from dcgan_dist.trained import load

    run, seed, rows = arguments.run, arguments.seed or 0, arguments.interpolate
    generator = load(run).to(memory_format=torch.channels_last)  # as runs draw by default
    network = generator.config
    origin = f"seed {seed} from step {generator.origin.step} of {run}"
    if not rows:
        count = arguments.count or COUNT
        out = arguments.out or Path("samples.png")
        write_png(out, grid(generator.sample(count, seed=seed)))
        print(f"{out}: {count} images of {origin}")
        return

    out = arguments.out or Path("interpolation.png")
    moving = out.suffix.lower() in SUFFIXES
    steps = arguments.steps or (MOVING_IMAGES if moving else ROW_IMAGES)
    pixels = pixels_of(
        generator, interpolated(generator.noise(2 * rows, seed=seed), steps, prior=network.prior), network=network
    )
    if moving:
        by_step = pixels.reshape(rows, steps, *pixels.shape[1:]).swapaxes(0, 1)
        animate_ways([grid(each) for each in by_step], out)
    else:
        write_png(out, grid(pixels, steps))
    print(f"{out}: {rows} ways of {steps} images between z of {origin}")


if __name__ == "__main__":
    main()
