"""Networks with average pooling for MNIST (28x28) and CelebA (32x32), after A. Chapagain (2019).

The author gives the discriminator's layers and their order, and says that the generator mirrors it. Kernel sizes and
activations of the generator, padding "same" and Keras's batch norm and initial weights are our choices.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from dcgan_dist.config import NetworkConfig
from dcgan_dist.distributed.batch_norm import BatchNorm2d
from dcgan_dist.distributed.draws import Dropout
from dcgan_dist.models.layers import DenseStem, generator_block

BATCH_NORM_EPSILON = 1e-3
DISCRIMINATOR_SLOPE = 0.2


class Generator(nn.Module):
    """Images (N, channels, n, n) in [-1, 1] from noise (N, latent_dim), n = 28 or 32.

    The sizes are the discriminator's backwards: 3, 7, 14, 28 or 4, 8, 16, 32.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = [config.base_channels * scale for scale in (4, 2, 1)]
        odd = config.image_size // 4 % 2  # output_padding gives back the pixel that pooling 7 to 3 drops
        ups = [
            nn.ConvTranspose2d(widths[0], widths[1], 4, stride=2, padding=1, output_padding=odd, bias=False),
            nn.ConvTranspose2d(widths[1], widths[2], 4, stride=2, padding=1, bias=False),
        ]
        self.stem = DenseStem(config, widths[0], size=config.image_size // 8, epsilon=BATCH_NORM_EPSILON, bias=False)
        self.body = nn.Sequential(*(generator_block(up, config, epsilon=BATCH_NORM_EPSILON) for up in ups))
        self.head = nn.ConvTranspose2d(widths[2], config.channels, 4, stride=2, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        features = self.body(self.stem(z))  # (N, 4c, n // 8, n // 8), then up to (N, c, n / 2, n / 2)
        return torch.tanh(self.head(features))  # (N, channels, n, n)


class Discriminator(nn.Module):
    """Logits (N,) of images (N, channels, n, n) being real, n = 28 or 32.

    Batch norm follows the pooling, and there is one dropout, before the dense layer, as the author has it.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = [config.base_channels * scale for scale in (1, 2, 4)]
        self.body = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(thin, wide, 3, padding=1),
                    nn.LeakyReLU(DISCRIMINATOR_SLOPE),
                    nn.AvgPool2d(2),
                    BatchNorm2d(wide, eps=BATCH_NORM_EPSILON, momentum=config.batch_norm_momentum),
                )
                for thin, wide in pairwise([config.channels, *widths])
            )
        )
        self.dropout = Dropout(config.dropout)
        self.head = nn.Linear(widths[-1] * (config.image_size // 8) ** 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images)  # (N, 4c, n // 8, n // 8)
        logits: Tensor = self.head(self.dropout(features.flatten(1)))  # (N, 1)
        return logits.flatten()
