"""The 28x28 flower networks with upsampling and dropout, architecture 2 of S. Tinani (2018, revised 2023)."""

import torch
from torch import Tensor, nn

from dcgan_dist.config import NetworkConfig
from dcgan_dist.distributed.draws import Dropout
from dcgan_dist.models.layers import (
    AppendBatchDeviation,
    DenseStem,
    SameConv2d,
    SameConvTranspose2d,
    UpsampledConvTranspose2d,
    generator_block,
)

BATCH_NORM_EPSILON = 1e-3
DISCRIMINATOR_SLOPE = 0.2


class Generator(nn.Module):
    """Images (N, channels, 28, 28) in [0, 1] from noise (N, latent_dim).

    After Tinani's program, whose base_channels are 32. Differs: the fakes of the discriminator's update come from
    training mode, batch statistics and dropout included; the author draws them in inference mode.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = [config.base_channels * scale for scale in (8, 4, 2, 1)]
        self.stem = DenseStem(config, widths[0], size=7, epsilon=BATCH_NORM_EPSILON, bias=True)
        self.dropout = Dropout(config.dropout)
        wide, middle, thin, last = widths
        doubling = _strided if config.upsampling == "strided" else UpsampledConvTranspose2d
        layers = [doubling(wide, middle), doubling(middle, thin), SameConvTranspose2d(thin, last, kernel_size=5)]
        self.body = nn.Sequential(*(generator_block(layer, config, epsilon=BATCH_NORM_EPSILON) for layer in layers))
        self.head = SameConvTranspose2d(widths[-1], config.channels, kernel_size=5)

    def forward(self, z: Tensor) -> Tensor:
        features = self.dropout(self.stem(z))  # (N, 8c, 7, 7)
        return torch.sigmoid(self.head(self.body(features)))  # (N, channels, 28, 28)


def _strided(inputs: int, outputs: int) -> SameConvTranspose2d:
    """The layer in the place of an upsampled one that doubles its map by a stride of 2."""
    return SameConvTranspose2d(inputs, outputs, kernel_size=5, stride=2)


class Discriminator(nn.Module):
    """Logits (N,) of images (N, channels, 28, 28) being real.

    After Tinani's program, which has no batch deviation; where ``batch_deviation`` is not 0, one follows each
    activation, as in architecture 1.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = [config.base_channels * scale for scale in (2, 4, 8, 16)]
        strides = [2, 2, 2, 1]
        deviation = [AppendBatchDeviation(config.batch_deviation)] if config.batch_deviation else []
        extra = len(deviation)
        self.body = nn.Sequential(
            *(
                nn.Sequential(
                    SameConv2d(inputs, outputs, kernel_size=5, stride=stride),
                    nn.LeakyReLU(DISCRIMINATOR_SLOPE),
                    Dropout(config.dropout),
                    *deviation,
                )
                for inputs, outputs, stride in zip(
                    [config.channels, *(width + extra for width in widths[:-1])], widths, strides, strict=True
                )
            )
        )
        self.head = nn.Linear((widths[-1] + extra) * 4 * 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images)  # (N, 16c, 4, 4), with batch deviation 16c + 1
        logits: Tensor = self.head(features.flatten(1))  # (N, 1)
        return logits.flatten()
