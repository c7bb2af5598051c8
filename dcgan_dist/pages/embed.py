"""Pictures as data URIs, as many and as fine as a page has room for."""

import base64
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dcgan_dist.records import evenly
from dcgan_dist.results.gather import Run

PICTURE_BYTES = 8_000_000
"""Of all pictures as text; leaves 2 of a page's 10 MB for the rest."""


@dataclass(frozen=True, kw_only=True)
class Fineness:
    """How many grids of a run are shown, and how they are kept."""

    grids: int
    """At most this many of a run, spread evenly, the last among them."""
    reduce: int
    """Whole factor by which a picture is made smaller; grids of images below 64 pixels were enlarged."""
    quality: int
    """Of WebP, of 100."""


FINENESS = (
    Fineness(grids=60, reduce=1, quality=85),
    Fineness(grids=60, reduce=2, quality=90),
    Fineness(grids=30, reduce=2, quality=85),
    Fineness(grids=15, reduce=2, quality=80),
    Fineness(grids=6, reduce=2, quality=75),
    Fineness(grids=2, reduce=4, quality=75),
)
"""From the best: the first that fits is used. 60 is a slider that still moves in visible steps."""


@dataclass(kw_only=True)
class Pictures:
    """All pictures of a page."""

    uris: list[str]
    """Data URIs; the same picture is here once."""
    grids: list[list[tuple[int, int]]]
    """For each run, the step and the position in ``uris`` of each grid."""
    reals: list[int | None]
    """For each run, the position in ``uris`` of its real images."""
    nearest: list[int | None]
    """For each run, that of its samples beside the images of the data that are nearest to them."""
    factor: int
    """How often larger than its pixels a grid is meant to be seen."""


def embedded(runs: Sequence[Run], *, reals_of: Collection[int] | None = None) -> Pictures:
    """The sample grids and real images of all runs, in the finest way that fits. What cannot be read becomes a note.

    Args:
        runs: whose pictures.
        reals_of: the places of the runs whose real images are wanted, and then no nearest ones; all when it is None.

    Raises:
        ValueError: when no way fits.
    """
    for fineness in FINENESS:
        fits = _estimate(runs, fineness) < 1.5 * PICTURE_BYTES
        pictures = _pictures(runs, fineness, reals_of=reals_of) if fits else None
        if pictures and sum(map(len, pictures.uris)) <= PICTURE_BYTES:
            return pictures
    raise ValueError(f"the sample grids of {len(runs)} runs do not fit into one page; name fewer runs")


def _estimate(runs: Sequence[Run], fineness: Fineness) -> float:
    """Bytes of the pictures, if all grids of a run were like its last."""
    sizes = [
        len(_data_uri(run.grids[-1][1], fineness.quality, reduce=fineness.reduce) or "")
        * min(len(run.grids), fineness.grids)
        for run in runs
        if run.grids
    ]
    return sum(sizes)


def _pictures(runs: Sequence[Run], fineness: Fineness, *, reals_of: Collection[int] | None) -> Pictures:
    places: dict[str, int] = {}

    def place(path: Path, run: Run, *, reduce: int = fineness.reduce) -> int | None:
        if not path.exists():
            return None
        uri = _data_uri(path, fineness.quality, reduce=reduce)
        if uri is None:
            note = f"{path.name} cannot be read as a picture"
            if note not in run.notes:
                run.notes.append(note)
            return None
        return places.setdefault(uri, len(places))

    grids = []
    for run in runs:
        chosen = [run.grids[i] for i in evenly(len(run.grids), fineness.grids)]
        found = [(step, place(path, run)) for step, path in chosen]
        grids.append([(step, position) for step, position in found if position is not None])
    wanted = range(len(runs)) if reals_of is None else reals_of
    reals = [place(run.directory.reals, run) if own in wanted else None for own, run in enumerate(runs)]
    nearest = [place(run.directory.nearest, run, reduce=1) if reals_of is None else None for run in runs]  # small print
    return Pictures(uris=list(places), grids=grids, reals=reals, nearest=nearest, factor=fineness.reduce)


def _data_uri(path: Path, quality: int, *, reduce: int) -> str | None:
    """The picture as WebP; None when it cannot be read."""
    buffer = io.BytesIO()
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            smaller = picture.convert("RGB").reduce(reduce)
            smaller.save(buffer, "WEBP", quality=quality)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # all that Pillow raises for damaged PNGs
        return None
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
