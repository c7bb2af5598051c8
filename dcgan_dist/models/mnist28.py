"""The 28x28 networks of TensorFlow's DCGAN tutorial, as used on MNIST by Bharath K (2021)."""

import torch
from torch import Tensor, nn

from dcgan_dist.config import NetworkConfig
from dcgan_dist.distributed.draws import Dropout
from dcgan_dist.models.layers import DenseStem, SameConv2d, SameConvTranspose2d, generator_block

BATCH_NORM_EPSILON = 1e-3
DISCRIMINATOR_SLOPE = 0.3


class Generator(nn.Module):
    """Images (N, channels, 28, 28) in [-1, 1] from noise (N, latent_dim). After TensorFlow's tutorial."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        stem, wide, thin = [config.base_channels * scale for scale in (4, 2, 1)]
        layers = [
            SameConvTranspose2d(stem, wide, kernel_size=5, stride=1, bias=False),
            SameConvTranspose2d(wide, thin, kernel_size=5, stride=2, bias=False),
        ]
        self.stem = DenseStem(config, stem, size=7, epsilon=BATCH_NORM_EPSILON, bias=False)
        self.body = nn.Sequential(*(generator_block(layer, config, epsilon=BATCH_NORM_EPSILON) for layer in layers))
        self.head = SameConvTranspose2d(thin, config.channels, kernel_size=5, stride=2, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        features = self.body(self.stem(z))  # (N, 4c, 7, 7), then (N, c, 14, 14)
        return torch.tanh(self.head(features))  # (N, channels, 28, 28)


class Discriminator(nn.Module):
    """Logits (N,) of images (N, channels, 28, 28) being real. After TensorFlow's tutorial."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        thin, wide = config.base_channels, 2 * config.base_channels
        self.body = nn.Sequential(
            SameConv2d(config.channels, thin, kernel_size=5, stride=2),
            nn.LeakyReLU(DISCRIMINATOR_SLOPE),
            Dropout(config.dropout),
            SameConv2d(thin, wide, kernel_size=5, stride=2),
            nn.LeakyReLU(DISCRIMINATOR_SLOPE),
            Dropout(config.dropout),
        )
        self.head = nn.Linear(wide * 7 * 7, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images)  # (N, 2c, 7, 7)
        logits: Tensor = self.head(features.flatten(1))  # (N, 1)
        return logits.flatten()
