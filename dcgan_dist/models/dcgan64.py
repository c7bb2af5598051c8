"""The 64x64 DCGAN of Radford et al. (2015) in the form of PyTorch's example."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from dcgan_dist.config import NetworkConfig
from dcgan_dist.distributed.batch_norm import BatchNorm2d
from dcgan_dist.models.layers import CoveringConv2d, CoveringConvTranspose2d, generator_block

BATCH_NORM_EPSILON = 1e-5
DISCRIMINATOR_SLOPE = 0.2


class Generator(nn.Module):
    """Images (N, channels, 64, 64) in [-1, 1] from noise (N, latent_dim).

    After PyTorch's example. It differs from the paper: 4x4 kernels instead of 5x5, half as many channels.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = [config.base_channels * scale for scale in (8, 4, 2, 1)]
        first = CoveringConvTranspose2d(config.latent_dim, widths[0], 4, bias=False)
        ups = [nn.ConvTranspose2d(wide, thin, 4, stride=2, padding=1, bias=False) for wide, thin in pairwise(widths)]
        self.body = nn.Sequential(*(generator_block(up, config, epsilon=BATCH_NORM_EPSILON) for up in (first, *ups)))
        self.head = nn.ConvTranspose2d(widths[-1], config.channels, 4, stride=2, padding=1, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        features = self.body(z[:, :, None, None])  # (N, 8c, 4, 4), then up to (N, c, 32, 32)
        return torch.tanh(self.head(features))  # (N, channels, 64, 64)


class Discriminator(nn.Module):
    """Logits (N,) of images (N, channels, 64, 64) being real. After PyTorch's example."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = [config.base_channels * scale for scale in (1, 2, 4, 8)]
        self.stem = nn.Sequential(
            nn.Conv2d(config.channels, widths[0], 4, stride=2, padding=1, bias=False),
            nn.LeakyReLU(DISCRIMINATOR_SLOPE),
        )
        self.body = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(thin, wide, 4, stride=2, padding=1, bias=False),
                    BatchNorm2d(wide, eps=BATCH_NORM_EPSILON, momentum=config.batch_norm_momentum),
                    nn.LeakyReLU(DISCRIMINATOR_SLOPE),
                )
                for thin, wide in pairwise(widths)
            )
        )
        self.head = CoveringConv2d(widths[-1], 1, 4, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(self.stem(images))  # (N, c, 32, 32), then down to (N, 8c, 4, 4)
        logits: Tensor = self.head(features)  # (N, 1, 1, 1)
        return logits.flatten()
