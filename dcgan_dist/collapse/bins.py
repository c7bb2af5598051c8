"""Features for the bins of NDB: principal components of thumbnails."""

from dataclasses import dataclass

import numpy as np

from dcgan_dist.collapse.pixels import Doubles, Pixels

COMPONENTS = 32
"""Of thumbnails; on flowers and digits they hold four fifths of the variance or more. Distances in them are pixel
distances less what is fine, which is nearly the same for any two images and would only add noise to k-means."""
IMAGES_PER_BIN = 20
"""Images of the data a bin has in the mean, at least: the z-test's normal approximation wants about ten."""
MOST_BINS = 50
"""More make bins finer than 1,000 samples can fill: 20 samples a bin, as above."""


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of the data."""

    mean: Doubles
    """(D,)."""
    axes: Doubles
    """(D, d), orthonormal, by falling variance."""

    def of(self, thumbs: Pixels) -> Doubles:
        """(N, d) coordinates of thumbnails (N, D)."""
        return (thumbs - self.mean) @ self.axes


def fit_components(thumbs: Pixels) -> Components:
    """The first 32 principal components of thumbnails (N, D), or as many as there are."""
    mean = thumbs.mean(axis=0, dtype=np.float64)
    centred = thumbs - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)  # by rising variance
    return Components(mean, np.ascontiguousarray(vectors[:, ::-1][:, :COMPONENTS]))


def bin_count(images: int) -> int:
    """How many bins so many images of the data are cut into; at least 2."""
    return max(2, min(MOST_BINS, images // IMAGES_PER_BIN))
