"""Count, mean and covariance of feature vectors in float64, merged without loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dcgan_dist.distributed import collectives

ROWS = 1024
"""Vectors that exist in float64 at a time."""


@dataclass(frozen=True)
class Moments:
    """What FID needs to know of a set of feature vectors. All in float64.

    Sums of squares would lose the digits that large means take; differences from the mean do not (T. Chan, G. Golub and
    R. LeVeque, *Algorithms for Computing the Sample Variance*, 1983).
    """

    count: int
    mean: Tensor
    """(dim,)"""
    scatter: Tensor
    """(dim, dim), sum over the vectors of the outer product of their difference from the mean."""

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Those of features (N, dim) of any type; N may be 0."""
        zero = features.new_zeros(features.shape[1], dtype=torch.float64)
        found = cls(0, zero, torch.outer(zero, zero))
        for start in range(0, len(features), ROWS):
            rows = features[start : start + ROWS].double()
            mean = rows.mean(dim=0)
            found = found.merged(cls(len(rows), mean, (rows - mean).T @ (rows - mean)))
        return found

    @property
    def covariance(self) -> Tensor:
        """(dim, dim), unbiased: divided by count - 1."""
        return self.scatter / (self.count - 1)

    def merged(self, other: "Moments") -> "Moments":
        """Those of both sets together."""
        count = self.count + other.count
        if count == 0:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = torch.outer(step, step) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    def over_ranks(self) -> "Moments":
        """Those of the sets of all ranks together, on every rank; a rank may have none. Every rank calls it."""
        if collectives.world_size() == 1:
            return self
        total = collectives.all_reduce(torch.cat([self.mean * self.count, self.mean.new_tensor([self.count])]))
        count = int(total[-1])
        mean = total[:-1] / max(1, count)
        step = self.mean - mean
        scatter = collectives.all_reduce(self.scatter + torch.outer(step, step) * self.count)
        return Moments(count, mean, scatter)
