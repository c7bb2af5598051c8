"""Features of the real images that generators are measured against, kept beside the shards once they are known."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from dcgan_dist.config import DataConfig, NetworkConfig
from dcgan_dist.data import loader
from dcgan_dist.data.cache import CacheFullError
from dcgan_dist.data.shard_files import ShardFiles, decode_images, stored_images
from dcgan_dist.distributed import collectives
from dcgan_dist.evaluation.kept import KeptFile
from dcgan_dist.metrics.extractors import Extractor
from dcgan_dist.metrics.features import FeatureSet, extract
from dcgan_dist.metrics.moments import Moments
from dcgan_dist.metrics.quality import LEAST_IMAGES, QUALITY, quality

FORMAT = 2
"""Version of the kept file; changes when anything about the numbers in it does."""


@dataclass(frozen=True)
class RealImages:
    """The images of a run's data in the order of the shards, which were shuffled when they were made."""

    files: ShardFiles
    images: NDArray[np.int64]
    """(N,) numbers in the index of those that the run trains on."""
    channels: int
    """Of the generator's images; colour becomes grey for 1."""
    flip: bool
    """Whether training mirrors half of the images: then every second one is mirrored here."""
    digest: str
    """Identity of the shards, as a checkpoint's ``data_digest``."""
    cache_dir: str
    """The setting."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.images)

    def pixels(self, start: int, stop: int) -> Tensor:
        """(stop - start, channels, size, size) uint8 of images ``start`` to ``stop``.

        Raises:
            ValueError: If a shard or an image is damaged.
            OSError: If a shard cannot be had.
        """
        stored = stored_images(self.files, self.channels)
        wanted = self.images[start:stop]
        pixels = np.empty((len(wanted), self.channels, stored.size, stored.size), np.uint8)
        places = {int(image): place for place, image in enumerate(wanted)}
        try:
            decode_images(self.files, stored, wanted, out=lambda image: pixels[places[image]])
        except CacheFullError as error:
            raise OSError(str(error)) from None
        if self.flip:
            odd = np.arange(start, stop) % 2 == 1
            pixels[odd] = pixels[odd, :, :, ::-1]
        return torch.from_numpy(pixels)


def open_real_images(data: DataConfig, network: NetworkConfig) -> RealImages:
    """The real images that a run with these settings trains on. Every rank calls it.

    Raises:
        ValueError: on every rank; no shards, or shards of another size; the field or file is named.
        OSError: on every rank; something cannot be read or fetched.
    """
    files = loader.open_shards(data)
    collectives.on_all(partial(loader.check_fit, files.index, data, network))
    subset, _ = collectives.on_all(partial(loader.training_images, files.index, data))
    return RealImages(
        files=files,
        images=np.arange(files.index.contents.images) if subset is None else subset,
        channels=network.channels,
        flip=data.flip,
        digest=loader.digest_of(files.index),
        cache_dir=data.cache_dir,
    )


@dataclass(frozen=True)
class RealFeatures:
    """The real side of an evaluation."""

    extractor: Extractor
    count: int
    """Fakes that it is for."""
    images: int
    """Real images that fakes are compared with: as many as fakes, or all there are."""
    floor_images: int
    """In each of the two parts of the data that the floor compares."""
    floor: dict[str, float]
    """Each measure between two parts of the data, by its short name: what the data themselves get."""
    features: FeatureSet | None
    """On the main process, without logits, which no measure asks of the data; None on the others."""
    told: str
    """For people: where the features come from."""


def real_features(
    extractor: Extractor,
    reals: RealImages,
    *,
    count: int,
    device: torch.device,
    report: Callable[[int, int], None],
) -> RealFeatures:
    """The real side of an evaluation of ``count`` fakes: computed on all ranks, or read from where it was kept.

    It is kept in the directory of the shards, or where that cannot be written below ``cache_dir``, in a file that is
    named after all that the numbers depend on. The floor is between the first and the next ``count`` images where
    there are so many, else between the two halves of all.

    Args:
        extractor: the network for features.
        reals: the images.
        count: fakes that are to be measured.
        device: where to compute.
        report: called with about how many real images are done, of how many.

    Raises:
        ValueError: on every rank; too few images, or damaged ones.
        OSError: on every rank; images cannot be read.
    """
    if reals.count < 2 * LEAST_IMAGES:
        raise ValueError(f"data must have at least {2 * LEAST_IMAGES} images to be measured against, has {reals.count}")
    images, floor_images = min(count, reals.count), min(count, reals.count // 2)
    used = max(images, 2 * floor_images)
    facts = [FORMAT, reals.digest, reals.channels, reals.flip, extractor.identity, images, used, *QUALITY]
    key = hashlib.sha256(json.dumps(facts).encode() + reals.images[:used].tobytes()).hexdigest()
    name = f".features-{extractor.name}-n{images}-{key[:16]}"
    kept = KeptFile(name, reals.files, cache_dir=reals.cache_dir)
    own = _read(kept, images=images) if collectives.rank() == 0 else None
    found = collectives.from_main(lambda: None if own is None else (own.floor, own.told))
    if found is not None:
        floor, told = found
        features = None if own is None else own.features.to(device)
        return RealFeatures(extractor, count, images, floor_images, floor, features, told)

    everything = extract(
        extractor,
        used,
        pixels=lambda start, stop: reals.pixels(start, stop).to(device),
        device=device,
        report=lambda done: report(done, used),
    )
    moments = everything.moments if used == images else Moments.of(everything.features[:images])
    compared = FeatureSet(everything.features[:images].clone(), None, moments)  # the rest can be freed

    def judge_and_keep() -> tuple[dict[str, float], str]:
        first, second = everything.part(0, floor_images), everything.part(floor_images, 2 * floor_images)
        floor = quality(first, second)
        return floor, kept.write(_to_bytes(compared, floor))

    floor, told = collectives.from_main(judge_and_keep)
    features = compared if collectives.rank() == 0 else None
    return RealFeatures(extractor, count, images, floor_images, floor, features, told)


# The kept file


@dataclass(frozen=True)
class _Kept:
    features: FeatureSet
    floor: dict[str, float]
    told: str


def _to_bytes(features: FeatureSet, floor: dict[str, float]) -> bytes:
    """A safetensors file."""
    tensors = {"features": features.features, "mean": features.moments.mean, "scatter": features.moments.scatter}
    tensors |= {f"floor/{name}": torch.tensor(value, dtype=torch.float64) for name, value in floor.items()}
    return bytes(save({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}))


def _read(kept: KeptFile, *, images: int) -> _Kept | None:
    """What was kept; None if nothing whole was."""
    found = kept.read()
    if found is None:
        return None
    data, told = found
    tensors = load(data)
    features = FeatureSet(tensors["features"], None, Moments(images, tensors["mean"], tensors["scatter"]))
    floor = {name.removeprefix("floor/"): float(tensors[name]) for name in tensors if name.startswith("floor/")}
    return _Kept(features, floor, told)
