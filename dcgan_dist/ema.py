"""The averaged generator."""

import copy

import torch
from torch import nn


class Average:
    """An exponential moving average of a network's parameters; running statistics are copied.

    Starts at the network's initial weights. Updating waits for nothing and needs no communication, because every
    process has the same weights.
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        self.module = copy.deepcopy(network).requires_grad_(requires_grad=False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average by ``1 - decay`` of the way towards ``network``."""
        torch._foreach_lerp_(list(self.module.parameters()), list(network.parameters()), 1 - self.decay)
        for average, buffer in zip(self.module.buffers(), network.buffers(), strict=True):
            average.copy_(buffer)
