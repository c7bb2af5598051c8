"""The discriminator's decision on image files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dcgan_dist.config import NetworkConfig
from dcgan_dist.data.transforms import Target, decode, with_channels
from dcgan_dist.images import to_images

CHUNK = 16
"""Images judged at once."""


def read_files(files: Sequence[Path], target: Target, *, channels: int) -> Tensor:
    """(N, channels, size, size) uint8: image files as dcgan-shard would have stored them and a run would see them.

    Raises:
        ValueError: If one is not there, no image or a damaged one.
    """
    images = []
    for file in files:
        try:
            pixels = decode(file.read_bytes(), target)
            images.append(pixels if target.channels == channels else with_channels(pixels, channels))
        except OSError as error:
            raise ValueError(f"{file}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def score(discriminator: nn.Module, pixels: Tensor, *, company: Tensor, network: NetworkConfig) -> list[float]:
    """Logits of images, in evaluation mode.

    Where the network sees how far an image is from the others of its batch (batch_deviation), each image is judged in
    the company of real ones, as in training; else there is no company.

    Args:
        discriminator: network from images in ``network.value_range`` to logits.
        pixels: (N, C, H, W) uint8.
        company: (M, C, H, W) uint8, real images; M may be 0.
        network: of the discriminator.
    """
    first = next(discriminator.parameters())
    size = 1 if len(company) else CHUNK
    logits = []
    training = discriminator.training
    discriminator.eval()
    with torch.inference_mode():
        for start in range(0, len(pixels), size):
            own = pixels[start : start + size]
            batch = torch.cat([own, company]).to(first.device)
            found = discriminator(to_images(batch, network.value_range, dtype=first.dtype))
            logits += found[: len(own)].tolist()
    discriminator.train(training)
    return logits
