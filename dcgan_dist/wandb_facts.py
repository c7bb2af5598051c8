"""What Weights & Biases is told of a run beside its rows: a flat config, where data and checkpoints lie."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcgan_dist.checkpoint import config_dict, step_directories, step_of
from dcgan_dist.config import TrainConfig
from dcgan_dist.data.loader import Loader
from dcgan_dist.data.remote import parse_place
from dcgan_dist.data.shards import INDEX_NAME
from dcgan_dist.run_directory import RunDirectory
from dcgan_dist.wandb_sink import WandbSink

_FOREIGN = re.compile(r"[^A-Za-z0-9_.-]")
"""What a name of an artifact may not have."""
DISABLED = "disabled"
"""How a sink describes itself that hands nothing on."""
LONGEST_NAME = 100
"""Characters of a data set's name; W&B takes 128."""


def flat_config(
    config: TrainConfig, environment: Mapping[str, Any], *, run: RunDirectory, loader: Loader, total_steps: int
) -> dict[str, Any]:
    """Every setting by its name, and what the run follows from besides.

    The command, the host and what else W&B notes by itself are left out.
    """
    versions = {name: environment[name] for name in ("dcgan_dist", "python")} | environment["packages"]
    return {
        **config_dict(config),
        "total_steps": total_steps,
        "image_count": loader.image_count,
        "data_digest": loader.digest,
        "run_directory": str(run.path.resolve()),
        **{name: environment[name] for name in ("world_size", "device", "cuda", "processor", "platform")},
        **{name: fact for name, fact in environment.items() if name.startswith(("trained_parameters", "init_from"))},
        **{f"version/{name}": version for name, version in versions.items()},
    }


def refer_to_data(wandb: WandbSink, data: str, *, loader: Loader) -> None:
    """Say where the index of the shards at ``data`` is, unless W&B is disabled."""
    if wandb.description == DISABLED:
        return
    place = parse_place(data)
    index = (place / INDEX_NAME).resolve().as_uri() if isinstance(place, Path) else place.name(INDEX_NAME)
    name = data.rstrip("/").rpartition("/")[2]
    wandb.reference(
        _FOREIGN.sub("-", name)[:LONGEST_NAME] or "data",
        "dataset",
        uris=[index],
        metadata={"digest": loader.digest, "images": loader.image_count},
    )


def refer_to_checkpoints(wandb: WandbSink, run: RunDirectory, *, data_digest: str) -> None:
    """Say where the newest checkpoint is, and the best, unless W&B is disabled: their checksums take time."""
    if wandb.description == DISABLED:
        return
    for name, directory in (("checkpoint", run.checkpoints), ("best", run.best)):
        for path in step_directories(directory)[-1:]:
            wandb.reference(
                f"{name}-{run.identity()}",
                "model",
                uris=[file.resolve().as_uri() for file in sorted(path.iterdir())],
                metadata={"step": step_of(path), "data_digest": data_digest},
            )
