"""Images from a generator by seed: sample i of a seed has the same bytes in any company and on any number of ranks."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcgan_dist.config import NetworkConfig
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.draws import sample_latent
from dcgan_dist.images import to_pixels

CHUNK = 16
"""Samples computed at once. Fixed, because a matrix product's last bits depend on its shape."""


def sample_pixels(
    generator: nn.Module, indices: Sequence[int], *, seed: int, network: NetworkConfig
) -> NDArray[np.uint8]:
    """(len(indices), H, W, C) uint8: the samples with these numbers, in evaluation mode, shared out among all ranks.

    Sample i depends on ``seed`` and i alone. Every rank calls this and gets all samples.
    """
    z = sample_latent(seed, indices, latent_dim=network.latent_dim, prior=network.prior)
    return pixels_of(generator, z, network=network)


def pixels_of(generator: nn.Module, z: Tensor, *, network: NetworkConfig) -> NDArray[np.uint8]:
    """(len(z), H, W, C) uint8: the images of these z, in evaluation mode, shared out among all ranks.

    Every rank calls this with the same ``z`` and gets all images; each depends on its own z alone.
    """
    device = next(generator.parameters()).device
    shape = (len(z), network.channels, network.image_size, network.image_size)
    pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
    for start in range(collectives.rank() * CHUNK, len(z), collectives.world_size() * CHUNK):
        pixels[start : start + CHUNK] = chunk_of(generator, z[start : start + CHUNK], network=network)
    pixels = collectives.all_reduce(pixels)  # each image was made by one rank and is zero on the others
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def chunk_of(generator: nn.Module, z: Tensor, *, network: NetworkConfig) -> Tensor:
    """(len(z), C, H, W) uint8 on the generator's device: the images of at most CHUNK z, made on this rank."""
    assert 0 < len(z) <= CHUNK
    first = next(generator.parameters())
    padded = torch.cat([z, z[-1:].expand(CHUNK - len(z), -1)])  # every chunk has the same shape
    modes = [(layer, layer.training) for layer in generator.modules()]  # frozen batch norm is not in training mode
    generator.eval()
    with torch.inference_mode(), _one_thread():
        images = generator(padded.to(first.device, first.dtype))[: len(z)]
        pixels = to_pixels(images, network.value_range)
    for layer, training in modes:
        layer.training = training
    return pixels


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One CPU thread: the number of threads changes last bits, and runs have different numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
