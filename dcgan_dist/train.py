"""One training run: ``accelerate launch -m dcgan_dist.train --config RECIPE --data SHARDS``."""

from collections.abc import Sequence

from dcgan_dist.cli import parse
from dcgan_dist.config import TrainConfig, changed
from dcgan_dist.terminal import no_traceback
from dcgan_dist.wandb_sink import agents_run_directory


@no_traceback()
def main(argv: Sequence[str] | None = None) -> None:
    """Train one run; see ``--help`` for every setting."""
    config = _placed(parse(argv))
    from dcgan_dist.job import whole_job  # torch takes seconds to import, --help should not

    whole_job(config)


def _placed(config: TrainConfig) -> TrainConfig:
    """A point that W&B's agent runs has the directory of its id, where it goes on when the sweep hands it out again."""
    place = agents_run_directory()
    if place is None or config.run.run_dir or config.run.dry_run:
        return config
    return changed(config, {"run_dir": str(place), "resume": True})


if __name__ == "__main__":
    main()
