"""Batch normalisation over the global batch.

On one process this is torch's own kernel. On several GPUs ``synchronize`` swaps in ``nn.SyncBatchNorm``. On several
CPU processes, where torch's refuses to work, the statistics are merged here: one all-gather forward (count, mean and
sum of squared differences of each rank, joined by Chan's formula) and one all-reduce backward.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dcgan_dist.distributed import collectives


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose batch is the global one: features (N, C, H, W) to the same shape.

    Parameters, buffers and the meaning of ``momentum`` (the share of the new batch) are torch's.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or collectives.world_size() == 1:
            return super().forward(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        normalised, mean, variance = _global_batch_norm(features, self.weight, self.bias, eps=self.eps)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        return normalised  # type: ignore[no-any-return]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _global_batch_norm(features: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """``_GlobalBatchNorm``, kept out of compiled graphs: traced collectives gave other numbers (torch 2.14)."""
    return _GlobalBatchNorm.apply(features, weight, bias, eps)  # type: ignore[no-any-return]


class _GlobalBatchNorm(torch.autograd.Function):
    """(normalised features, global mean, global unbiased variance) of (N, C, H, W) features."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        wide = features.to(weight.dtype)  # statistics stay in float32 (or 64) under autocast
        count = wide.numel() // wide.shape[1]
        variance, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)

        # one row a rank: count, C means, C sums of squared differences
        own = torch.cat([wide.new_full((1,), count), mean, variance * count])
        ranks = collectives.all_gather(own)
        counts, means, squares = ranks[:, :1], *ranks[:, 1:].chunk(2, dim=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        square = squares.sum(0) + (counts * (means - mean) ** 2).sum(0)

        variance = square / total
        normalised = F.batch_norm(wide, mean, variance, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(features, weight, mean, (variance + eps).rsqrt(), total)
        unbiased = square / (total - 1).clamp(min=1)
        ctx.mark_non_differentiable(mean, unbiased)
        return normalised.to(features.dtype), mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        features, weight, mean, inverse_std, total = ctx.saved_tensors
        grad = grads[0].to(weight.dtype)
        shape = (1, -1, 1, 1)
        standard = (features.to(weight.dtype) - mean.view(shape)) * inverse_std.view(shape)
        grad_bias = grad.sum(dim=(0, 2, 3))
        grad_weight = (grad * standard).sum(dim=(0, 2, 3))

        sums = collectives.all_reduce(torch.stack([grad_bias, grad_weight])) / total
        centred = grad - sums[0].view(shape) - standard * sums[1].view(shape)
        grad_features = centred * (weight * inverse_std).view(shape)
        return grad_features.to(features.dtype), grad_weight, grad_bias, None


def synchronize(network: nn.Module, device: torch.device) -> nn.Module:
    """``network`` with torch's SyncBatchNorm where several GPU processes share a batch; else itself."""
    if collectives.world_size() > 1 and device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call, no-any-return]
    return network


def note_torchs_collectives(layers: Sequence[nn.SyncBatchNorm], output: Tensor) -> None:
    """Count what torch's own layers tell other ranks in a training pass that ended in ``output``.

    Each gathers count, mean and inverse deviation in the pass, and sums two gradients a channel in every backward
    through it; our own layers count by themselves.
    """
    if not layers:
        return

    def note_all(values_per_channel: int, *, more: int = 0) -> None:
        for layer in layers:
            collectives.note((values_per_channel * layer.num_features + more) * layer.weight.element_size())

    note_all(2, more=1)
    if output.requires_grad:
        output.register_hook(lambda grad: note_all(2))  # type: ignore[no-untyped-call]
