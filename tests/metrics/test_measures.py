"""FID, KID, IS, precision, recall, density, coverage: by hand, by another program, and by the plain formula."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from dcgan_dist.metrics import kid, neighbours
from dcgan_dist.metrics.fid import frechet_distance
from dcgan_dist.metrics.inception_score import SPLITS, inception_score
from dcgan_dist.metrics.kid import kernel_distance, subset_distances
from dcgan_dist.metrics.moments import Moments
from dcgan_dist.metrics.neighbours import Neighbourhood, neighbourhood


def torchmetrics() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torchmetrics", reason="needs the extra test")
        import torchmetrics.image

        return torchmetrics.image


def fidelity(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(f"torch_fidelity.{module}", reason="needs the extra eval")


class Given(nn.Module):
    """An extractor for torchmetrics whose images are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def two_sets(
    real: int = 300, fake: int = 200, dim: int = 16, *, shift: float = 0.3, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Float32 features whose columns go together."""
    random = torch.Generator().manual_seed(5)
    mix = torch.randn(dim, dim, generator=random) / math.sqrt(dim)
    left = torch.randn(real, dim, generator=random) @ mix
    right = torch.randn(fake, dim, generator=random) @ mix * 1.2 + shift
    return left + offset, right + offset


def by_scipy(real: Tensor, fake: Tensor) -> float:
    """FID as its authors' program computes it, in float64."""
    left, right = real.double().numpy(), fake.double().numpy()
    covariances = np.cov(left, rowvar=False), np.cov(right, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    step = left.mean(0) - right.mean(0)
    return float(step @ step + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root).real)


# FID


def test_fid_by_hand() -> None:
    """Variances 4 and 1 along the axes, means 0 and (3, 4): 25 + (2 - 1)^2 + (2 - 1)^2 = 27."""
    cross = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    unit = cross * math.sqrt(3 / 2)  # variance 2 * 1.5 / (4 - 1) = 1 along each axis
    assert frechet_distance(Moments.of(2 * unit), Moments.of(unit + torch.tensor([3.0, 4]))) == pytest.approx(27)


@pytest.mark.parametrize(("real", "fake", "dim", "offset"), [(300, 200, 16, 0), (900, 700, 64, 0), (500, 400, 32, 100)])
def test_fid_is_that_of_scipy_and_torchmetrics(real: int, fake: int, dim: int, offset: float) -> None:
    left, right = two_sets(real, fake, dim, offset=offset)
    found = frechet_distance(Moments.of(left), Moments.of(right))
    assert found == pytest.approx(by_scipy(left, right), rel=1e-9)
    theirs = torchmetrics().fid.FrechetInceptionDistance(feature=Given(dim))
    theirs.update(left, real=True)
    theirs.update(right, real=False)
    assert found == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_fid_is_right_with_fewer_images_than_features() -> None:
    """Against the sum of singular values of the centred features themselves, which needs no covariance."""
    left, right = two_sets(40, 30, 64)
    factors = [(side.double() - side.double().mean(0)) / math.sqrt(len(side) - 1) for side in (left, right)]
    step = left.double().mean(0) - right.double().mean(0)
    traces = sum(factor.square().sum() for factor in factors)
    expected = step @ step + traces - 2 * torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    assert frechet_distance(Moments.of(left), Moments.of(right)) == pytest.approx(float(expected), rel=1e-9)
    assert by_scipy(left, right) == pytest.approx(float(expected), rel=1e-6)


def test_fid_of_a_set_with_itself_is_0() -> None:
    for dim in (8, 64):
        moments = Moments.of(two_sets(40, dim=dim)[0])
        assert frechet_distance(moments, moments) == pytest.approx(0, abs=1e-10)
    still = Moments.of(torch.ones(5, 3))  # one image, five times
    assert frechet_distance(still, Moments.of(torch.zeros(5, 3))) == pytest.approx(3)


def test_fid_needs_two_images() -> None:
    with pytest.raises(ValueError, match="FID needs two images on either side, got 1 and 5"):
        frechet_distance(Moments.of(torch.zeros(1, 3)), Moments.of(torch.zeros(5, 3)))


# KID


def test_kid_by_hand() -> None:
    """dim 1, real {0, 1}, fake {1, 2}; k(x, y) = (xy + 1)^3.

    Within: k(0, 1) = 1 and k(1, 2) = 27; between: 1 + 1 + 8 + 27 = 37; 1 + 27 - 2 * 37 / 4 = 9.5.
    """
    both = torch.tensor([[0, 1]])
    found = subset_distances(torch.tensor([[0.0], [1]]), torch.tensor([[1.0], [2]]), chosen_real=both, chosen_fake=both)
    assert found.tolist() == [9.5]


@pytest.mark.parametrize("subsets", [7, 30])
def test_kid_of_subsets_is_that_of_torch_fidelity(subsets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself, or, of more subsets than images are worth, all at once."""
    monkeypatch.setattr(kid, "ROWS", 64)  # several blocks, the last one short
    left, right = two_sets()
    random = torch.Generator().manual_seed(0)
    chosen = [
        torch.stack([torch.randperm(len(side), generator=random)[:50] for _ in range(subsets)])
        for side in (left, right)
    ]
    found = subset_distances(left, right, chosen_real=chosen[0], chosen_fake=chosen[1])
    theirs = fidelity("metric_kid")
    expected = [
        theirs.kernel_mmd(left.double().numpy()[one], right.double().numpy()[other])
        for one, other in zip(chosen[0].numpy(), chosen[1].numpy(), strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Metric .* will save:UserWarning")
def test_kid_of_everything_is_that_of_torchmetrics() -> None:
    left, right = two_sets(200, 200)
    theirs = torchmetrics().kid.KernelInceptionDistance(feature=Given(16), subsets=1, subset_size=200)
    theirs.update(left.double(), real=True)
    theirs.update(right.double(), real=False)
    with torch.random.fork_rng():
        expected, _ = theirs.compute()
    everything = torch.arange(200)[None]
    found = subset_distances(left, right, chosen_real=everything, chosen_fake=everything)
    assert float(found[0]) == pytest.approx(float(expected), rel=1e-6)


def test_deviation_of_kid_is_that_of_the_subsets_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in torch-fidelity and torchmetrics: of one subset it is 0."""
    monkeypatch.setattr(kid, "SUBSETS", 1)
    assert kernel_distance(*two_sets())[1] == 0


def test_kid_is_the_same_each_time_and_draws_nothing() -> None:
    state = torch.random.get_rng_state()
    left, right = two_sets()
    mean, deviation = kernel_distance(left, right)
    assert (mean, deviation) == kernel_distance(left, right)
    assert torch.equal(torch.random.get_rng_state(), state)
    whole = torch.arange(200)[None]
    unbiased = float(subset_distances(left[:200], right, chosen_real=whole, chosen_fake=whole)[0])
    assert abs(mean - unbiased) < 3 * deviation
    assert 0 < deviation < mean
    with pytest.raises(ValueError, match="KID needs four images on either side, got 300 and 3"):
        kernel_distance(left, right[:3])


# IS


def test_is_by_hand() -> None:
    """Each part has one sure image of each of two classes: exp(log 2) = 2. Parts of one class: 1."""
    sure = torch.tensor([[1000.0, 0, 0], [0, 1000, 0]])
    assert inception_score(sure.repeat(SPLITS, 1)) == pytest.approx((2, 0))
    assert inception_score(sure[:1].repeat(20, 1)) == pytest.approx((1, 0))
    halves = torch.cat([sure.repeat(SPLITS // 2, 1), sure[:1].repeat(SPLITS, 1)])
    assert inception_score(halves) == pytest.approx((1.5, 0.5))


@pytest.mark.filterwarnings("ignore:Metric .* will save:UserWarning")
def test_is_is_that_of_torch_fidelity_and_torchmetrics() -> None:
    logits = 3 * two_sets(207, dim=12)[0]  # parts of 20 and 21
    mean, deviation = inception_score(logits)
    theirs = fidelity("metric_isc").isc_features_to_metric(logits, splits=SPLITS, shuffle=False)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert deviation == pytest.approx(theirs["inception_score_std"], rel=1e-9)
    metric = torchmetrics().inception.InceptionScore(feature=Given(12), splits=SPLITS)
    metric.update(logits[:200].double())
    with torch.random.fork_rng():
        torch.manual_seed(1)
        expected, _ = metric.compute()
        torch.manual_seed(1)
        order = torch.randperm(200)
    assert inception_score(logits[:200][order])[0] == pytest.approx(float(expected), rel=1e-6)


def test_is_needs_an_image_a_part() -> None:
    with pytest.raises(ValueError, match="IS needs 10 images, got 9"):
        inception_score(torch.zeros(9, 3))


# Precision, recall, density, coverage


def test_neighbours_by_hand() -> None:
    """Reals 0 ... 6 on a line and 20; fakes 6 times 3 and 100 ... 105.

    Third neighbours of the reals are 3 2 2 2 2 2 3 away (of 20: 16); fifth 5 4 3 3 4 5 6 -> 5 4 3 3 3 4 5 (of 20: 18).
    The fakes at 3 lie in the balls (k = 3) of 0 ... 6 but not of 20 (17 > 16): precision 6 / 12. k = 5: all of 0 ... 6
    (distances 3 2 1 0 1 2 3) and 20's (17 < 18): 8 balls each; density 6 * 8 / (5 * 12) = 0.8; coverage 8 / 8.
    Third neighbours of the fakes: those at 3 are 0 away, so only the real 3 is recalled: 1 / 8.
    """
    real = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 20])[:, None]
    fake = torch.tensor([3.0] * 6 + [100, 101, 102, 103, 104, 105])[:, None]
    assert neighbourhood(real, fake) == Neighbourhood(precision=0.5, recall=1 / 8, density=0.8, coverage=1.0)


def test_copies_of_the_data_are_found_whatever_the_last_bits() -> None:
    """Every fake is a real: distances of 0 and on the edges of balls."""
    real = two_sets(100, dim=40, offset=1000)[0]
    found = neighbourhood(real, real.flip(0))
    assert found == Neighbourhood(precision=1, recall=1, density=6 / 5, coverage=1)  # each in 5 balls and on one's edge
    twins = real[:50].repeat(8, 1)  # radii of 0: seven others are the same
    assert neighbourhood(twins, twins + 0) == Neighbourhood(precision=1, recall=1, density=8 / 5, coverage=1)


def test_neighbours_do_not_depend_on_where_the_origin_is() -> None:
    real, fake = (side.double() for side in two_sets(60, 50))
    assert neighbourhood(real + 1e6, fake + 1e6) == neighbourhood(real, fake)


def plain(real: np.ndarray, fake: np.ndarray) -> Neighbourhood:
    """The formulas as they stand in the papers."""

    def radii(points: np.ndarray, k: int) -> np.ndarray:
        return np.array([np.sort(np.linalg.norm(points - point, axis=1))[k] for point in points])

    inside = {
        k: np.array([[np.linalg.norm(y - x) <= r for x, r in zip(real, radii(real, k), strict=True)] for y in fake])
        for k in (3, 5)
    }
    reached = np.array([[np.linalg.norm(y - x) <= r for y, r in zip(fake, radii(fake, 3), strict=True)] for x in real])
    return Neighbourhood(
        precision=inside[3].any(axis=1).mean(),
        recall=reached.any(axis=1).mean(),
        density=inside[5].sum() / (5 * len(fake)),
        coverage=inside[5].any(axis=0).mean(),
    )


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_neighbours_are_those_of_the_formulas_and_of_torch_fidelity(
    shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "ROWS", 32)
    real, fake = two_sets(120, 90, 6, shift=shift)
    found, expected = neighbourhood(real, fake), plain(real.double().numpy(), fake.double().numpy())
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-12), name
    theirs = fidelity("metric_prc").calculate_precision_recall_full(fake.double(), real.double())
    assert (found.precision, found.recall) == pytest.approx(theirs, rel=1e-6)


def test_neighbours_need_six_images() -> None:
    with pytest.raises(ValueError, match="neighbours need 6 images on either side, got 5 and 9"):
        neighbourhood(torch.zeros(5, 2), torch.zeros(9, 2))
