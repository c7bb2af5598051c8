"""Images from a generator by seed: sample i of a seed has the same bytes in any company and on any number of ranks."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

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
    device = next(generator.parameters()).device
    shape = (len(indices), network.channels, network.image_size, network.image_size)
    pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
    for start in range(collectives.rank() * CHUNK, len(indices), collectives.world_size() * CHUNK):
        chunk = indices[start : start + CHUNK]
        pixels[start : start + CHUNK] = sample_chunk(generator, chunk, seed=seed, network=network)
    pixels = collectives.all_reduce(pixels)  # each sample was made by one rank and is zero on the others
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def sample_chunk(
    generator: nn.Module,
    indices: Sequence[int],
    *,
    seed: int,
    network: NetworkConfig,
    stream: Literal["sample", "evaluation"] = "sample",
) -> Tensor:
    """(len(indices), C, H, W) uint8 on the generator's device: at most CHUNK samples, made on this rank.

    ``stream`` "evaluation" has images of its own for every seed, other than those of "sample".
    """
    assert 0 < len(indices) <= CHUNK
    first = next(generator.parameters())
    padded = [*indices, *[indices[-1]] * (CHUNK - len(indices))]  # every chunk has the same shape
    z = sample_latent(seed, padded, latent_dim=network.latent_dim, prior=network.prior, stream=stream)
    training = generator.training
    generator.eval()
    with torch.inference_mode(), _one_thread():
        images = generator(z.to(first.device, first.dtype))[: len(indices)]
        pixels = to_pixels(images, network.value_range)
    generator.train(training)
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
