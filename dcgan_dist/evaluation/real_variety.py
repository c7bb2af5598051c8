"""How varied the real images are: what samples are compared with to find collapse, kept beside the shards."""

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np

from dcgan_dist.collapse.pixels import Integers, Pixels
from dcgan_dist.collapse.reference import FORMAT, MOST_IMAGES, SAMPLES, Reference, fit
from dcgan_dist.data.permute import permutation
from dcgan_dist.evaluation.kept import KeptFile
from dcgan_dist.evaluation.real_features import RealImages


@dataclass(frozen=True)
class Variety:
    """The real side of the measures of collapse. Only the main process has one."""

    reference: Reference
    looked_at: RealImages
    """The images it was fitted on, none mirrored."""

    def pixels(self, places: Integers) -> Pixels:
        """(len(places), H, W, C): of the images it was fitted on those at these places, none twice.

        Raises:
            ValueError: If a shard or an image is damaged.
            OSError: If a shard cannot be had.
        """
        return _pixels(replace(self.looked_at, images=self.looked_at.images[places]))


class UnfitDataError(ValueError):
    """No variety can be measured against these data: what they lack."""


def real_variety(reals: RealImages) -> Variety:
    """Fit the measures of collapse to the data, or read what was kept; of a large set to MOST_IMAGES, always the same.

    Raises:
        UnfitDataError: If the images are too few or all alike.
        ValueError: If one is damaged.
        OSError: If they cannot be read.
    """
    chosen = np.sort(reals.images[permutation(reals.count, 0)[:MOST_IMAGES]])
    looked_at = replace(reals, images=chosen, flip=False)
    drawn = reals.channels == 3 and reals.files.index.contents.settings.source == "synthetic"
    facts = [FORMAT, SAMPLES, reals.digest, reals.channels, reals.flip, drawn]
    key = hashlib.sha256(json.dumps(facts).encode() + chosen.tobytes()).hexdigest()
    kept = KeptFile(f".collapse-n{SAMPLES}-{key[:16]}", reals.files, cache_dir=reals.cache_dir)
    if found := kept.read():
        return Variety(Reference.from_bytes(found[0]), looked_at)
    pixels = _pixels(looked_at)
    try:
        reference = fit(pixels, flip=reals.flip, drawn=drawn)
    except ValueError as error:
        raise UnfitDataError(str(error)) from None
    kept.write(reference.to_bytes())
    return Variety(reference, looked_at)


def _pixels(reals: RealImages) -> Pixels:
    return reals.pixels(0, reals.count).permute(0, 2, 3, 1).contiguous().numpy()
