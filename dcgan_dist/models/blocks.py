"""The blocks that a network consists of, and which of them are trained."""

from torch import nn

from dcgan_dist.config import FineTuningConfig


def blocks(network: nn.Module) -> list[list[nn.Module]]:
    """The layers with parameters of each block, first to last.

    A block begins with a convolution, transposed convolution or dense layer and goes on to the next one: its batch
    norm, where it has one, its activation and whatever else has no parameters. The last block is the head.
    """
    found: list[list[nn.Module]] = []
    for layer in network.modules():  # our models define their layers in the order in which they run
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            found.append([layer])
        elif any(True for _ in layer.parameters(recurse=False)):
            found[-1].append(layer)
    return found


def freeze(generator: nn.Module, discriminator: nn.Module, config: FineTuningConfig) -> None:
    """Freeze the blocks of both networks that ``config`` does not train, for good and before they are wrapped.

    Their parameters need no gradient. Their batch norm is in evaluation mode, as in Keras: it normalises by its running
    statistics, which stay, so that a frozen block is the same function of each image whatever the batch.

    Raises:
        ValueError: A network has fewer blocks than are to be trained.
    """
    for field, kind, network, count in (
        ("train_only_g", "generator", generator, config.train_only_g),
        ("train_only_d", "discriminator", discriminator, config.train_only_d),
    ):
        every = blocks(network)
        if count > len(every):
            raise ValueError(f"{field} must be at most {len(every)}, the {kind}'s blocks (see --summary), got {count}")
        for block in every[:-count] if count else []:
            for layer in block:
                layer.requires_grad_(requires_grad=False).eval()
