"""What samples are compared with: fitted on the data once, then every measure of any samples against it."""

from dataclasses import dataclass, field

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from dcgan_dist.collapse import bins, colours, flowers, neighbours, ssim
from dcgan_dist.collapse.clusters import (
    REACHED_SHARE,
    Clusters,
    cluster_counts,
    different_bins,
    fit_clusters,
    js_divergence,
    reached,
    worst_divergence,
)
from dcgan_dist.collapse.colours import ColourMode
from dcgan_dist.collapse.pixels import Doubles, Integers, Pixels, check_pixels, mirrored_thumbnails, thumbnails
from dcgan_dist.collapse.score import score
from dcgan_dist.collapse.sharpness import median_sharpness
from dcgan_dist.data.permute import permutation

SAMPLES = 1024
"""Default number of samples: NDB's bins then hold 20 of them, and an evaluation takes a second."""
MOST_IMAGES = 20_000
"""Of the data that are looked at, drawn by the seed: all of either flower set, a third of MNIST. To look for copies
among more would take longer than all else; copies of the others are not seen."""
FEWEST_IMAGES = 40
"""Of the data: a half of it has to fill two bins."""
FEWEST_SAMPLES = 10
"""To measure: MS-SSIM's ring needs 5, and no share is worth telling of fewer."""
FORMAT = 2
"""Version of the bytes; changes when anything about the numbers in them does."""
_CHUNK = 4096  # images at once


@dataclass(frozen=True, eq=False, kw_only=True)
class Reference:
    """The data as the measures see it. Its first half is fitted to; its second, held out, gives the floors."""

    shape: tuple[int, int, int]
    """(H, W, C) of an image."""
    samples: int
    """How many samples are measured, always: most measures depend on it, and the floors are of as many images."""
    seed: int
    flip: bool
    """Training mirrors half of the images, so mirrored copies are copies."""
    drawn: bool
    """The data are those of ``synthetic``, whose modes are known."""
    grey: bool
    """The data have no colour: where others have colour modes, there are modes of brightness."""
    components: bins.Components
    bins: Clusters
    colours: Clusters
    duplicate_distance: float
    """Two samples as near as this are near-duplicates: a third of the median distance, grey levels, from an image of
    the data to the nearest of as many others."""
    copy_distance: float
    """A sample as near as this to an image of the data is a copy: likewise, to the nearest of all others."""
    thumbs: Pixels
    """(M, D) thumbnails of the data."""
    rows: Integers
    """(M,) their places in the data."""
    floors: dict[str, float] = field(default_factory=dict)
    """Each measure of held-out data, by its short name."""

    @property
    def score_name(self) -> str:
        """The name of the score among the measures."""
        return f"collapse/score_n{self.samples}"

    def distances(self, thumbs: Pixels, *, own: Integers | None = None) -> Doubles:
        """(N,) from each thumbnail to the nearest of the data; ``own`` as for _nearest_in_data."""
        return _nearest_in_data(thumbs, self.thumbs, shape=self.shape, flip=self.flip, own=own)

    def to_bytes(self) -> bytes:
        """A safetensors file, for a cache."""
        arrays = {
            "format": np.array(FORMAT),
            "shape": np.array(self.shape),
            "components/mean": self.components.mean,
            "components/axes": self.components.axes,
            "bins/centres": self.bins.centres,
            "bins/counts": self.bins.counts,
            "colours/centres": self.colours.centres,
            "colours/counts": self.colours.counts,
            "thumbs": self.thumbs,
            "rows": self.rows,
        }
        arrays |= {name: np.array(getattr(self, name)) for name in _SCALARS}
        arrays |= {f"floors/{name}": np.array(value) for name, value in self.floors.items()}
        return bytes(safetensors.numpy.save(arrays))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Reference":
        """The reference that ``to_bytes`` wrote.

        Raises:
            ValueError: If it is cut short, something else or another version's.
        """
        try:
            arrays = safetensors.numpy.load(data)
            if arrays["format"] != FORMAT:
                raise ValueError(f"a collapse reference: format: must be {FORMAT}, got {arrays['format']}")
            floors = {name[7:]: float(value) for name, value in arrays.items() if name.startswith("floors/")}
            scalars = {name: kind(arrays[name]) for name, kind in _SCALARS.items()}
            return cls(
                shape=tuple(arrays["shape"].tolist()),
                components=bins.Components(arrays["components/mean"], arrays["components/axes"]),
                bins=Clusters(arrays["bins/centres"], arrays["bins/counts"]),
                colours=Clusters(arrays["colours/centres"], arrays["colours/counts"]),
                thumbs=arrays["thumbs"],
                rows=arrays["rows"],
                floors=floors,
                **scalars,
            )
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"a collapse reference is damaged or another version's: {error}") from None


_SCALARS = {
    "samples": int,
    "seed": int,
    "flip": bool,
    "drawn": bool,
    "grey": bool,
    "duplicate_distance": float,
    "copy_distance": float,
}


def fit(data: Pixels, *, samples: int = SAMPLES, flip: bool = False, drawn: bool = False, seed: int = 0) -> Reference:
    """The reference for ``data`` (N, H, W, C): a pure function of the arguments.

    Args:
        data: All images that are trained on, uint8; or, of those of a larger set, any MOST_IMAGES at random.
        samples: How many samples will be measured; no more than half of the images that are looked at, so that as
            many held-out images can be.
        flip: Whether training mirrors images.
        drawn: Whether the data are those of ``synthetic``.
        seed: Of halves, k-means and pairs.

    Raises:
        ValueError: If ``data`` are no images, fewer than 40, or all alike.
    """
    check_pixels(data, "data")
    if len(data) < FEWEST_IMAGES:
        raise ValueError(f"data must be at least {FEWEST_IMAGES} images to measure collapse against, got {len(data)}")
    if samples < FEWEST_SAMPLES:
        raise ValueError(f"samples must be at least {FEWEST_SAMPLES}, got {samples}")
    rows = permutation(len(data), seed)[:MOST_IMAGES]
    half = len(rows) // 2
    samples = min(samples, half)
    first, held_out = data[rows[:half]], data[rows[half : half + samples]]
    thumbs = np.concatenate([thumbnails(data[rows[at : at + _CHUNK]]) for at in range(0, len(rows), _CHUNK)])

    components = bins.fit_components(thumbs[:half])
    grey = colours.is_grey(first)
    own = np.arange(samples)
    shape = data.shape[1:]
    among_all = _nearest_in_data(thumbs[:samples], thumbs, shape=shape, flip=flip, own=own)
    reference = Reference(
        shape=shape,
        samples=samples,
        seed=seed,
        flip=flip,
        drawn=drawn,
        grey=grey,
        components=components,
        bins=fit_clusters(components.of(thumbs[:half]), bins.bin_count(half), seed=seed),
        colours=fit_clusters(_colours(first, grey=grey), colours.MODES, seed=seed),
        duplicate_distance=neighbours.near_distance(neighbours.nearest_other(thumbs[:samples])),
        copy_distance=neighbours.near_distance(among_all),
        thumbs=thumbs,
        rows=rows,
    )
    reference.floors.update(_values(held_out, reference, own=half + own))
    alike = [part for part, worst in _worst(reference).items() if reference.floors[part] >= worst]
    if alike:
        raise ValueError(f"data must differ from each other, but all are alike in {', '.join(alike)}")
    return reference


def measure(samples: Pixels, reference: Reference, *, rows: Integers | None = None) -> dict[str, float]:
    """Every measure of ``samples`` by its name, its floor, and the score.

    A name says how many samples (n), clusters (k) or images of the data (m) it was made with. NAME_floor is the same
    measure of as many held-out images of the data. One process computes it; samples of all ranks come together first.

    Args:
        samples: (reference.samples, H, W, C) uint8.
        reference: Of the data.
        rows: (reference.samples,) for samples that are images of the data, or made from some: their places there, so
            that they are not taken for copies of themselves.

    Raises:
        ValueError: If the samples are not as many as the reference says or not images of its shape.
    """
    expected = (reference.samples, *reference.shape)
    if samples.dtype != np.uint8 or samples.shape != expected:
        raise ValueError(f"samples must be uint8 of shape {expected}, got {samples.dtype} of shape {samples.shape}")
    own = None if rows is None else _places(rows, reference)
    values = _values(samples, reference, own=own)
    measures = {reference.score_name: score(values, floors=reference.floors, worst=_worst(reference))}
    for short, value in values.items():
        name = f"collapse/{short}{_made_with(short, reference)}_n{reference.samples}"
        measures |= {name: value, f"{name}_floor": reference.floors[short]}
    return measures


def colour_modes(samples: Pixels, reference: Reference) -> list[ColourMode]:
    """Which colours of the data samples (N, H, W, C) reach, and in what share; the commonest of the data first."""
    clusters = reference.colours
    counts = cluster_counts(_colours(samples, grey=reference.grey), clusters.centres)
    shares = counts / counts.sum()
    wheel = np.zeros((len(counts), 2)) if reference.grey else colours.hue_and_saturation(clusters.centres)
    modes = [
        ColourMode(
            hue=float(wheel[k, 0]),
            saturation=float(wheel[k, 1]),
            brightness=float(clusters.centres[k, 0]) if reference.grey else None,
            data_share=float(clusters.shares[k]),
            sample_share=float(shares[k]),
            reached=bool(shares[k] >= REACHED_SHARE * clusters.shares[k]),
        )
        for k in range(len(counts))
    ]
    return sorted(modes, key=lambda mode: -mode.data_share)


def _values(pixels: Pixels, reference: Reference, *, own: Integers | None = None) -> dict[str, float]:
    """Every measure of images (N, H, W, C) by its short name; ``own`` as for _nearest_in_data."""
    thumbs = thumbnails(pixels)
    in_bins = cluster_counts(reference.components.of(thumbs), reference.bins.centres)
    in_colours = cluster_counts(_colours(pixels, grey=reference.grey), reference.colours.centres)
    among_samples = neighbours.nearest_other(thumbs)
    in_data = reference.distances(thumbs, own=own)
    values = {
        "ndb": different_bins(in_bins, reference.bins.counts),
        "bins_js": js_divergence(in_bins / len(pixels), reference.bins.shares),
        "colour_modes": reached(in_colours, reference.colours),
        "colour_js": js_divergence(in_colours / len(pixels), reference.colours.shares),
        "msssim": ssim.mean_similarity(pixels, seed=reference.seed),
        "duplicates": float(np.mean(among_samples <= reference.duplicate_distance)),
        "copies": float(np.mean(in_data <= reference.copy_distance)),
        "data_distance": float(np.median(in_data)),
        "sharpness": median_sharpness(pixels),
    }
    if reference.drawn:
        labels = flowers.flower_modes(pixels)
        values["flower_modes"] = float(flowers.found_modes(labels))
        values["flower_kl"] = flowers.kl_from_known(labels)
        values["flower_unknown"] = float(np.mean(labels == flowers.UNKNOWN))
    return values


def _places(rows: Integers, reference: Reference) -> Integers:
    """Places among the reference's thumbnails of these rows of the data; -1 for those it did not look at."""
    places = np.full(max(int(rows.max()), int(reference.rows.max())) + 1, -1)
    places[reference.rows] = np.arange(len(reference.rows))
    return places[rows]


def _worst(reference: Reference) -> dict[str, float]:
    """The parts of the score of one image over and over."""
    return {
        "bins_js": worst_divergence(reference.bins.shares),
        "colour_js": worst_divergence(reference.colours.shares),
        "msssim": 1.0,
        "duplicates": 1.0,
    }


def _made_with(short: str, reference: Reference) -> str:
    """The part of a measure's name that says what it was made with."""
    if short in ("ndb", "bins_js"):
        return f"_k{len(reference.bins.counts)}"
    if short in ("colour_modes", "colour_js"):
        return f"_k{len(reference.colours.counts)}"
    if short == "msssim":
        return f"_scales{ssim.scales(min(reference.shape[:2]))}"
    if short in ("copies", "data_distance"):
        return f"_m{len(reference.rows)}"
    return ""


def _colours(pixels: Pixels, *, grey: bool) -> Doubles:
    return colours.brightness_points(pixels) if grey else colours.colour_points(pixels)


def _nearest_in_data(
    thumbs: Pixels, data: Pixels, *, shape: tuple[int, int, int], flip: bool, own: Integers | None
) -> Doubles:
    """(N,) grey levels from each thumbnail to the nearest of the data, mirrored or not if ``flip``.

    Args:
        thumbs: (N, D) thumbnails.
        data: (M, D).
        shape: (H, W, C) of the images.
        flip: Whether mirrored data count.
        own: (N,) the place of each in ``data``, which does not count, where these are of the data themselves.
    """
    distance, _ = neighbours.nearest(thumbs, data, left_out=own)
    if flip:
        mirrored = mirrored_thumbnails(thumbs, shape)  # as far from the data as the data mirrored from them
        distance = np.minimum(distance, neighbours.nearest(mirrored, data, left_out=own)[0])
    return distance
