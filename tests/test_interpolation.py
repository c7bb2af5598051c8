"""Ways between two z, against angles worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from dcgan_dist.interpolation import interpolated, slerp, straight_line

ROOT_HALF = math.sqrt(0.5)
THIRDS = torch.tensor([0, 1 / 3, 2 / 3, 1], dtype=torch.float64)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_half_way_of_a_right_angle() -> None:
    path = slerp(vector(1, 0), vector(0, 1), vector(0, 0.5, 1))
    torch.testing.assert_close(path, torch.stack([vector(1, 0), vector(ROOT_HALF, ROOT_HALF), vector(0, 1)]))


def test_thirds_of_a_right_angle_are_30_degrees() -> None:
    path = slerp(vector(2, 0, 0), vector(0, 0, 2), THIRDS)
    torch.testing.assert_close(path[1], vector(math.sqrt(3), 0, 1))
    torch.testing.assert_close(path[2], vector(1, 0, math.sqrt(3)))


def test_the_norm_changes_in_a_straight_line() -> None:
    path = slerp(vector(1, 0), vector(0, 3), vector(0, 0.25, 0.5, 1))
    torch.testing.assert_close(path.norm(dim=1), vector(1, 1.5, 2, 3))


def test_equal_norms_are_kept_and_the_angle_turns_evenly() -> None:
    a, b = torch.randn(2, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = 10 * a / a.norm(), 10 * b / b.norm()
    path = slerp(a, b, torch.linspace(0, 1, 9, dtype=torch.float64))
    torch.testing.assert_close(path.norm(dim=1), torch.full((9,), 10.0, dtype=torch.float64))
    cosines = (path[1:] * path[:-1]).sum(1) / 100
    torch.testing.assert_close(cosines, cosines[:1].expand(8))
    assert torch.acos(cosines).sum().item() == pytest.approx(math.acos(float(a @ b) / 100))


@pytest.mark.parametrize("way", [slerp, straight_line])
def test_ends_are_exact(way: object) -> None:
    a, b = torch.randn(2, 100, generator=torch.Generator().manual_seed(1))
    path = way(a, b, THIRDS)  # type: ignore[operator]
    assert path.dtype == torch.float32
    assert torch.equal(path[0], a)
    assert torch.equal(path[-1], b)


def test_equal_vectors_stay() -> None:
    a = vector(0.1, 0.2, -0.7)
    torch.testing.assert_close(slerp(a, a, THIRDS), a.expand(4, 3))
    torch.testing.assert_close(slerp(a, 2 * a, vector(0.5)), 1.5 * a[None])  # one direction


def test_nearly_equal_vectors_have_their_mean_half_way() -> None:
    a, b = vector(1, 0), vector(math.cos(1e-9), math.sin(1e-9))
    torch.testing.assert_close(slerp(a, b, vector(0.5)), vector(1, 0.5e-9)[None], rtol=1e-12, atol=1e-24)


def test_opposite_vectors_go_round_by_the_axis_of_which_there_is_least() -> None:
    path = slerp(vector(3, 0.0, 1), vector(-3, 0.0, -1), vector(0, 0.5, 1))
    torch.testing.assert_close(path[1], vector(0, math.sqrt(10), 0))
    torch.testing.assert_close(path.norm(dim=1), vector(10, 10, 10).sqrt())


@pytest.mark.parametrize(("a", "b"), [(vector(0, 0), vector(0, 4)), (vector(2), vector(-2))])
def test_without_a_direction_the_way_is_straight(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(slerp(a, b, vector(0.25))[0], 0.75 * a + 0.25 * b)


def test_straight_line() -> None:
    path = straight_line(vector(1, -1), vector(0, 1), vector(0, 0.25, 1))
    torch.testing.assert_close(path, torch.stack([vector(1, -1), vector(0.75, -0.5), vector(0, 1)]))


def test_pairs_become_rows_by_their_prior() -> None:
    z = torch.stack([vector(1, 0), vector(0, 1), vector(0, 1), vector(-1, 0)])
    normal, uniform = interpolated(z, 3, prior="normal"), interpolated(z, 3, prior="uniform")
    assert normal.shape == uniform.shape == (6, 2)
    torch.testing.assert_close(normal[4], vector(-ROOT_HALF, ROOT_HALF))
    torch.testing.assert_close(uniform[4], vector(-0.5, 0.5))
    assert torch.equal(normal[[0, 2, 3, 5]], z)
    assert uniform.abs().max() <= 1
