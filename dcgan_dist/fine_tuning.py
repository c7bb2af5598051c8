"""Beginning a run with the networks of an earlier one, its origin."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import nn

from dcgan_dist import checkpoint
from dcgan_dist.checkpoint import Checkpoint
from dcgan_dist.config import leaves
from dcgan_dist.gan import Gan

SHAPING = ("model", "image_size", "channels", "base_channels", "latent_dim", "batch_deviation")
"""Settings that the shapes of parameters depend on."""


def find_origin(init_from: str) -> Checkpoint:
    """The checkpoint that the setting ``init_from`` names; nothing changes there.

    Raises:
        ValueError: when there is none.
    """
    try:
        return checkpoint.find(Path(init_from))
    except ValueError as error:
        raise ValueError(f"init_from {error}") from None


def load_origin(origin: Checkpoint, gan: Gan) -> list[str]:
    """Put the networks of ``origin`` into ``gan``; a sentence on each of their settings that is another now.

    The average begins as the origin's where there is one, else as the generator. Optimizers stay new.

    Raises:
        ValueError: when its networks have other shapes, naming the settings that differ, with both values.
    """
    try:
        there, here = dict(leaves(checkpoint.config_of(origin).network)), dict(leaves(gan.config.network))
        differing = {name: f"{name} was {there[name]}, now {here[name]}" for name in here if there[name] != here[name]}
        try:
            _load(origin, gan)
        except ValueError:
            shaping = "; ".join(differing[name] for name in SHAPING if name in differing)
            if not shaping:
                raise
            raise ValueError(f"{origin.path}: its networks have other shapes: {shaping}") from None
    except ValueError as error:
        raise ValueError(f"init_from {error}") from None
    return [f"init_from {origin.path}: {sentence}" for sentence in differing.values()]


def _load(origin: Checkpoint, gan: Gan) -> None:
    modules = [("generator", gan.generator.plain), ("discriminator", gan.discriminator.plain)]
    if gan.average is not None:
        modules.append(("ema" if _file("ema") in origin.state["sha256"] else "generator", gan.average.module))
    for name, module in modules:
        checkpoint.load_network(origin.path / _file(name), module)


def facts_of(origin: Checkpoint) -> dict[str, str]:
    """What is noted of an origin for good: its path, and what tells its networks from others at the same path."""
    hashes: dict[str, str] = origin.state["sha256"]
    names = [name for name in ("generator", "discriminator", "ema") if _file(name) in hashes]
    return {"init_from_checkpoint": str(origin.path)} | {
        f"init_from_{name}_sha256": hashes[_file(name)] for name in names
    }


def trained_parameters(gan: Gan) -> dict[str, int]:
    """Numbers of parameters that are trained, by the names they are noted under."""
    return {
        "trained_parameters_g": _count(gan.generator.parameters),
        "trained_parameters_d": _count(gan.discriminator.parameters),
    }


def told_of(facts: Mapping[str, str], *, gan: Gan) -> str:
    """For people: what the run began with, by ``facts_of``, and how much of it is trained."""
    generator, discriminator = (
        f"{_count(player.parameters):,} of {_count(player.plain.parameters()):,}"
        for player in (gan.generator, gan.discriminator)
    )
    return (
        f"begun with the networks of {facts['init_from_checkpoint']}; trained are {generator} parameters of the "
        f"generator, {discriminator} of the discriminator"
    )


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _file(name: str) -> str:
    return f"{name}.safetensors"
