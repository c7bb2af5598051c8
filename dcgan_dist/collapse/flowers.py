"""Which of the 24 modes of the ``synthetic`` data a picture shows: a rule on pixels, nothing is learned.

Colour: the petal colour that fills most of the picture's middle. Its pixels are the flower's silhouette. It
is stretched until its standard deviation is the same in all directions, which undoes tilt and size, and cut by rays
from its centroid: the rays' fill between 1.3 and 1.95 deviations, where petals have parted, goes up and down
with the angle as often as there are petals (its Fourier coefficients 3, 5 and 8), and is low where they are pointed.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from dcgan_dist.collapse.pixels import Pixels, from_middle, hsv
from dcgan_dist.data.synthetic import COLOURS, MODES, PETALS, SHAPES, Shape

UNKNOWN = len(MODES)
"""What a picture shows that is no flower the rule knows."""
FOUND_SHARE = 0.25
"""A mode counts as found when it has at least this part of its known share of the samples."""

_CANVAS = 64  # pixels a side that the silhouette is measured on; smaller pictures are enlarged for edges between pixels
_ANGLES = 120  # of rays; divisible by 3, 5 and 8, so that no coefficient leaks into another
_BAND = np.linspace(1.34, 1.91, 8)  # where on a ray, in standard deviations of the silhouette
_MIDDLE = 0.5  # standard deviation of the weight of the picture's middle, in half sides: petals reach 0.86 to 1.02
_CORE = 0.45  # in half sides: what does not come so near the middle is another blossom or background
# Ranges of hue about a middle, lowest saturation and value of petals. They enclose what ``synthetic`` draws with its
# light and shade, and exclude its leaves (hue 75 to 125), sky (204, saturation 0.3) and earth (20, 0.2).
_PETAL_COLOURS = {
    "yellow": (47, 17, 0.50, 0.45),
    "purple": (275, 27, 0.25, 0.30),
    "red": (352, 22, 0.50, 0.30),
}
_WHITE = (0.25, 0.55)  # largest saturation, lowest value
_SMALLEST_AREA = 0.15  # of the picture; of 18,000 drawn flowers the smallest has 0.17, noise has 0.03
_WEAKEST = 0.04  # strongest coefficient, weighted; of 18,000 drawn flowers the weakest has 0.048
_WEIGHTS = {3: 1.0, 5: 1.5, 8: 2.0}  # many petals touch, and swing less
# Fill of the band above which petals are round: the middle between the two shapes, measured on drawn flowers.
_ROUND_FILLS = {3: 0.58, 5: 0.67, 8: 0.645}
_CHUNK = 1024  # pictures at once: 150 MB


def flower_modes(pixels: Pixels) -> NDArray[np.int64]:
    """(N,) modes, places in ``MODES`` or UNKNOWN, that RGB pictures (N, H, W, 3) show.

    Right for 99.4 % of drawn flowers or more at 28, 32 and 64 pixels; the colour for all.
    """
    parts = [_chunk_modes(pixels[start : start + _CHUNK]) for start in range(0, len(pixels), _CHUNK)]
    return np.concatenate(parts)


def found_modes(labels: NDArray[np.int64]) -> int:
    """How many of the 24 modes have FOUND_SHARE of their known share of samples with these ``labels`` (N,)."""
    shares = np.bincount(labels, minlength=UNKNOWN + 1)[:UNKNOWN] / len(labels)
    return int(np.sum(shares >= FOUND_SHARE * _known_shares()))


def kl_from_known(labels: NDArray[np.int64]) -> float:
    """KL(samples || known shares) in nats, of samples with these ``labels`` (N,) less those of no known mode.

    As Metz et al. 2017, "Unrolled generative adversarial networks", have it for Stacked MNIST. By chance alone it is
    about 23 / (2 N). Without any known mode it is what it is for the rarest mode alone, its largest value.
    """
    counts = np.bincount(labels, minlength=UNKNOWN + 1)[:UNKNOWN]
    known = _known_shares()
    if not counts.any():
        return -math.log(known.min())
    shares, known = counts[counts > 0] / counts.sum(), known[counts > 0]
    return float((shares * np.log(shares / known)).sum())


def _known_shares() -> NDArray[np.float64]:
    return np.array([mode.share for mode in MODES])


def _chunk_modes(pixels: Pixels) -> NDArray[np.int64]:
    enlarged = [cv2.resize(image, (_CANVAS, _CANVAS), interpolation=cv2.INTER_CUBIC) for image in pixels]
    masks = _petal_masks(np.stack(enlarged))
    middle = np.exp(-((from_middle(_CANVAS, _CANVAS) / _MIDDLE) ** 2) / 2)
    colours = np.einsum("nchw,hw->nc", masks, middle).argmax(axis=1)
    modes = [_mode(masks[place, colour], int(colour)) for place, colour in enumerate(colours)]
    return np.array(modes, np.int64)


def _petal_masks(pixels: Pixels) -> NDArray[np.bool_]:
    """(N, 4, H, W): where there is the petal colour of each of COLOURS."""
    hue, saturation, value = hsv(pixels)
    masks = []
    for colour in COLOURS:
        if colour.name == "white":
            masks.append((saturation < _WHITE[0]) & (value > _WHITE[1]))
        else:
            middle, reach, least_saturation, least_value = _PETAL_COLOURS[colour.name]
            turned = np.abs((hue - middle + 180) % 360 - 180)
            masks.append((turned < reach) & (saturation > least_saturation) & (value > least_value))
    return np.stack(masks, axis=1)


def _mode(mask: NDArray[np.bool_], colour: int) -> int:
    """The mode with this colour that a mask (H, W) of petals has the shape of."""
    # What hangs together and reaches the core.
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    core = from_middle(_CANVAS, _CANVAS) < _CORE
    silhouette = (mask & np.isin(parts, np.unique(parts[core]))).astype(np.float32)
    if silhouette.mean() < _SMALLEST_AREA:
        return UNKNOWN

    # Fill of the band by angle, and how it goes up and down.
    fill = _unrolled(silhouette).mean(axis=1)
    swing = np.abs(np.fft.rfft(fill)) / _ANGLES
    strengths = {petals: swing[petals] * weight for petals, weight in _WEIGHTS.items()}
    petals = max(strengths, key=strengths.__getitem__)
    if strengths[petals] < _WEAKEST:
        return UNKNOWN
    shape: Shape = "round" if fill.mean() > _ROUND_FILLS[petals] else "pointed"
    return (colour * len(PETALS) + list(PETALS).index(petals)) * len(SHAPES) + list(SHAPES).index(shape)


def _unrolled(silhouette: NDArray[np.float32]) -> NDArray[np.float32]:
    """(angles, distances): a silhouette (H, W) along rays from its centroid, as far as _BAND says."""
    down, right = np.indices(silhouette.shape)
    places = np.stack([right.ravel(), down.ravel()])
    centre = places @ silhouette.ravel() / silhouette.sum()
    variances, axes = np.linalg.eigh(np.cov(places, aweights=silhouette.ravel(), bias=True))
    stretch = axes @ np.diag(np.sqrt(variances)) @ axes.T
    angles = np.arange(_ANGLES) * 2 * np.pi / _ANGLES
    rays = np.stack([np.outer(np.cos(angles), _BAND).ravel(), np.outer(np.sin(angles), _BAND).ravel()])
    x, y = (stretch @ rays + centre[:, None]).reshape(2, _ANGLES, len(_BAND)).astype(np.float32)
    found = cv2.remap(silhouette, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, dtype=np.float32)
