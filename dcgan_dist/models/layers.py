"""Blocks and initial weights that two or more models share.

Keras's padding "same" splits an odd amount unevenly, the smaller half first (top, left), which torch's layers cannot
say for a stride above 1: ``SameConv2d`` and ``SameConvTranspose2d`` do.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcgan_dist.config import NetworkConfig
from dcgan_dist.distributed.batch_deviation import batch_deviation
from dcgan_dist.distributed.batch_norm import BatchNorm2d


def same_padding(size: int, kernel_size: int, *, stride: int) -> tuple[int, int]:
    """Pixels to add (before, after) one axis of ``size`` pixels, so that a convolution leaves ceil(size / stride)."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """Convolution with Keras's padding "same": features (N, C, n, n) to (N, outputs, m, m), m = ceil(n / stride)."""

    def __init__(self, inputs: int, outputs: int, *, kernel_size: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel_size, stride=stride)

    def forward(self, features: Tensor) -> Tensor:
        before, after = same_padding(features.shape[-1], self.kernel_size[0], stride=self.stride[0])
        if before == after:
            return F.conv2d(features, self.weight, self.bias, stride=self.stride, padding=before)
        return super().forward(F.pad(features, (before, after, before, after)))


class SameConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution with Keras's padding "same": features (N, C, n, n) to (N, outputs, m, m), m = n * stride.

    torch's ``padding`` crops both sides by the smaller half; the slice, a view, crops the pixel that may be left.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel_size: int, stride: int = 1, bias: bool = True) -> None:
        assert kernel_size >= stride
        super().__init__(inputs, outputs, kernel_size, stride=stride, padding=(kernel_size - stride) // 2, bias=bias)

    def forward(self, features: Tensor, output_size: list[int] | None = None) -> Tensor:
        size = features.shape[-1] * self.stride[0]
        return super().forward(features, output_size)[..., :size, :size]


class UpsampledConvTranspose2d(SameConvTranspose2d):
    """Pixels copied to twice the size, then a transposed convolution: features (N, C, n, n) to (N, outputs, 2n, 2n).

    Computed without the larger map, as a sub-pixel convolution (Shi et al. 2016). Where each pixel stands twice, two
    neighbouring weights of the 5x5 kernel often meet the same value: for each of the four places that a pixel is copied
    to, they add up to a kernel of 3x3, and 36 products a pixel take the place of 100. The same sums in another order.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=5)

    def forward(self, features: Tensor, output_size: list[int] | None = None) -> Tensor:
        inputs, outputs = self.weight.shape[:2]
        sums = _sums_of_neighbours(_sums_of_neighbours(self.weight.permute(2, 3, 0, 1), axis=0), axis=1)
        places = sums.view(2, 3, 2, 3, inputs, outputs).permute(5, 0, 2, 4, 1, 3)
        kernels = places.reshape(outputs * 4, inputs, 3, 3)  # those of a pixel's four places follow each other
        assert self.bias is not None
        return F.pixel_shuffle(F.conv2d(features, kernels, self.bias.repeat_interleave(4), padding=1), 2)


def _sums_of_neighbours(weights: Tensor, *, axis: int) -> Tensor:
    """Of 5 weights along an axis of a transposed convolution, what a doubled pixel before, at and after a place gets.

    First for even places, then for odd ones: 6 along the axis. Sums of float32 weights, under autocast too.
    """
    k = weights.unbind(axis)
    even, odd = [k[4] + k[3], k[2] + k[1], k[0]], [k[4], k[3] + k[2], k[1] + k[0]]
    return torch.stack(even + odd, axis)


class CoveringConv2d(nn.Conv2d):
    """Convolution whose kernel covers the map: features (N, C, k, k) to (N, outputs, 1, 1), as one matrix product."""

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(_as_rows(features), _as_rows(self.weight), self.bias)[:, :, None, None]


class CoveringConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution of one pixel: features (N, C, 1, 1) to (N, outputs, k, k), as one matrix product."""

    def forward(self, features: Tensor, output_size: list[int] | None = None) -> Tensor:
        _, outputs, height, width = self.weight.shape
        rows = features.flatten(1) @ _as_rows(self.weight)
        maps = rows.view(-1, height, width, outputs).permute(0, 3, 1, 2)
        return maps if self.bias is None else maps + self.bias.view(-1, 1, 1)


def _as_rows(maps: Tensor) -> Tensor:
    """(N, H * W * C) of (N, C, H, W): no copy where the memory format is channels_last."""
    return maps.permute(0, 2, 3, 1).flatten(1)


class AppendBatchDeviation(nn.Module):
    """Features (N, C + 1, H, W): those of (N, C, H, W) and their batch deviation times ``weight``.

    Weight 0 appends zeros, so that the parameters keep their shapes.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, features: Tensor) -> Tensor:
        if self.weight == 0:
            return F.pad(features, (0, 0, 0, 0, 0, 1))
        return torch.cat([features, self.weight * batch_deviation(features)], dim=1)

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


def activation(slope: float) -> nn.Module:
    """LeakyReLU of a negative slope; ReLU for 0."""
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


def generator_block(layer: nn.ConvTranspose2d, config: NetworkConfig, *, epsilon: float) -> nn.Sequential:
    """``layer``, batch norm and the generator's activation."""
    batch_norm = BatchNorm2d(layer.out_channels, eps=epsilon, momentum=config.batch_norm_momentum)
    return nn.Sequential(layer, batch_norm, activation(config.generator_slope))


class DenseStem(nn.Module):
    """First features (N, channels, size, size) from noise (N, latent_dim): dense, batch norm, activation, reshape.

    Batch norm comes before the reshape, as in the Keras programs: each feature of each position has its own statistics.
    """

    def __init__(self, config: NetworkConfig, channels: int, *, size: int, epsilon: float, bias: bool) -> None:
        super().__init__()
        self.shape = (channels, size, size)
        features = channels * size * size
        self.dense = nn.Linear(config.latent_dim, features, bias=bias)
        self.batch_norm = BatchNorm2d(features, eps=epsilon, momentum=config.batch_norm_momentum)
        self.activation = activation(config.generator_slope)

    def forward(self, z: Tensor) -> Tensor:
        features: Tensor = self.dense(z)[:, :, None, None]  # (N, channels * size * size, 1, 1)
        features = self.activation(self.batch_norm(features))
        return features.reshape(-1, *self.shape)


def keras_initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Keras's defaults: weights Glorot uniform, biases 0; batch norm stays at weight 1, bias 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def dcgan_initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Those of Radford et al. 2015: weights N(0, 0.02), batch norm weights N(1, 0.02), biases 0.

    One recipe's author prints a standard deviation of 0.2; the paper and every program use 0.02.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | BatchNorm2d):
            mean = 1.0 if isinstance(module, BatchNorm2d) else 0.0
            nn.init.normal_(module.weight, mean, 0.02, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
