"""What the two networks minimise: functions of the discriminator's logits, computed in float32 or finer.

Written with softplus(x) = log(1 + e^x): ``softplus(-logits)`` is the cross-entropy of the answer "real",
``softplus(logits)`` that of "fake", and neither overflows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class DiscriminatorLoss(Protocol):
    """A scalar from logits (N,) of real and of fake images, given the weights of both answers on reals."""

    def __call__(
        self, logits_real: Tensor, logits_fake: Tensor, *, smooth_fake: float, smooth_real: float
    ) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The losses of both networks."""

    discriminator: DiscriminatorLoss
    generator: Callable[[Tensor], Tensor]
    """A scalar from logits (N,) of fake images."""


def bce_discriminator(logits_real: Tensor, logits_fake: Tensor, *, smooth_fake: float, smooth_real: float) -> Tensor:
    """Binary cross-entropy, one-sided smoothing on the reals: weights 0 and 1 are plain, 0.1 and 0.9 flowers_arch1's.

    The two weights need not add up to 1.
    """
    real, fake = _wide(logits_real), _wide(logits_fake)
    loss_real = smooth_real * F.softplus(-real)
    if smooth_fake:
        loss_real = loss_real + smooth_fake * F.softplus(real)
    return (F.softplus(fake) + loss_real).mean()


def bce_generator(logits_fake: Tensor) -> Tensor:
    """Binary cross-entropy of fakes being called real: Goodfellow's non-saturating loss."""
    return F.softplus(-_wide(logits_fake)).mean()


def _wide(logits: Tensor) -> Tensor:
    """``logits`` in float32 if they are narrower."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


LOSSES = {
    "bce": Loss(discriminator=bce_discriminator, generator=bce_generator),
}
"""The values of the config field ``loss``."""
