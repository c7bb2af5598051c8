"""Command dcgan-eval: quality and variety of a generator's images in numbers, or the discriminator's say on files."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dcgan_dist.config import EvaluationConfig
from dcgan_dist.terminal import EXIT_CODES, fail, first_process_alone_speaks, no_traceback

DESCRIPTION = """Measure the images of a trained generator against the data, each number beside its floor, the
same number between two parts of the data. Quality: FID, KID, IS, precision, recall, density and
coverage (docs/metrics.md). Variety: is there mode collapse, are there copies of the data
(docs/collapse.md). With --score: what the discriminator says of image files.
"""

EXAMPLES = """examples:
  dcgan-eval runs/flowers17-arch1-001              the newest checkpoint, against the run's own data
  dcgan-eval runs/flowers17-arch1-001 --count 10000 --json
  dcgan-eval runs/flowers17-arch1-001/checkpoints/step-00005000 --data shards/flowers17-32
  dcgan-eval runs/flowers17-arch1-001 --extractor inception --download
  dcgan-eval runs/flowers17-arch1-001/best --nearest nearest.png
  dcgan-eval runs/flowers17-arch1-001 --score rose.jpg cat.jpg
  torchrun --standalone --nproc_per_node 4 -m dcgan_dist.eval runs/flowers17-arch1-001
"""


@no_traceback()
def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate a run's or checkpoint's networks; see ``--help``."""
    arguments = _arguments(argv)
    try:
        settings = EvaluationConfig(
            extractor=arguments.extractor,
            eval_count=arguments.count,
            eval_resize=arguments.resize,
            extractor_weights=arguments.weights,
        )
    except ValueError as error:
        fail(str(error))
    from dcgan_dist.evaluation.appraisal import Task, appraise  # torch takes seconds to import, --help should not

    appraise(
        Task(
            run=arguments.run,
            data=arguments.data,
            settings=settings,
            download=arguments.download,
            nearest=arguments.nearest,
            files=tuple(arguments.score),
            as_json=arguments.json,
        )
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed arguments; the first process alone tells of mistakes and prints help."""
    defaults = EvaluationConfig()
    parser = argparse.ArgumentParser(
        prog="dcgan-eval",
        description=DESCRIPTION,
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "run", type=Path, help="a run directory (its newest checkpoint is used) or one checkpoint of it"
    )
    parser.add_argument("--data", default="", metavar="DIR", help="shards to measure against (default: the run's)")
    parser.add_argument(
        "--count", type=int, default=defaults.eval_count, metavar="N", help="images to generate (default: %(default)s)"
    )
    parser.add_argument(
        "--extractor",
        default=defaults.extractor,
        metavar="NAME",
        help="network for features: efflite0, inception or pixels; none: variety alone (default: efflite0 where the "
        "extra eval is installed, else none)",
    )
    parser.add_argument(
        "--resize",
        type=int,
        default=defaults.eval_resize,
        metavar="PIXELS",
        help="side that images are resized to for the extractor; names then say it (default: its own number)",
    )
    parser.add_argument(
        "--weights",
        default=defaults.extractor_weights,
        metavar="FILE",
        help="of extractor inception (default: $DCGAN_INCEPTION_WEIGHTS, or where torch keeps downloads)",
    )
    parser.add_argument(
        "--download", action="store_true", help="let extractor inception fetch its weights, 96 MB, if they are not here"
    )
    parser.add_argument(
        "--nearest",
        type=Path,
        metavar="FILE",
        help="also write a PNG of the samples nearest to the data, beside their nearest real images: copies, or not",
    )
    parser.add_argument(
        "--score",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="measure nothing; print what the discriminator says of these images",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, on standard output")
    with first_process_alone_speaks():
        arguments = parser.parse_args(argv)
        if arguments.extractor != "inception" and (arguments.download or arguments.weights):
            parser.error("--download and --weights are for --extractor inception")
        if arguments.score and arguments.nearest:
            parser.error("--nearest is a picture of samples, --score is of files: give one of them")
    return arguments


if __name__ == "__main__":
    main()
