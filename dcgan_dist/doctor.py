"""Command dcgan-doctor: is this machine or cluster fit, and do N processes give the run of one?"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dcgan_dist.cli import read_recipe
from dcgan_dist.config import TrainConfig, changed, plain
from dcgan_dist.terminal import fail, first_process_alone_speaks, no_traceback

DESCRIPTION = """Is this machine or cluster fit to train on, and do N processes give the run of one?

Start it as you would start a run. It looks at every process and machine, times the network
between them, and makes the first steps of a run twice, in float64: on one process, and on all.
"""

EXAMPLES = """examples:
  dcgan-doctor                                                      one process on this machine
  torchrun --standalone --nproc_per_node 4 -m dcgan_dist.doctor     four processes on this machine
  accelerate launch -m dcgan_dist.doctor                            what your accelerate config says
  dcgan-doctor --config flowers17-arch2 --json                      that recipe, full width, as JSON

exit codes: 0 fit; 1 not fit; 2 a mistake in what was asked for; 130 stopped by Ctrl-C
"""

OWN_RECIPE = {
    "recipe": "doctor",
    "model": "flowers_arch1",
    "image_size": 32,
    "base_channels": 8,
    "latent_dim": 16,
    "dropout": 0.2,
    "batch_deviation": 1.0,
    "smooth_fake": 0.1,
    "smooth_real": 0.9,
    "instance_noise": 0.05,
    "flip": True,
    "fresh_z": True,
    "ema_decay": 0.9,
    "batch_size": 16,
}
"""Narrow, with everything that is drawn or averaged over the whole batch."""


@no_traceback()
def main(argv: Sequence[str] | None = None) -> None:
    """Examine the processes that were started together; see ``--help``."""
    arguments = _arguments(argv)
    try:
        config = _config(arguments.config)
    except ValueError as error:
        fail(str(error))
    from dcgan_dist.diagnosis.examination import examine  # torch takes seconds to import, --help should not

    if not examine(config, steps=arguments.steps, directory=arguments.path, as_json=arguments.json):
        raise SystemExit(1)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed arguments; the first process alone tells of mistakes and prints help."""
    parser = argparse.ArgumentParser(
        prog="dcgan-doctor",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="RECIPE",
        help="name or YAML file of a recipe to compare with one process, at its own width and batch size and on drawn "
        "images (default: a narrow one that has everything that is drawn or averaged over the whole batch)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="steps to compare (default: 20, or as many as one process does in 15 seconds)",
    )
    parser.add_argument(
        "--path", type=Path, default=Path(), metavar="DIR", help="directory whose disk to try (default: this one)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, on standard output")
    with first_process_alone_speaks():
        arguments = parser.parse_args(argv)
        if arguments.steps is not None and arguments.steps < 1:
            parser.error(f"argument --steps: must be at least 1, got {arguments.steps}")
    return arguments


def _config(recipe: str | None) -> TrainConfig:
    """What the steps are made of, in float64.

    Raises:
        ValueError: naming what is wrong with the file.
    """
    settings = OWN_RECIPE if recipe is None else read_recipe(recipe)
    try:
        return plain(changed(TrainConfig(), settings | {"dtype": "float64", "precision": "no"}))
    except ValueError as error:
        raise ValueError(f"config {recipe}: {error}") from None


if __name__ == "__main__":
    main()
