"""k-means clusters of the data, and how samples fall into them: NDB and the Jensen-Shannon divergence.

Richardson and Weiss, "On GANs and GMMs", NeurIPS 2018: bins are k-means clusters of the data, a sample belongs to the
nearest centre, and NDB is the number of bins whose share of the samples differs from their share of the data, by a
two-proportion z-test of each bin.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from dcgan_dist.collapse.pixels import Doubles, Integers

LEVEL = 0.05
"""Of each bin's two-sided test, as in the paper: by chance alone, one bin in twenty differs."""
REACHED_SHARE = 0.25
"""Samples reach a cluster when they have at least this part of the data's share in it. Chance alone seldom takes away
three quarters: of 10 expected samples, fewer than 3 come in one draw of 360."""
_ITERATIONS = 100
"""Of Lloyd's algorithm, far more than the 10 to 40 it takes here to settle."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of the data."""

    centres: Doubles
    """(k, D)."""
    counts: Integers
    """(k,) images of the data in each; none is empty."""

    @property
    def shares(self) -> Doubles:
        """(k,) of the data; sums to 1."""
        shares: Doubles = self.counts / self.counts.sum()
        return shares


def fit_clusters(features: Doubles, k: int, *, seed: int) -> Clusters:
    """At most ``k`` clusters of (N, D) features, by Lloyd's k-means from a k-means++ start.

    The same on every call. Clusters that end empty are left out, as happens when points coincide.
    """
    centres = _spread_points(features, k, random=np.random.default_rng(seed))
    nearest = _nearest(features, centres)
    for _ in range(_ITERATIONS):
        members = (nearest[:, None] == np.arange(k)).astype(np.float64)  # (N, k)
        counts = members.sum(axis=0)[:, None]
        centres = np.where(counts > 0, members.T @ features / np.maximum(counts, 1), centres)  # empty ones stay
        before, nearest = nearest, _nearest(features, centres)
        if np.array_equal(before, nearest):
            break
    counts = np.bincount(nearest, minlength=k).astype(np.int64)
    return Clusters(centres[counts > 0], counts[counts > 0])


def _spread_points(features: Doubles, k: int, *, random: np.random.Generator) -> Doubles:
    """k-means++: k of the features, each drawn with a probability as its squared distance from those before it."""
    chosen = [features[random.integers(len(features))]]
    distances = ((features - chosen[0]) ** 2).sum(axis=1)
    while len(chosen) < k:
        total = distances.cumsum()
        chosen.append(features[np.searchsorted(total, random.uniform() * total[-1])])
        distances = np.minimum(distances, ((features - chosen[-1]) ** 2).sum(axis=1))
    return np.stack(chosen)


def cluster_counts(features: Doubles, centres: Doubles) -> Integers:
    """(k,): how many of (N, D) features lie nearest to each of (k, D) centres; of two as near, the first."""
    return np.bincount(_nearest(features, centres), minlength=len(centres)).astype(np.int64)


def _nearest(features: Doubles, centres: Doubles) -> Integers:
    """(N,): which of (k, D) centres lies nearest to each feature; of two as near, the first."""
    scores = features @ centres.T - (centres**2).sum(axis=1) / 2  # half of |f|^2 - |f - c|^2
    nearest: Integers = scores.argmax(axis=1)
    return nearest


def different_bins(counts: Integers, data_counts: Integers) -> float:
    """NDB / k: the part of the bins where the samples' share differs from the data's, from 0 to 1.

    A bin differs when |p - q| > z sqrt(r (1 - r) (1 / n + 1 / m)), with its share p of n samples, q of m images of
    the data, r of both together, and z = 1.96 for LEVEL.
    """
    n, m = counts.sum(), data_counts.sum()
    pooled = (counts + data_counts) / (n + m)
    deviation = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    gap = np.abs(counts / n - data_counts / m)
    return float(np.mean(gap > NormalDist().inv_cdf(1 - LEVEL / 2) * deviation))


def js_divergence(p: Doubles, q: Doubles) -> float:
    """Jensen-Shannon divergence of two histograms of sum 1, in bits: 0 if equal, 1 if they share no bin."""
    middle = (p + q) / 2
    return (kl_divergence(p, middle) + kl_divergence(q, middle)) / (2 * math.log(2))


def kl_divergence(p: Doubles, q: Doubles) -> float:
    """KL(p || q) in nats, of two histograms of sum 1; q has no empty bin where p has something."""
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())


def worst_divergence(shares: Doubles) -> float:
    """The divergence, in bits, of samples that all lie in the data's largest cluster: no single image has less."""
    alone = np.zeros_like(shares)
    alone[shares.argmax()] = 1
    return js_divergence(alone, shares)


def reached(counts: Integers, data: Clusters) -> float:
    """The part of the clusters that samples with these ``counts`` reach (REACHED_SHARE), from 0 to 1."""
    return float(np.mean(counts / counts.sum() >= REACHED_SHARE * data.shares))
