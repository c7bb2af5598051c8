"""Small runs made of the real pieces: narrow recipes, a few images in memory, no shards and no run directory."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcgan_dist.config import ComputeConfig, TrainConfig, changed
from dcgan_dist.data.order import Order
from dcgan_dist.data.resident import ResidentLoader
from dcgan_dist.distributed.draws import StepDraws, run_key
from dcgan_dist.distributed.runtime import Runtime, start
from dcgan_dist.gan import Gan, build_gan
from dcgan_dist.loop import Training
from dcgan_dist.run_directory import RunDirectory
from dcgan_dist.tracking import Tracker
from tests.shared import recipe

IMAGES = 20
BATCH_SIZE = 8
CPU = torch.device("cpu")


def narrow(name: str, **changes: Any) -> TrainConfig:
    """A recipe with thin networks, batches of 8 and one thread, in float64."""
    small = {"base_channels": 4, "latent_dim": 6, "batch_size": BATCH_SIZE, "threads": 1, "dtype": "float64"}
    return changed(recipe(name), small | changes)


def runtime() -> Runtime:
    return start(ComputeConfig(threads=1))


def pixels(config: TrainConfig) -> Tensor:
    """(IMAGES, C, H, W) uint8, blotches rather than noise, none like another."""
    network = config.network
    coarse = torch.rand(IMAGES, network.channels, 4, 4, generator=torch.Generator().manual_seed(1))
    smooth = nn.functional.interpolate(coarse, size=(network.image_size, network.image_size), mode="bilinear")
    return (smooth * 255).to(torch.uint8)


def training(config: TrainConfig, where: Runtime) -> Training:
    """A run at step 0 that no file belongs to."""
    order = Order([7, 6, 7], seed=config.seed, shuffle_window=config.images.shuffle_window)
    rows = where.rows(config.images.batch_size)
    loader = ResidentLoader(
        pixels(config).to(where.device),
        order,
        batch_size=config.images.batch_size,
        rows=rows,
        digest="digest of the images",
    )
    gan = build_gan(config, where)
    return Training(
        gan=gan,
        loader=loader,
        runtime=where,
        run=RunDirectory(Path()),
        tracker=Tracker(),
        total_steps=10**6,
    )


def step_draws(config: TrainConfig, step: int) -> StepDraws:
    """The randomness of one step for the whole batch, as the loop makes it."""
    dtype = torch.float64 if config.compute.dtype == "float64" else torch.float32
    batch_size = config.images.batch_size
    key = run_key(config.seed, CPU)
    return StepDraws(key=key, step=step, batch_size=batch_size, start=0, stop=batch_size, dtype=dtype)


def tensors(gan: Gan) -> dict[str, Tensor]:
    """Copies of all that is trained and averaged, by name."""
    networks = {"generator": gan.generator.plain, "discriminator": gan.discriminator.plain}
    if gan.average is not None:
        networks["ema"] = gan.average.module
    return {
        f"{network}.{name}": tensor.detach().clone()
        for network, module in networks.items()
        for name, tensor in module.state_dict().items()
    }
