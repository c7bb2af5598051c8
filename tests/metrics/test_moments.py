"""Count, mean and covariance: merged, on ranks with unequal shares, and with large means."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dcgan_dist.distributed import collectives
from dcgan_dist.metrics import moments
from dcgan_dist.metrics.moments import Moments
from tests.distributed.ranks import run_ranks

SHARES = {1: [70], 2: [0, 70], 4: [1, 0, 60, 9]}
"""Vectors of each rank."""


def features(offset: float = 0.0) -> Tensor:
    return torch.randn(70, 5, generator=torch.Generator().manual_seed(3)) + offset


def check(found: Moments, of: Tensor, *, rtol: float = 1e-12) -> None:
    wide = of.double().numpy()
    assert found.count == len(wide)
    np.testing.assert_allclose(found.mean.numpy(), wide.mean(axis=0), rtol=rtol)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(wide, rowvar=False), rtol=rtol, atol=1e-13)


def test_moments_by_hand() -> None:
    found = Moments.of(torch.tensor([[1.0, 0], [3, 4]]))
    assert found.mean.tolist() == [2, 2]
    assert found.scatter.tolist() == [[2, 4], [4, 8]]
    assert found.covariance.tolist() == [[2, 4], [4, 8]]


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_moments_do_not_depend_on_the_parts(offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The float32 sums that others keep have lost all digits with a mean of 1e5."""
    whole = features(offset)
    monkeypatch.setattr(moments, "ROWS", 32)  # several blocks, the last one short
    check(Moments.of(whole), whole, rtol=1e-9 if offset else 1e-12)
    found = Moments.of(whole[:0])
    for part in whole.split([3, 0, 30, 1, 36]):
        found = found.merged(Moments.of(part))
    check(found, whole, rtol=1e-9 if offset else 1e-12)
    none = Moments.of(whole[:0]).merged(Moments.of(whole[:0]))
    assert none.count == 0
    assert not none.mean.any()
    assert not none.scatter.any()


def of_share(world_size: int) -> tuple[int, Tensor, Tensor]:
    assert collectives.world_size() == world_size
    own = features(100).split(SHARES[world_size])[collectives.rank()]
    found = Moments.of(own).over_ranks()
    return found.count, found.mean, found.scatter


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_moments_are_those_of_all_ranks_on_each(world_size: int) -> None:
    for found in run_ranks(of_share, world_size, world_size):
        check(Moments(*found), features(100), rtol=1e-10)
