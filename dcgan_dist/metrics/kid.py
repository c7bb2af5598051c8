"""Kernel Inception Distance: the squared maximum mean discrepancy of two sets of features."""

import torch
from torch import Tensor

SUBSETS = 100
SUBSET_SIZE = 1000
"""Images of either side in a subset, at most; never more than half of the smaller side, so that subsets differ."""
DEGREE = 3
ROWS = 256
"""Rows of the kernel matrix that exist at a time."""


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the unbiased squared MMD over SUBSETS random subsets, the same ones each time.

    After M. Binkowski et al., *Demystifying MMD GANs* (2018), with its kernel (x.y / dim + 1)^3. The expectation does
    not depend on the numbers of images, and the mean may be slightly negative. Memory: both sides in float64, and
    ROWS rows as long as the larger one; where there are very many images, those of a subset alone.

    Args:
        real: (N, dim) features.
        fake: (M, dim) features.

    Raises:
        ValueError: If a side has fewer than four images.
    """
    smaller = min(len(real), len(fake))
    if smaller < 4:
        raise ValueError(f"KID needs four images on either side, got {len(real)} and {len(fake)}")
    size = min(SUBSET_SIZE, smaller // 2)
    random = torch.Generator().manual_seed(0)  # ours alone
    chosen = [
        torch.stack([torch.randperm(len(side), generator=random)[:size] for _ in range(SUBSETS)])
        for side in (real, fake)
    ]
    distances = subset_distances(real, fake, chosen_real=chosen[0], chosen_fake=chosen[1])
    return float(distances.mean()), float(distances.std(correction=0))


def subset_distances(real: Tensor, fake: Tensor, *, chosen_real: Tensor, chosen_fake: Tensor) -> Tensor:
    """(S,) float64: the unbiased squared MMD of each pair of subsets.

    The kernel of each pair of images is computed once, and added up for all subsets that have both; unless there are so
    many images that it is less work to compute it anew for each subset.

    Args:
        real: (N, dim) features.
        fake: (M, dim) features.
        chosen_real: (S, size) numbers of real images, each once in a subset.
        chosen_fake: (S, size) numbers of fake images, likewise.
    """
    subsets, size = chosen_real.shape
    if subsets > 1 and subsets * size**2 < len(real) * len(fake):
        own = torch.arange(size)[None]
        pairs = zip(chosen_real, chosen_fake, strict=True)
        return torch.cat(
            [subset_distances(real[one], fake[other], chosen_real=own, chosen_fake=own) for one, other in pairs]
        )
    real, fake = real.double(), fake.double()
    members_real, members_fake = _members(chosen_real, real), _members(chosen_fake, fake)
    within = _sums(real, real, members_real, members_real) - (_own_kernel(real) * members_real).sum(dim=1)
    within += _sums(fake, fake, members_fake, members_fake) - (_own_kernel(fake) * members_fake).sum(dim=1)
    between = _sums(real, fake, members_real, members_fake)
    return within / (size * (size - 1)) - 2 * between / size**2


def _members(chosen: Tensor, features: Tensor) -> Tensor:
    """(S, N) float64: 1 where a subset has an image, else 0."""
    return features.new_zeros(len(chosen), len(features)).scatter_(1, chosen.to(features.device), 1)


def _sums(left: Tensor, right: Tensor, members_left: Tensor, members_right: Tensor) -> Tensor:
    """(S,): the sum of each subset's kernel values, over its images on the left and on the right."""
    total = left.new_zeros(len(members_left))
    for start in range(0, len(left), ROWS):
        rows = slice(start, start + ROWS)
        kernel = (left[rows] @ right.T / left.shape[1] + 1) ** DEGREE  # (rows, len(right))
        total += ((members_right @ kernel.T) * members_left[:, rows]).sum(dim=1)
    return total


def _own_kernel(features: Tensor) -> Tensor:
    """(N,): the kernel of each image with itself."""
    return (features.square().sum(dim=1) / features.shape[1] + 1) ** DEGREE
