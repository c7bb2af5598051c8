"""Images for the tests of collapse: small sets, drawn once."""

import functools

import numpy as np

from dcgan_dist.collapse.pixels import Integers, Pixels
from dcgan_dist.data.synthetic import draw_flower


@functools.cache
def flowers(count: int, *, size: int = 32, seed: int = 3) -> tuple[Pixels, Integers]:
    """Drawn flowers (count, size, size, 3) and their modes."""
    drawn = [draw_flower(index, seed=seed, size=size) for index in range(count)]
    return np.stack([image for image, _ in drawn]), np.array([label for _, label in drawn])
