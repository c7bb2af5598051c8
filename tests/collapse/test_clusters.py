"""k-means, NDB and the Jensen-Shannon divergence, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy.cluster.vq import kmeans2
from scipy.special import rel_entr

from dcgan_dist.collapse.clusters import (
    Clusters,
    cluster_counts,
    different_bins,
    fit_clusters,
    js_divergence,
    kl_divergence,
    reached,
    worst_divergence,
)


def test_k_means_finds_three_groups_on_a_line() -> None:
    groups = np.array([0.0, 1, 2, 100, 101, 102, 103, 1000, 1001])[:, None]
    found = fit_clusters(groups, 3, seed=0)
    order = found.centres[:, 0].argsort()
    np.testing.assert_allclose(found.centres[order, 0], [1, 101.5, 1000.5])
    assert found.counts[order].tolist() == [3, 4, 2]
    np.testing.assert_allclose(found.shares[order], [3 / 9, 4 / 9, 2 / 9])


def test_k_means_is_the_same_every_time() -> None:
    points = np.random.default_rng(0).normal(size=(300, 5))
    np.random.seed(1)  # the global generator plays no part
    first = fit_clusters(points, 10, seed=4)
    np.random.seed(2)
    again = fit_clusters(points, 10, seed=4)
    np.testing.assert_array_equal(first.centres, again.centres)
    assert not np.array_equal(first.centres, fit_clusters(points, 10, seed=5).centres)


@pytest.mark.parametrize(("points", "dimensions", "k"), [(300, 5, 10), (1000, 30, 60), (200, 2, 3)])
def test_k_means_is_that_of_scipy(points: int, dimensions: int, k: int) -> None:
    features = np.random.default_rng(points).normal(size=(points, dimensions))
    centres, nearest = kmeans2(features, k, iter=100, minit="++", rng=np.random.default_rng(3))
    found = fit_clusters(features, k, seed=3)
    np.testing.assert_allclose(found.centres, centres, rtol=1e-9)
    np.testing.assert_array_equal(found.counts, np.bincount(nearest))


def test_kl_divergence_is_that_of_scipy() -> None:
    p, q = np.random.default_rng(0).dirichlet([0.5] * 20, size=2)
    p[3] = q[5] = p[5] = 0
    assert kl_divergence(p, q) == pytest.approx(rel_entr(p, q).sum(), rel=1e-13)


def test_clusters_that_would_be_empty_are_left_out() -> None:
    found = fit_clusters(np.repeat([[0.0], [5.0]], 20, axis=0), 8, seed=0)
    assert found.counts.sum() == 40
    assert (found.counts > 0).all()
    assert sorted(found.centres[:, 0].tolist()) == [0, 5]


def test_a_point_belongs_to_the_nearest_centre() -> None:
    points = np.array([[-3.0], [0.4], [0.6], [9.0], [5.4]])
    assert cluster_counts(points, np.array([[0.0], [1.0], [10.0]])).tolist() == [2, 2, 1]


def test_ndb_of_hand_made_bins() -> None:
    # 100 samples in bins of 1-D data, 100 images. Bin 0: p = 0.5, q = 0.35: pooled 0.425, deviation
    # sqrt(0.425 * 0.575 * 0.02) = 0.0699, z = 2.146 > 1.96. Bin 1: 0.3 and 0.4: sqrt(0.35 * 0.65 * 0.02) = 0.0675,
    # z = 1.482. Bin 2: 0.2 and 0.25: z = 0.847.
    assert different_bins(np.array([50, 30, 20]), np.array([35, 40, 25])) == pytest.approx(1 / 3)
    # With twice as many of both, bin 1 differs too: z = 1.482 sqrt 2 = 2.096; bin 2 still not, 1.198.
    assert different_bins(np.array([100, 60, 40]), np.array([70, 80, 50])) == pytest.approx(2 / 3)
    assert different_bins(np.array([7, 3, 0]), np.array([14, 6, 0])) == 0


def test_ndb_of_the_same_distribution_is_its_level() -> None:
    random = np.random.default_rng(0)
    shares = np.full(40, 1 / 40)
    found = [different_bins(random.multinomial(1000, shares), random.multinomial(1000, shares)) for _ in range(200)]
    assert np.mean(found) == pytest.approx(0.05, abs=0.01)  # 8,000 tests: deviation 0.0024, and counts are whole


def test_js_divergence_of_known_histograms() -> None:
    half = np.array([0.5, 0.5])
    one, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert js_divergence(half, half) == 0
    assert js_divergence(one, other) == pytest.approx(1, abs=1e-15)
    # Their middle is (3/4, 1/4): (log2(4/3) + (log2(2/3) + log2(2)) / 2) / 2 = 0.3113
    by_hand = (math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5 * math.log2(2)) / 2
    assert by_hand == pytest.approx(0.311278, abs=1e-6)
    assert js_divergence(one, half) == pytest.approx(by_hand, abs=1e-15)
    assert js_divergence(half, one) == pytest.approx(by_hand, abs=1e-15)


def test_no_image_alone_is_nearer_to_the_data_than_the_worst() -> None:
    shares = np.array([0.1, 0.6, 0.3])
    alone = [js_divergence(row, shares) for row in np.eye(3)]
    assert worst_divergence(shares) == min(alone) == alone[1]


def test_a_cluster_is_reached_from_a_quarter_of_its_share() -> None:
    data = Clusters(np.zeros((4, 1)), np.array([40, 40, 16, 4]))
    assert reached(np.array([90, 10, 0, 0]), data) == 0.5  # 0.1 is a quarter of 0.4
    assert reached(np.array([91, 9, 0, 0]), data) == 0.25
    assert reached(np.array([85, 10, 4, 1]), data) == 1
