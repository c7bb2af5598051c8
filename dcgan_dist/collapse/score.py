"""One number for how much variety samples lack, and when it is due to raise an alarm."""

import math
from collections.abc import Mapping

PARTS = ("bins_js", "colour_js", "msssim", "duplicates")
"""What the score is made of: kinds of image by pixels, kinds by colour, likeness of any two, likeness of the likest.
NDB is left out, because it nears 1 for every generator that is less than perfect; copies of the data, because they
are as varied as the data."""
ALARM = 0.35
"""A score this high is a collapse, but for the first steps: an untrained generator makes one image. One part that has
gone all the way makes 0.5. Measured (docs/collapse.md): 0.45 and more for one colour only and for 16 images, 0.57 and
more for collapsed generators; for a sound one at most 0.29, from step 500, and less than 0.1 from step 2,000."""


def score(values: Mapping[str, float], *, floors: Mapping[str, float], worst: Mapping[str, float]) -> float:
    """From 0, as varied as held-out data, to 1, one image over and over: the root mean square of PARTS between these.

    The square, so that one part that fails counts for more than four that are a little off, as all are early on.

    Args:
        values: Of the samples, by PARTS.
        floors: The same of held-out data; what is below counts as 0.
        worst: The same of one image over and over.
    """
    parts = [(values[part] - floors[part]) / (worst[part] - floors[part]) for part in PARTS]
    return math.sqrt(sum(min(max(part, 0.0), 1.0) ** 2 for part in parts) / len(PARTS))
