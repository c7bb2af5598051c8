"""The 32x32 flower networks with batch deviation, architecture 1 of S. Tinani (2018, revised 2023)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from dcgan_dist.config import NetworkConfig
from dcgan_dist.distributed.batch_norm import BatchNorm2d
from dcgan_dist.distributed.draws import Dropout
from dcgan_dist.models.layers import (
    AppendBatchDeviation,
    CoveringConv2d,
    CoveringConvTranspose2d,
    SameConvTranspose2d,
    generator_block,
)

BATCH_NORM_EPSILON = 1e-3
DISCRIMINATOR_SLOPE = 0.2


class Generator(nn.Module):
    """Images (N, channels, 32, 32) in [-1, 1] from noise (N, latent_dim).

    After Tinani's program, whose base_channels are 24.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = [config.base_channels * scale for scale in (8, 4, 2, 1)]
        first = CoveringConvTranspose2d(config.latent_dim, widths[0], 4)
        ups = [nn.ConvTranspose2d(wide, thin, 4, stride=2, padding=1) for wide, thin in pairwise(widths)]
        self.body = nn.Sequential(*(generator_block(up, config, epsilon=BATCH_NORM_EPSILON) for up in (first, *ups)))
        self.head = SameConvTranspose2d(widths[-1], config.channels, kernel_size=4)

    def forward(self, z: Tensor) -> Tensor:
        features = self.body(z[:, :, None, None])  # (N, 8c, 4, 4), then up to (N, c, 32, 32)
        return torch.tanh(self.head(features))  # (N, channels, 32, 32)


class Discriminator(nn.Module):
    """Logits (N,) of images (N, channels, 32, 32) being real.

    After Tinani's program. Differs: ``dropout``, which the author only reports to have tried, comes right after each
    activation (our choice), so that the batch deviation is that of the features the next layer sees.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        first, *widths = [config.base_channels * scale for scale in (1, 2, 4, 8)]
        self.body = nn.Sequential(
            _block(config, config.channels, first, batch_norm=False),
            *(_block(config, thin + 1, wide, batch_norm=True) for thin, wide in pairwise([first, *widths])),
        )
        self.head = CoveringConv2d(widths[-1] + 1, 1, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images)  # (N, 8c + 1, 2, 2)
        logits: Tensor = self.head(features)  # (N, 1, 1, 1)
        return logits.flatten()


def _block(config: NetworkConfig, inputs: int, outputs: int, *, batch_norm: bool) -> nn.Sequential:
    """Features (N, outputs + 1, n / 2, n / 2) of (N, inputs, n, n); the last channel is the batch deviation."""
    normalise = BatchNorm2d(outputs, eps=BATCH_NORM_EPSILON, momentum=config.batch_norm_momentum)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 4, stride=2, padding=1),
        *([normalise] if batch_norm else []),
        nn.LeakyReLU(DISCRIMINATOR_SLOPE),
        Dropout(config.dropout),
        AppendBatchDeviation(config.batch_deviation),
    )
