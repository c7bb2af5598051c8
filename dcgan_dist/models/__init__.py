"""The published pairs of networks, one file each, and the table they are chosen from."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from dcgan_dist.config import ComputeConfig, NetworkConfig
from dcgan_dist.models import dcgan64, flowers_arch1, flowers_arch2, mnist28, pooled
from dcgan_dist.models.layers import dcgan_initialise, keras_initialise
from dcgan_dist.words import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Model:
    """A pair of networks and the settings it takes."""

    generator: Callable[[NetworkConfig], nn.Module]
    """Builds the network from noise (N, latent_dim) to images (N, channels, image_size, image_size)."""
    discriminator: Callable[[NetworkConfig], nn.Module]
    """Builds the network from such images to logits (N,)."""
    initialise: Callable[[nn.Module, torch.Generator], None]
    """Draws the initial weights of either network, in place."""
    image_sizes: tuple[int, ...]
    output_range: tuple[float, float]
    """What the generator's last activation can reach; a recipe's value_range lies inside."""
    dropout: bool = False
    """Whether it has dropout layers."""
    batch_deviation: bool = False
    """Whether it has batch deviation channels."""
    upsampling: bool = False
    """Whether its generator can double its maps in more than one way."""


MODELS = {
    "dcgan64": Model(
        generator=dcgan64.Generator,
        discriminator=dcgan64.Discriminator,
        initialise=dcgan_initialise,
        image_sizes=(64,),
        output_range=(-1.0, 1.0),
    ),
    "flowers_arch1": Model(
        generator=flowers_arch1.Generator,
        discriminator=flowers_arch1.Discriminator,
        initialise=keras_initialise,
        image_sizes=(32,),
        output_range=(-1.0, 1.0),
        dropout=True,
        batch_deviation=True,
    ),
    "flowers_arch2": Model(
        generator=flowers_arch2.Generator,
        discriminator=flowers_arch2.Discriminator,
        initialise=keras_initialise,
        image_sizes=(28,),
        output_range=(0.0, 1.0),
        dropout=True,
        batch_deviation=True,
        upsampling=True,
    ),
    "mnist28": Model(
        generator=mnist28.Generator,
        discriminator=mnist28.Discriminator,
        initialise=keras_initialise,
        image_sizes=(28,),
        output_range=(-1.0, 1.0),
        dropout=True,
    ),
    "pooled": Model(
        generator=pooled.Generator,
        discriminator=pooled.Discriminator,
        initialise=keras_initialise,
        image_sizes=(28, 32),
        output_range=(-1.0, 1.0),
        dropout=True,
    ),
}
"""The values of the config field ``model``."""
_OF_ONE_PROCESS = {nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d}
"""Layers of torch that know one process's rows alone, or draw from a state: the run would depend on their number."""


def dtype_of(compute: ComputeConfig) -> torch.dtype:
    """Type of the networks' weights and statistics, and of noise and images."""
    return torch.float64 if compute.dtype == "float64" else torch.float32


def build_networks(config: NetworkConfig, *, seed: int) -> tuple[nn.Module, nn.Module]:
    """New (generator, discriminator) on the CPU in training mode, weights a function of ``config`` and ``seed`` alone.

    Each network draws in float32 from a generator of its own, so neither's weights depend on the other's shape.

    Raises:
        ValueError: No such model, or it cannot honour a field of ``config``.
    """
    model = _model(config)
    with torch.random.fork_rng(devices=[]):  # torch's own initial weights, soon replaced, would move its global state
        networks = model.generator(config), model.discriminator(config)
    for number, network in enumerate(networks):
        assert not _OF_ONE_PROCESS & set(map(type, network.modules())), "take BatchNorm2d and Dropout of distributed/"
        model.initialise(network, torch.Generator().manual_seed(2 * seed + number))
    return networks


def empty_generator(config: NetworkConfig) -> nn.Module:
    """The generator of ``config`` on the meta device: names, shapes and types, without weights or memory for them.

    Raises:
        ValueError: As ``build_networks``, or a layer is too large for torch to count.
    """
    model = _model(config)
    try:
        with torch.device("meta"):
            return model.generator(config)
    except (RuntimeError, TypeError, OverflowError):
        raise ValueError(
            f"base_channels {config.base_channels} and latent_dim {config.latent_dim} are too large for model "
            f"{config.model}"
        ) from None


def _model(config: NetworkConfig) -> Model:
    """The row of MODELS that ``config`` names, once it is sure to honour every field."""
    name = config.model
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name}{did_you_mean(name, MODELS)}")
    model = MODELS[name]
    if config.image_size not in model.image_sizes:
        sizes = " or ".join(map(str, model.image_sizes))
        raise ValueError(f"image_size must be {sizes} for model {name}, got {config.image_size}")
    (low, high), (lowest, highest) = config.value_range, model.output_range
    if low < lowest or high > highest:
        raise ValueError(f"value_range must lie in {lowest:g} to {highest:g} for model {name}, got {low:g} {high:g}")
    if config.dropout and not model.dropout:
        raise ValueError(f"dropout must be 0 for model {name}, which has no dropout, got {config.dropout}")
    if config.batch_deviation and not model.batch_deviation:
        raise ValueError(f"batch_deviation must be 0 for model {name}, which has none, got {config.batch_deviation}")
    if config.upsampling != "nearest" and not model.upsampling:
        raise ValueError(f"upsampling must be nearest for model {name}, which has none, got {config.upsampling}")
    return model
