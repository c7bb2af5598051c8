"""Command dcgan-sample: images from a trained generator, the same for a seed whatever else."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

EXAMPLES = """examples:
  dcgan-sample runs/flowers17-arch1-001                           64 images of seed 0 to samples.png
  dcgan-sample runs/flowers17-arch1-001 --seed 7 --count 100 --out grid.png
  dcgan-sample runs/flowers17-arch1-001/checkpoints/step-00005000 --out earlier.png
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Write a grid of images from a run's or checkpoint's generator; see ``--help``."""
    arguments = _parser().parse_args(argv)
    if arguments.count < 1:
        _fail(f"--count must be at least 1, got {arguments.count}")
    if not 0 <= arguments.seed < 2**63:
        _fail(f"--seed must be at least 0 and below 2**63, got {arguments.seed}")
    try:
        _sample(arguments.run, count=arguments.count, seed=arguments.seed, out=arguments.out)
    except ValueError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), code=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dcgan-sample",
        description="Draw images from a trained generator. Image i of a seed is the same whatever the count.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "run", type=Path, help="a run directory (its newest checkpoint is used) or one checkpoint of it"
    )
    parser.add_argument("--count", type=int, default=64, metavar="N", help="images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise z (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("samples.png"), help="PNG to write (default: %(default)s)")
    return parser


def _sample(run: Path, *, count: int, seed: int, out: Path) -> None:
    from dcgan_dist import checkpoint  # torch takes seconds to import, --help should not
    from dcgan_dist.images import grid, write_png
    from dcgan_dist.models import build_networks
    from dcgan_dist.sampling import sample_pixels

    found = checkpoint.find(run)
    config = checkpoint.config_of(found)
    generator, _ = build_networks(config.network, seed=0)
    averaged = found.path / "ema.safetensors"
    checkpoint.load_network(averaged if averaged.exists() else found.path / "generator.safetensors", generator)
    pixels = sample_pixels(generator, range(count), seed=seed, network=config.network)
    write_png(out, grid(pixels))
    print(f"{out}: {count} images of seed {seed} from step {found.step} of {run}")


def _fail(message: str, *, code: int = 2) -> NoReturn:
    print(f"dcgan-sample: error: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
