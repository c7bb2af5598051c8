"""Networks that turn images into features, and the table they are chosen from."""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.node import this_node
from dcgan_dist.metrics import efflite0
from dcgan_dist.words import did_you_mean

INCEPTION_SIZE = 299
INCEPTION_SHA256 = "6726825d"
"""First digits of the sha256 of Inception's weights; their file's name has them."""
INCEPTION_FILE = f"weights-inception-2015-12-05-{INCEPTION_SHA256}.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_VARIABLE = "DCGAN_INCEPTION_WEIGHTS"
"""Environment variable that names the file."""


@dataclass(frozen=True)
class Extractor:
    """A network for features, as numbers are named after it. Any ``nn.Module`` will do."""

    name: str
    """Part of metrics' names: letters, digits and ``_``. Kept features are found by it, so a network with other code
    needs another one."""
    dim: int
    """Length of the features."""
    classes: int
    """Number of logits; 0 when it does not classify."""
    network: nn.Module
    """From RGB pixels (N, 3, H, W) uint8 to features (N, dim), or, with classes, to features and logits (N, classes).
    It resizes and normalises by itself, and is in evaluation mode."""

    @property
    def identity(self) -> str:
        """Changes with the name, the shape of what comes out and any weight. It cannot see the network's code."""
        return f"{self.name}-{self.dim}-{self.classes}-{collectives.digest(self.network.state_dict())}"

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (N, dim) and logits (N, classes), if any, in float32, of pixels (N, 1 or 3, H, W) uint8.

        Raises:
            ValueError: If the network gives another shape, or something that is not a finite number.
        """
        assert pixels.dtype == torch.uint8
        with torch.inference_mode(), _exact():
            found = self.network(pixels.expand(-1, 3, -1, -1))
        features, logits = found if self.classes else (found, None)
        checked = self._checked("features", features, shape=(len(pixels), self.dim))
        return checked, None if logits is None else self._checked("logits", logits, shape=(len(pixels), self.classes))

    def _checked(self, what: str, found: Tensor, *, shape: tuple[int, int]) -> Tensor:
        if found.shape != shape:
            raise ValueError(f"extractor {self.name}: {what} must be of shape {shape}, got {(*found.shape,)}")
        found = found.float()
        if not found.isfinite().all():
            raise ValueError(f"extractor {self.name}: {what} must be finite in float32, some are not")
        return found


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Products and convolutions of a GPU in whole float32, as on a CPU, whatever the run allows itself (TF32)."""
    matmul = torch.backends.cuda.matmul
    allowed = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = allowed


@dataclass(frozen=True, kw_only=True)
class Kind:
    """An extractor that is provided."""

    build: Callable[[int, str], nn.Module]
    """The network, as ``Extractor.network``, for images resized to so many pixels and a file of weights ("": its own).
    Raises ValueError if it cannot be had."""
    dim: Callable[[int], int]
    """Length of the features for images resized to so many pixels."""
    classes: int
    resize: int
    """Pixels a side that images are resized to, unless another number is asked for."""
    description: str


class EffLite0Features(nn.Module):
    """EfficientNet-Lite0 on images resized to ``size`` (bilinear, smoothed where they shrink): features and logits."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.network = efflite0.load().to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        images = pixels.float()
        if pixels.shape[-1] != self.size:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        found: tuple[Tensor, Tensor] = self.network(images.contiguous(memory_format=torch.channels_last))
        return found


class PixelFeatures(nn.Module):
    """The pixels themselves, 0 to 1, of images resized to ``size``: means of areas, or bilinear where they grow."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.float() / 255
        if pixels.shape[-1] > self.size:
            images = F.adaptive_avg_pool2d(images, self.size)
        elif pixels.shape[-1] < self.size:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear")
        return images.flatten(1)


class InceptionFeatures(nn.Module):
    """FID's Inception as torch-fidelity has it, its resize to 299 x 299 included: features, and logits without bias."""

    def __init__(self, weights: bytes) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # It unpickles whatever file it is given: so it gets one made here of nothing but tensors.
        tensors = torch.load(io.BytesIO(weights), weights_only=True)
        safe = io.BytesIO()
        torch.save(tensors, safe)
        safe.seek(0)
        self.network = FeatureExtractorInceptionV3(
            "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=safe
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.network(pixels)
        return found


def _inception(size: int, weights: str) -> nn.Module:
    if size != INCEPTION_SIZE:
        raise ValueError(f"resize must be {INCEPTION_SIZE} for extractor inception, got {size}")
    named = weights or os.environ.get(INCEPTION_VARIABLE, "")
    path = Path(named) if named else _hub_file()
    if not path.exists():
        raise ValueError(
            f"extractor inception: {path}: no such file; name {INCEPTION_FILE} with --weights or "
            f"{INCEPTION_VARIABLE}, let --download fetch it, or use --extractor efflite0"
        )
    data = path.read_bytes()
    if not hashlib.sha256(data).hexdigest().startswith(INCEPTION_SHA256):
        raise ValueError(f"{path}: its sha256 must begin with {INCEPTION_SHA256}: not Inception's weights as FID's are")
    try:
        return InceptionFeatures(data)
    except ImportError:
        raise ValueError(
            "extractor inception needs the package torch-fidelity: pip install 'dcgan_dist[eval]'"
        ) from None


def _hub_file() -> Path:
    """Where torch keeps the weights once they were downloaded, by us, torch-fidelity or torchmetrics."""
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE


def download_inception() -> None:
    """Fetch Inception's weights (96 MB) from torch-fidelity's releases to each machine without. Every rank calls it.

    Raises:
        OSError: on every rank, if they cannot be fetched.
    """

    def fetch() -> None:
        path = _hub_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            try:
                torch.hub.download_url_to_file(INCEPTION_URL, str(path), INCEPTION_SHA256, progress=False)
            except (OSError, RuntimeError) as error:  # of the network; of what came
                raise OSError(f"{INCEPTION_URL}: cannot be fetched: {error}") from None

    collectives.from_main(fetch)
    is_first = this_node().rank == 0
    collectives.on_all(lambda: fetch() if is_first else None)  # on other machines


def _own_weights(build: Callable[[int], nn.Module], size: int, weights: str) -> nn.Module:
    if weights:
        raise ValueError(f"weights are for extractor inception alone, got {weights}")
    return build(size)


EXTRACTORS = {
    "efflite0": Kind(
        build=partial(_own_weights, EffLite0Features),
        dim=lambda size: efflite0.WIDTH,
        classes=efflite0.CLASSES,
        resize=96,
        description="EfficientNet-Lite0 trained on ImageNet; its weights come with the extra eval",
    ),
    "inception": Kind(
        build=_inception,
        dim=lambda size: 2048,
        classes=1008,
        resize=INCEPTION_SIZE,
        description="FID's own Inception; its weights are a file that you name or have downloaded",
    ),
    "pixels": Kind(
        build=partial(_own_weights, PixelFeatures),
        dim=lambda size: 3 * size**2,
        classes=0,
        resize=16,
        description="the pixels themselves: needs nothing, sees colours and coarse shapes alone",
    ),
}
"""Values of the setting ``extractor``, beside auto and none."""


def kind_of(name: str) -> Kind:
    """The row of the table that the setting ``extractor`` names.

    Raises:
        ValueError: If there is none.
    """
    if name not in EXTRACTORS:
        hint = did_you_mean(name, ("auto", "none", *EXTRACTORS))
        raise ValueError(f"extractor must be auto, none or one of {', '.join(EXTRACTORS)}, got {name}{hint}")
    return EXTRACTORS[name]


def build_extractor(name: str, *, resize: int = 0, weights: str = "", device: torch.device) -> Extractor:
    """An extractor of the table.

    Args:
        name: its row.
        resize: pixels a side that images are resized to; 0 for its own number, else the extractor's name says it.
        weights: file of Inception's weights; by default DCGAN_INCEPTION_WEIGHTS, or where torch keeps downloads.
        device: where it works.

    Raises:
        ValueError: If there is no such extractor, or something it needs is missing or not what it should be.
        OSError: If a file cannot be read.
    """
    kind = kind_of(name)
    size = resize or kind.resize
    if not 8 <= size <= 1024:
        raise ValueError(f"resize must be 8 to 1024 pixels, got {size}")
    with torch.random.fork_rng(devices=[]):  # a new network draws weights before it gets its own
        network = kind.build(size, weights)
    return Extractor(
        name=name if size == kind.resize else f"{name}_r{size}",
        dim=kind.dim(size),
        classes=kind.classes,
        network=network.eval().to(device),
    )
