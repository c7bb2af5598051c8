"""How far each image is from the mean of the global batch: flowers_arch1's remedy against mode collapse."""

import torch
from torch import Tensor

from dcgan_dist.distributed import collectives


def batch_deviation(features: Tensor) -> Tensor:
    """(N, 1, H, W): the distance of (N, C, H, W) features from the batch's mean, averaged over channels.

    The mean is taken for each channel and position over the images of all ranks, which must have equally many.
    """
    wide = features.to(torch.promote_types(features.dtype, torch.float32))  # statistics stay wide under autocast
    total: Tensor = collectives.sum_over_ranks(wide.sum(dim=0))
    mean = total / (len(features) * collectives.world_size())
    return (wide - mean).abs().mean(dim=1, keepdim=True).to(features.dtype)
