"""Ways between two z: on the sphere for the normal prior, straight for the uniform."""

from typing import Literal

import torch
from torch import Tensor


def slerp(start: Tensor, end: Tensor, fractions: Tensor) -> Tensor:
    """(len(fractions), dim): from ``start`` to ``end``, both (dim,), turning evenly; the norm changes linearly.

    The ends are exact. Between opposite vectors, where every way round is equally short, the way is by the axis that
    ``start`` has least of. A vector of zeros has no direction: the way is straight then.
    """
    a, b, t = start.double(), end.double(), fractions.double()[:, None]
    norms = torch.stack([a.norm(), b.norm()])
    straight = torch.lerp(a, b, t)
    if len(a) == 1 or not norms.all():
        path = straight
    else:
        a, b = a / norms[0], b / norms[1]
        side = b - (a @ b) * a
        angle = torch.atan2(side.norm(), a @ b)  # accurate for small angles, where acos is not
        if side.norm() < 1e-12:  # rounding alone: equal or opposite
            axis = torch.zeros_like(a)
            axis[a.abs().argmin()] = 1
            side = axis - (a @ axis) * a
        turned = torch.cos(t * angle) * a + torch.sin(t * angle) * side / side.norm()
        path = turned * torch.lerp(norms[0], norms[1], t)
    return _with_ends(path, start, end, fractions=fractions)


def straight_line(start: Tensor, end: Tensor, fractions: Tensor) -> Tensor:
    """(len(fractions), dim): from ``start`` to ``end``, both (dim,), in a straight line; the ends are exact."""
    path = torch.lerp(start.double(), end.double(), fractions.double()[:, None])
    return _with_ends(path, start, end, fractions=fractions)


def _with_ends(path: Tensor, start: Tensor, end: Tensor, *, fractions: Tensor) -> Tensor:
    path = path.to(start.dtype)
    path[fractions == 0] = start
    path[fractions == 1] = end
    return path


def interpolated(z: Tensor, steps: int, *, prior: Literal["normal", "uniform"]) -> Tensor:
    """(len(z) / 2 * steps, dim): for each pair of rows of ``z`` the way from one to the other in ``steps`` points.

    Most of the normal prior lies near a sphere, which a straight line leaves: points in its middle are unlike any z
    that the generator was trained on. The uniform prior's cube holds every straight line between its points.
    """
    way = slerp if prior == "normal" else straight_line
    fractions = torch.linspace(0, 1, steps, dtype=torch.float64)
    return torch.cat([way(start, end, fractions) for start, end in zip(z[::2], z[1::2], strict=True)])
