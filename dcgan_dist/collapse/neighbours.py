"""Nearest images: near-duplicates among samples, and samples that are copies of the data.

Distances are root mean square differences of thumbnails, in grey levels (0 to 255). They come from inner products in
float32, which are exact: thumbnails less 128 are whole numbers of at most 128 in size, so no partial sum of 768
products exceeds 768 * 2^14 < 2^24, up to which float32 holds every whole number. So an image is at distance 0 of its
copy, and results depend on neither the number of threads nor the order of additions.
"""

import numpy as np
from numpy.typing import NDArray

from dcgan_dist.collapse.pixels import Doubles, Floats, Integers, Pixels

NEAR = 1 / 3
"""Of the median distance from a real image to its nearest other: images this near are near-duplicates or copies. A
copy with noise of 20 grey levels lies within it on Flowers-17, synthetic flowers and mostly MNIST; one moved by a pixel
does not. Real images do too: none, 5 and 10 in 100 (synthetic; MNIST; Flowers-17, which has photographs twice)."""
_ROWS, _COLUMNS = 512, 4096  # images compared at once: 25 MB


def near_distance(distances: Doubles) -> float:
    """How near is a near-duplicate, grey levels, from the ``distances`` of real images to their nearest others."""
    return NEAR * float(np.median(distances))


def nearest(queries: Pixels, data: Pixels, *, left_out: Integers | None = None) -> tuple[Doubles, Integers]:
    """Distance (N,), grey levels, and place in ``data`` (N,) of the image nearest to each query.

    Args:
        queries: (N, D) thumbnails.
        data: (M, D) thumbnails, M at least 2.
        left_out: (N,) for each query the place in ``data`` that does not count, itself; or -1.
    """
    best = np.full(len(queries), np.iinfo(np.int32).max, np.int32)
    place = np.zeros(len(queries), np.int64)
    for start in range(0, len(data), _COLUMNS):
        columns = _whole_numbers(data[start : start + _COLUMNS])
        for top in range(0, len(queries), _ROWS):
            rows = slice(top, top + _ROWS)
            squared = _squared_distances(_whole_numbers(queries[rows]), columns)
            if left_out is not None:
                _leave_out(squared, left_out[rows] - start)
            column = squared.argmin(axis=1)
            found = squared[np.arange(len(squared)), column]
            closer = found < best[rows]
            best[rows][closer] = found[closer]
            place[rows][closer] = start + column[closer]
    return np.sqrt(best / queries.shape[1]), place


def nearest_other(thumbs: Pixels) -> Doubles:
    """(N,) distance, grey levels, of each of (N, D) thumbnails to the nearest of the others."""
    return nearest(thumbs, thumbs, left_out=np.arange(len(thumbs)))[0]


def nearest_several(query: Pixels, data: Pixels, count: int) -> tuple[Doubles, Integers]:
    """Distances (count,), rising, and places of the ``count`` images of ``data`` (M, D) nearest to ``query`` (D,)."""
    squared = _squared_distances(_whole_numbers(query[None]), _whole_numbers(data))[0]
    places = np.argsort(squared, kind="stable")[:count]
    return np.sqrt(squared[places] / len(query)), places


def _whole_numbers(thumbs: Pixels) -> Floats:
    return thumbs.astype(np.float32) - np.float32(128)


def _squared_distances(rows: Floats, columns: Floats) -> NDArray[np.int32]:
    """(R, C): exact squared distances of (R, D) from (C, D), D at most 768."""
    inner = (rows @ columns.T).astype(np.int32)
    of_rows, of_columns = (np.einsum("nd,nd->n", x, x).astype(np.int32) for x in (rows, columns))
    inner *= -2
    inner += of_rows[:, None]
    inner += of_columns
    return inner


def _leave_out(squared: NDArray[np.int32], columns: Integers) -> None:
    inside = np.flatnonzero((columns >= 0) & (columns < squared.shape[1]))
    squared[inside, columns[inside]] = np.iinfo(np.int32).max
