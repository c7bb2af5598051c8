"""Frechet Inception Distance: how far apart two sets of features are, taken for two Gaussians."""

import torch
from torch import Tensor

from dcgan_dist.metrics.moments import Moments


def frechet_distance(real: Moments, fake: Moments) -> float:
    """|m_r - m_f|^2 + tr(C_r + C_f - 2 (C_r C_f)^(1/2)), for means m and covariances C; 0 for equal ones.

    After M. Heusel et al., *GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium* (2017).
    With roots R' R = C the last trace is the sum of the singular values of R_r R_f', which stays right where there are
    fewer images than features and the square root of the product is not defined well. Rounding may leave a result of
    nearly 0 slightly negative.

    Raises:
        ValueError: If a set has fewer than two vectors.
    """
    if min(real.count, fake.count) < 2:
        raise ValueError(f"FID needs two images on either side, got {real.count} and {fake.count}")
    step = real.mean - fake.mean
    product = torch.linalg.svdvals(_root(real.covariance) @ _root(fake.covariance).T)
    traces = real.covariance.trace() + fake.covariance.trace()
    return float(step @ step + traces - 2 * product.sum())


def _root(covariance: Tensor) -> Tensor:
    """R, (rank, dim), with R' R = covariance, without the directions that are nothing but rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    root: Tensor = vectors[:, kept] * values[kept].sqrt()
    return root.T
