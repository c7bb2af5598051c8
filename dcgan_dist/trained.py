"""A trained generator, ready to draw: from a run, a checkpoint or a file of dcgan-export.

The file is safetensors: the tensors of the network by their names in torch, and one JSON object under METADATA_KEY
that says which network they are of. This imports torch, safetensors and numpy alone.
"""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dcgan_dist import __version__, checkpoint
from dcgan_dist.checkpoint import Checkpoint
from dcgan_dist.config import NetworkConfig
from dcgan_dist.distributed.collectives import digest
from dcgan_dist.distributed.draws import sample_latent
from dcgan_dist.images import to_pixels
from dcgan_dist.models import dtype_of, empty_generator
from dcgan_dist.sampling import sample_pixels
from dcgan_dist.typed_json import from_json

FORMAT = 2
"""Version of the JSON object."""
METADATA_KEY = "dcgan_dist"
_TYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
"""Names in safetensors of the types that a generator's tensors have."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Which generator it is."""

    recipe: str
    step: int
    """Training steps done."""
    weights: Literal["average", "last"]
    """average: the exponential moving average over the steps; last: those of the step itself."""
    network: NetworkConfig

    def facts(self) -> dict[str, Any]:
        """What every exported file carries, as JSON values."""
        return {"format": FORMAT, "tool": __version__, **dataclasses.asdict(self)}


class TrainedGenerator(nn.Module):
    """Images from noise by a trained generator, in evaluation mode; its weights take no gradients.

    Calling it turns z, (N, latent_dim) of the weights' type and on their device, into float images
    (N, channels, image_size, image_size) of the same type: black is ``value_range[0]``, white ``value_range[1]``. The
    last activation may reach beyond, as flowers_arch1's does; ``to_pixels`` clamps.

    Attributes:
        network: The network itself, an ``nn.Module`` of torch's layers.
        origin: Recipe, training steps, average or last weights.
        config: All settings of the network.
        latent_dim: Length of z.
        prior: Distribution of z: "normal", N(0, 1), or "uniform", U(-1, 1).
        value_range: Values of black and of white.
    """

    def __init__(self, network: nn.Module, origin: Origin) -> None:
        super().__init__()
        self.network = network
        self.origin = origin
        self.config = origin.network
        self.latent_dim = self.config.latent_dim
        self.prior = self.config.prior
        self.value_range = self.config.value_range
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.network(z)
        return images

    def noise(self, count: int, *, seed: int = 0) -> Tensor:
        """z, (count, latent_dim), of images 0 to count - 1 of a seed: those that dcgan-sample draws.

        Raises:
            ValueError: ``count`` is below 1.
        """
        _check_count(count)
        z = sample_latent(seed, range(count), latent_dim=self.latent_dim, prior=self.prior)
        weight = next(self.parameters())
        return z.to(weight.device, weight.dtype)

    def sample(self, count: int, *, seed: int = 0) -> NDArray[np.uint8]:
        """Pixels (count, image_size, image_size, channels), 0 to 255: images 0 to count - 1 of a seed.

        Image i depends on ``seed`` and i alone, and its bytes are those that dcgan-sample draws. Where several
        processes train together, each calls this and has all images.

        Raises:
            ValueError: ``count`` is below 1.
        """
        _check_count(count)
        drawn_by = copy.deepcopy(self).to(memory_format=torch.channels_last)  # as runs draw by default: the same bytes
        return sample_pixels(drawn_by, range(count), seed=seed, network=self.config)

    def to_pixels(self, images: Tensor) -> Tensor:
        """Pixels, uint8, of float ``images`` of any shape: 0 is black, 255 white, what lies beyond is clamped."""
        return to_pixels(images, self.value_range)


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")


def load(path: str | PathLike[str]) -> TrainedGenerator:
    """The trained generator at ``path``, on the CPU, in the type that it was trained in.

    Args:
        path: A file that ``dcgan-export --format safetensors`` wrote, a run directory (its newest whole checkpoint is
            taken), its ``best``, or one checkpoint. The averaged generator is taken where there is one.

    Raises:
        ValueError: There is none, it is damaged or of another version; names the file.
        OSError: A file cannot be read.
    """
    place = Path(path)
    return _of_file(place) if place.is_file() else of_checkpoint(checkpoint.find(place))


def of_checkpoint(found: Checkpoint) -> TrainedGenerator:
    """The generator that a checkpoint is sampled by, as ``load`` gives it, but contiguous in memory.

    Raises:
        ValueError: The checkpoint is of another version.
    """
    config = checkpoint.config_of(found)
    network = empty_generator(config.network)
    network = network.to(dtype_of(config.compute)).to_empty(device="cpu")
    name = weights_file(found)
    checkpoint.load_network(found.path / name, network)
    weights: Literal["average", "last"] = "average" if name.startswith("ema") else "last"
    origin = Origin(recipe=config.recipe, step=found.step, weights=weights, network=config.network)
    return TrainedGenerator(network, origin)


def weights_file(found: Checkpoint) -> str:
    """The file of a checkpoint that has the weights it is sampled by."""
    return "ema.safetensors" if "ema.safetensors" in found.state["sha256"] else "generator.safetensors"


def to_bytes(generator: TrainedGenerator) -> bytes:
    """The contents of a safetensors file that ``load`` reads."""
    tensors = {name: value.cpu().contiguous() for name, value in generator.network.state_dict().items()}
    facts = generator.origin.facts()
    text = json.dumps({**facts, "digest": _digest(facts, tensors)})
    data: bytes = save(tensors, metadata={"format": "pt", METADATA_KEY: text})
    return data


def _of_file(path: Path) -> TrainedGenerator:
    """The generator in a safetensors file; shapes and types are compared before any tensor is read."""
    try:
        with safe_open(path, framework="pt") as file:
            facts, written = _metadata((file.metadata() or {}).get(METADATA_KEY), path)
            origin = _origin(facts, path)
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            found = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
            network = _network(origin.network, found, path)
            tensors = {name: file.get_tensor(name) for name in network.state_dict()}
    except SafetensorError as error:
        raise ValueError(f"{path}: is no safetensors file, or a damaged one: {error}") from None
    if _digest(facts, tensors) != written:
        raise ValueError(f"{path}: is damaged: its contents are not what was written")
    network = network.to_empty(device="cpu")
    network.load_state_dict(tensors)
    return TrainedGenerator(network, origin)


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits that change with any of the facts and with any bit of the tensors' values."""
    text = json.dumps(facts, sort_keys=True) + digest(tensors)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _metadata(text: str | None, path: Path) -> tuple[dict[str, Any], Any]:
    """The facts in a file's metadata, and what they say is the digest of the file."""
    if text is None:
        raise ValueError(f"{path}: is no file of dcgan-export: its metadata have no {METADATA_KEY}")
    where = f"{path}: metadata"
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: no JSON: {error}") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        written = facts.get("format") if isinstance(facts, dict) else facts
        raise ValueError(f"{where}: format {written!r:.80}, this version reads {FORMAT}")
    return facts, facts.pop("digest", None)


def _origin(facts: dict[str, Any], path: Path) -> Origin:
    """The origin that a file's facts tell; a setting of the network that it has not is as its default."""
    where = f"{path}: metadata"
    settings = facts.get("network")
    known = {field.name for field in dataclasses.fields(NetworkConfig)}
    if isinstance(settings, dict) and (unknown := set(settings) - known):
        raise ValueError(f"{where}: network: has settings of another version: {sorted(unknown)!r:.200}")
    try:
        return from_json(Origin, facts, where)
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None


def _network(config: NetworkConfig, found: Mapping[str, tuple[str, tuple[int, ...]]], path: Path) -> nn.Module:
    """The generator of ``config`` on the meta device, once the tensors of a file are sure to be its own."""
    try:
        network = empty_generator(config)
    except ValueError as error:
        raise ValueError(f"{path}: metadata: {error}") from None
    is_double = any(kind == "F64" for kind, _ in found.values())
    network = network.to(torch.float64 if is_double else torch.float32)
    wanted = {name: (_TYPES[value.dtype], tuple(value.shape)) for name, value in network.state_dict().items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"{path}: {name!r:.80}: must be {_told(wanted.get(name))} in this network, is {_told(found.get(name))}"
            )
    return network


def _told(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return f"{tensor[0]} {tensor[1]}" if tensor else "absent"
