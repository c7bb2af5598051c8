"""A picture of samples beside the images of the data that are nearest to them."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dcgan_dist.collapse.neighbours import nearest_several
from dcgan_dist.collapse.pixels import Integers, Pixels, mirrored_thumbnails, thumbnails
from dcgan_dist.collapse.reference import Reference
from dcgan_dist.images import CELL_PIXELS, grid

_CAPTION_PIXELS = 16
_NEIGHBOURS = 5


def nearest_picture(
    samples: Pixels, reference: Reference, *, data: Callable[[Integers], Pixels], rows: int = 12
) -> Pixels:
    """RGB (height, width, 3): in each row a sample and the five images of the data nearest to it, with distances.

    The samples are those that are nearest to the data, the nearest first: the likeliest copies. Distances are root
    mean square grey levels of thumbnails; one that makes the sample a copy is red.

    Args:
        samples: (N, H, W, C) uint8.
        reference: Fitted on ``data``.
        data: The images at these places among those it was fitted on, none twice.
        rows: How many samples.
    """
    thumbs = thumbnails(samples)
    order = np.argsort(reference.distances(thumbs), kind="stable")[:rows].tolist()
    found = [_neighbours(thumbs[i], reference) for i in order]
    places = sorted({place for neighbours in found for _, place, _ in neighbours})
    images = dict(zip(places, data(reference.rows[places]), strict=True))
    cells = []
    for i, neighbours in zip(order, found, strict=True):
        cells.append(_cell(samples[i], f"sample {i}", is_copy=False))
        for distance, place, mirrored in neighbours:
            image = images[place]
            caption = f"{distance:.1f}{' mirrored' if mirrored else ''}"
            cells.append(
                _cell(image[:, ::-1] if mirrored else image, caption, is_copy=distance <= reference.copy_distance)
            )
    return grid(np.stack(cells), _NEIGHBOURS + 1, scale=1)


def _neighbours(thumb: Pixels, reference: Reference) -> list[tuple[float, int, bool]]:
    """Distance, place in the reference, and whether it is mirrored, of the nearest images to a thumbnail (D,)."""
    found = []
    queries = [(thumb, False)]
    if reference.flip:
        queries.append((mirrored_thumbnails(thumb[None], reference.shape)[0], True))
    for query, mirrored in queries:
        distances, places = nearest_several(query, reference.thumbs, _NEIGHBOURS)
        found += [(d, p, mirrored) for d, p in zip(distances.tolist(), places.tolist(), strict=True)]
    return sorted(found)[:_NEIGHBOURS]


def _cell(image: Pixels, caption: str, *, is_copy: bool) -> Pixels:
    """An image (H, W, C), enlarged as in other grids, with a caption below, RGB."""
    picture = grid(image[None], scale=math.ceil(CELL_PIXELS / image.shape[1]))
    cell = Image.new("RGB", (picture.shape[1], picture.shape[0] + _CAPTION_PIXELS), "white")
    cell.paste(Image.fromarray(picture), (0, 0))
    colour = "red" if is_copy else "black"
    ImageDraw.Draw(cell).text((3, picture.shape[0]), caption, fill=colour, font=ImageFont.load_default(11))
    return np.asarray(cell)
