"""Precision, recall, density and coverage: which images lie near which, by balls that reach to the k-th neighbour."""

from dataclasses import dataclass

import torch
from torch import Tensor

K_PRECISION = 3
K_DENSITY = 5
ROWS = 256
"""Rows of the distance matrix that exist at a time."""
SLACK = 1e-9
"""Of a squared radius: who lies on the edge of a ball lies in it, whatever the last bits."""
SAME = 1e-12
"""Vectors whose squared distance is less than this share of their squared lengths are the same one."""


@dataclass(frozen=True)
class Neighbourhood:
    """How two sets of images overlap."""

    precision: float
    """Share of fakes that lie in the ball (k = 3) of some real image: are they like the data?"""
    recall: float
    """Share of real images that lie in the ball (k = 3) of some fake: is all of the data reached? Wide noise may
    reach 1."""
    density: float
    """Real balls (k = 5) that a fake lies in, on average, divided by k: precision that outliers do not fool; about 1
    for the data themselves, more when fakes crowd where the data are dense."""
    coverage: float
    """Share of real images with a fake in their ball (k = 5): recall that noise does not fool."""


def neighbourhood(real: Tensor, fake: Tensor) -> Neighbourhood:
    """The four measures, with Euclidean balls whose radius is the distance to an image's k-th neighbour in its own set.

    Precision and recall after T. Kynkaanniemi et al., *Improved Precision and Recall Metric for Assessing Generative
    Models* (2019); density and coverage after M. Naeem et al., *Reliable Fidelity and Diversity Metrics for Generative
    Models* (2020). Balls contain their edge: the second paper's program leaves it out, which differs for copies of the
    data alone. Memory: both sides in float64, and ROWS rows as long as the larger one.

    Args:
        real: (N, dim) features.
        fake: (M, dim) features.

    Raises:
        ValueError: If a side has no more than five images.
    """
    if min(len(real), len(fake)) <= K_DENSITY:
        raise ValueError(f"neighbours need {K_DENSITY + 1} images on either side, got {len(real)} and {len(fake)}")
    centre = real.double().mean(dim=0)  # distances stay, and keep more digits
    real, fake = real.double() - centre, fake.double() - centre
    narrow, wide = _radii(real, (K_PRECISION, K_DENSITY))
    (narrow_fake,) = _radii(fake, (K_PRECISION,))
    precise, balls = 0, 0
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = recalled.clone()
    for start in range(0, len(fake), ROWS):
        rows = slice(start, start + ROWS)
        distances = _distances(fake[rows], real)  # (rows, N)
        precise += int((distances <= narrow).any(dim=1).sum())
        in_wide = distances <= wide
        balls += int(in_wide.sum())
        covered |= in_wide.any(dim=0)
        recalled |= (distances <= narrow_fake[rows, None]).any(dim=0)
    return Neighbourhood(
        precision=precise / len(fake),
        recall=float(recalled.double().mean()),
        density=balls / (K_DENSITY * len(fake)),
        coverage=float(covered.double().mean()),
    )


def _radii(features: Tensor, ranks: tuple[int, ...]) -> list[Tensor]:
    """(N,) squared distances to the k-th nearest other vector, a little more, for each k of ``ranks``."""
    found = []
    for start in range(0, len(features), ROWS):
        distances = _distances(features[start : start + ROWS], features)
        own = torch.arange(len(distances), device=distances.device)
        distances[own, own + start] = torch.inf
        found.append(distances.topk(max(ranks), largest=False).values)
    nearest = torch.cat(found)  # (N, max(ranks)), rising
    return [nearest[:, rank - 1] * (1 + SLACK) for rank in ranks]


def _distances(left: Tensor, right: Tensor) -> Tensor:
    """(len(left), len(right)) squared distances."""
    lengths = [torch.linalg.vector_norm(side, dim=1) for side in (left, right)]
    squares = lengths[0].square()[:, None] + lengths[1].square()
    distances = torch.addmm(squares, left, right.T, alpha=-2)
    return distances.masked_fill_(distances < SAME * squares, 0)
