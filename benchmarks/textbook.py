"""DCGAN training as textbooks and tutorials have it, in plain PyTorch: what ours is measured against.

Correct, and with the habits of such programs: the discriminator's gradients of the generator's update are computed and
thrown away, five scalars are read at every step, memory is laid out and freed as PyTorch does by default, and images
are decoded from their original files each time they are seen.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

LATENT_DIM = 100
LOADER_WORKERS = 2
"""As in PyTorch's example."""


class Reshape(nn.Module):
    """(N, C) to (N, C, 1, 1)."""

    def forward(self, z: Tensor) -> Tensor:
        return z[:, :, None, None]


class BatchDeviation(nn.Module):
    """One more channel: how far each image is from the batch's mean, averaged over channels."""

    def forward(self, features: Tensor) -> Tensor:
        deviation = (features - features.mean(dim=0)).abs().mean(dim=1, keepdim=True)
        return torch.cat([features, deviation], dim=1)


class CropTo(nn.Module):
    """The first ``size`` rows and columns."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: Tensor) -> Tensor:
        return maps[..., : self.size, : self.size]


def dcgan64() -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator of PyTorch's example: 64x64, 64 channels; logits (N,)."""
    c = 64
    generator: list[nn.Module] = [Reshape(), nn.ConvTranspose2d(LATENT_DIM, 8 * c, 4, bias=False)]
    for wide, thin in ((8, 4), (4, 2), (2, 1)):
        generator += [nn.BatchNorm2d(wide * c), nn.ReLU()]
        generator += [nn.ConvTranspose2d(wide * c, thin * c, 4, stride=2, padding=1, bias=False)]
    generator += [nn.BatchNorm2d(c), nn.ReLU(), nn.ConvTranspose2d(c, 3, 4, stride=2, padding=1, bias=False), nn.Tanh()]
    discriminator: list[nn.Module] = [nn.Conv2d(3, c, 4, stride=2, padding=1, bias=False), nn.LeakyReLU(0.2)]
    for thin, wide in ((1, 2), (2, 4), (4, 8)):
        discriminator += [nn.Conv2d(thin * c, wide * c, 4, stride=2, padding=1, bias=False)]
        discriminator += [nn.BatchNorm2d(wide * c), nn.LeakyReLU(0.2)]
    discriminator += [nn.Conv2d(8 * c, 1, 4, bias=False), nn.Flatten(0)]
    return nn.Sequential(*generator), nn.Sequential(*discriminator)


def flowers_arch1() -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator of S. Tinani's architecture 1: 32x32, 24 channels; logits (N,)."""
    c, momentum = 24, 0.01
    generator: list[nn.Module] = [Reshape(), nn.ConvTranspose2d(LATENT_DIM, 8 * c, 4)]
    for wide, thin in ((8, 4), (4, 2), (2, 1)):
        generator += [nn.BatchNorm2d(wide * c, eps=1e-3, momentum=momentum), nn.LeakyReLU(0.2)]
        generator += [nn.ConvTranspose2d(wide * c, thin * c, 4, stride=2, padding=1)]
    generator += [nn.BatchNorm2d(c, eps=1e-3, momentum=momentum), nn.LeakyReLU(0.2)]
    generator += [nn.ConvTranspose2d(c, 3, 4, padding=1), CropTo(32), nn.Tanh()]
    discriminator: list[nn.Module] = [nn.Conv2d(3, c, 4, stride=2, padding=1), nn.LeakyReLU(0.2), BatchDeviation()]
    for thin, wide in ((1, 2), (2, 4), (4, 8)):
        discriminator += [nn.Conv2d(thin * c + 1, wide * c, 4, stride=2, padding=1)]
        discriminator += [nn.BatchNorm2d(wide * c, eps=1e-3, momentum=momentum), nn.LeakyReLU(0.2), BatchDeviation()]
    discriminator += [nn.Conv2d(8 * c + 1, 1, 2), nn.Flatten(0)]
    return nn.Sequential(*generator), nn.Sequential(*discriminator)


def alternating_step(
    generator: nn.Module,
    discriminator: nn.Module,
    optimizer_g: torch.optim.Optimizer,
    optimizer_d: torch.optim.Optimizer,
    real: Tensor,
    z: Tensor,
) -> tuple[float, ...]:
    """The step of PyTorch's example; loss of D, loss of G, D's mean scores of reals and of fakes before and after."""
    criterion = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(len(real)), torch.zeros(len(real))

    discriminator.zero_grad()
    logits_real = discriminator(real)
    loss_real = criterion(logits_real, ones)
    loss_real.backward()
    score_real = logits_real.sigmoid().mean().item()
    fake = generator(z)
    logits_fake = discriminator(fake.detach())
    loss_fake = criterion(logits_fake, zeros)
    loss_fake.backward()
    score_fake = logits_fake.sigmoid().mean().item()
    loss_d = loss_real + loss_fake
    optimizer_d.step()

    generator.zero_grad()
    logits = discriminator(fake)
    loss_g = criterion(logits, ones)
    loss_g.backward()  # D's gradients too; the next step throws them away
    score_after = logits.sigmoid().mean().item()
    optimizer_g.step()
    return loss_d.item(), loss_g.item(), score_real, score_fake, score_after


def simultaneous_step(
    generator: nn.Module,
    discriminator: nn.Module,
    optimizer_g: torch.optim.Optimizer,
    optimizer_d: torch.optim.Optimizer,
    real: Tensor,
    z: Tensor,
    noise: Tensor,
) -> tuple[float, ...]:
    """The step of architecture 1: instance noise on reals, one-sided smoothing, both gradients at the same weights.

    Returns:
        Loss of D, loss of G, D's mean scores of reals and of fakes.
    """
    criterion = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(len(real)), torch.zeros(len(real))

    fake = generator(z)
    generator.zero_grad()
    loss_g = criterion(discriminator(fake), ones)
    loss_g.backward()  # D's gradients too, thrown away in the next line

    discriminator.zero_grad()
    logits_real = discriminator(real + noise)
    loss_real = 0.9 * criterion(logits_real, ones) + 0.1 * criterion(logits_real, zeros)
    loss_real.backward()
    logits_fake = discriminator(fake.detach())
    loss_fake = criterion(logits_fake, zeros)
    loss_fake.backward()
    loss_d = loss_real + loss_fake
    optimizer_d.step()
    optimizer_g.step()
    return loss_d.item(), loss_g.item(), logits_real.sigmoid().mean().item(), logits_fake.sigmoid().mean().item()


def epochs(folder: Path, *, size: int, batch_size: int, largest: float) -> Iterator[Tensor]:
    """Real images of a directory of classes, epoch after epoch without end.

    Args:
        folder: a directory for each class.
        size: pixels a side.
        batch_size: images a batch; an epoch's last ones are left out where they are fewer.
        largest: values are from minus this to this.

    Yields:
        (batch_size, 3, size, size) float32.
    """
    transform = transforms.Compose(
        [
            transforms.Resize(size),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5 / largest,) * 3),
        ]
    )
    loader = DataLoader(
        ImageFolder(str(folder), transform),
        batch_size=batch_size,
        shuffle=True,
        num_workers=LOADER_WORKERS,
        drop_last=True,
    )
    while True:
        for images, _ in loader:
            yield images
