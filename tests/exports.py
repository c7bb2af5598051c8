"""Runs made by hand whose generators draw something: trained weights and statistics, large contrasts."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcgan_dist import checkpoint
from dcgan_dist.cli import to_yaml
from dcgan_dist.config import TrainConfig
from dcgan_dist.gan import Gan
from dcgan_dist.run_directory import RunDirectory
from tests import tiny

RECIPES_BY_MODEL = {
    "dcgan64": "flowers-dcgan64",
    "flowers_arch1": "flowers17-arch1",
    "flowers_arch2": "flowers17-arch2",
    "mnist28": "mnist28",
    "pooled": "mnist-pooled",
}


def made_run(
    path: Path,
    recipe: str,
    *,
    steps: int = 2,
    rows: list[dict[str, Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    origin: Mapping[str, str] | None = None,
) -> tuple[RunDirectory, nn.Module]:
    """A run of ``steps`` steps with a checkpoint at its end, and the generator it is sampled by.

    ``origin`` is what is noted of the checkpoint that the run began with.
    """
    config = tiny.narrow(recipe, **{"dtype": "float32", **(settings or {})})
    training = tiny.training(config, tiny.runtime())
    for _ in range(steps):
        training.update()
    _strengthen(training.gan, config)
    run = RunDirectory(path)
    path.mkdir(parents=True)
    run.config.write_text(to_yaml(config), encoding="utf-8")
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows or []), encoding="utf-8")
    saver = checkpoint.Saver()
    state = {"best": None, "world_size": 1, "threads": 1, "data_digest": "digest of the images", "metrics_bytes": 0}
    saver.save(run.checkpoints, training.gan, step=steps, state=state | {"origin": dict(origin or {})}, keep=9)
    saver.wait()
    return run, training.gan.sampled.eval()


def _strengthen(gan: Gan, config: TrainConfig) -> None:
    """Enlarge the last layer's weights until values fill their range: the first steps' images are all but grey."""
    z = torch.randn(16, config.network.latent_dim, generator=torch.Generator().manual_seed(0)).to(gan.dtype)
    for network in [gan.generator.plain, *([gan.average.module] if gan.average else [])]:
        plain = copy.deepcopy(network).eval()  # its forward is not compiled
        with torch.no_grad():
            while plain.forward(z).std() < 0.2:
                for each in (plain, network):
                    each.get_submodule("head").weight.mul_(1.5)  # type: ignore[operator]
