"""Random numbers as pure functions of (seed, stream, step, row of the global batch).

Nothing here has a state: a process draws just its own rows, one process draws them all, a resumed run draws what the
uninterrupted one would have. Built on torch's stateless Philox generator, which is experimental
(``torch.func._random``): this module is the only one that knows it, and tests pin its numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import _random

STREAMS = {
    "z": 0,  # noise whose fakes the discriminator sees
    "z_generator": 1,  # fresh noise of the generator's own update
    "instance_noise": 2,
    "flip": 3,
    "sample": 4,  # z of sample grids
    "dropout_generator": 5,  # dropout of G(z); of G(fresh z): dropout_generator_fresh
    "dropout_generator_fresh": 6,
    "dropout_real": 7,  # dropout of D(real), D(fake) in D's update, D(fake) in G's update
    "dropout_fake": 8,
    "dropout_judge": 9,
    "dropout_imagine": 10,  # dropout of G in fakes that nothing learns from
    "z_scores": 11,  # z of those whose scores are counted
    "evaluation": 12,  # z of the images that are measured
}
"""Names of the independent streams of one run. Numbers are part of a run's identity: add, never renumber."""


def run_key(seed: int, device: torch.device) -> Tensor:
    """The key that all draws of a run come from; made once, because making it waits for the device."""
    return _random.key(seed, device=device)


@dataclass(frozen=True, kw_only=True)
class StepDraws:
    """All that is random in one step, for rows ``start`` to ``stop`` of a global batch of ``batch_size``."""

    key: Tensor
    """The run's, by ``run_key``; draws are on its device."""
    step: int
    """Steps done before this one."""
    batch_size: int
    start: int
    stop: int
    dtype: torch.dtype

    def keys(self, stream: str) -> Tensor:
        """One key a row, (stop - start, 2) uint64."""
        key = _random.fold_in(_random.fold_in(self.key, STREAMS[stream]), self.step)
        return _random.split(key, self.batch_size)[self.start : self.stop]

    def latent(self, stream: str, latent_dim: int, *, prior: Literal["normal", "uniform"]) -> Tensor:
        """z, (rows, latent_dim): N(0, 1) or U(-1, 1)."""
        return _latent(self.keys(stream), latent_dim, prior=prior).to(self.dtype)

    def gaussian(self, stream: str, shape: Sequence[int]) -> Tensor:
        """N(0, 1) of shape (rows, *shape)."""
        keys = self.keys(stream)
        return _normal(keys, torch.Size(shape).numel()).view(len(keys), *shape).to(self.dtype)

    def coins(self, stream: str) -> Tensor:
        """True or False with equal chance, (rows,) bool."""
        keys = self.keys(stream)
        return _uniform(keys, 1)[:, 0] < 0.5


def _normal(keys: Tensor, count: int) -> Tensor:
    """(len(keys), count) float32 of N(0, 1). Never drawn in float64, which gives other numbers, not finer ones."""
    return _random.normal(keys[:, None], len(keys), count)  # type: ignore[arg-type]


def _uniform(keys: Tensor, count: int) -> Tensor:
    """(len(keys), count) float32 of U(0, 1)."""
    return _random.uniform(keys[:, None], len(keys), count)  # type: ignore[arg-type]


def _latent(keys: Tensor, latent_dim: int, *, prior: Literal["normal", "uniform"]) -> Tensor:
    return _normal(keys, latent_dim) if prior == "normal" else _uniform(keys, latent_dim) * 2 - 1


def sample_latent(
    seed: int,
    indices: Sequence[int],
    *,
    latent_dim: int,
    prior: Literal["normal", "uniform"],
    stream: Literal["sample", "evaluation"] = "sample",
) -> Tensor:
    """Noise of samples, (len(indices), latent_dim) float32: sample i of a seed is the same in any company."""
    key = _random.fold_in(_random.key(seed), STREAMS[stream])
    return _latent(torch.stack([_random.fold_in(key, i) for i in indices]), latent_dim, prior=prior)


class Dropout(nn.Module):
    """Drops features of (N, ...) inputs with the given probability; the masks belong to the global batch.

    ``key_dropout`` must hand in the keys of each pass in training mode; in evaluation mode nothing is dropped.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.keys: Tensor | None = None
        self.keys_of: dict[str, Tensor] = {}
        """By stream, each in one place: a CUDA graph reads them there."""

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return features
        assert self.keys is not None, "key_dropout comes before each training pass"
        kept = _uniform(self.keys, features[0].numel()).view_as(features) >= self.probability
        return features * kept.to(features.dtype).mul_(1 / (1 - self.probability))

    def extra_repr(self) -> str:
        return f"probability={self.probability}"


def key_dropout(layers: Sequence[Dropout], draws: StepDraws, stream: str) -> None:
    """Give each dropout layer of a network its own keys of a stream for the pass that follows.

    They stay as they are until the stream's next pass, however many others come before the backward of this one.
    """
    keys = draws.keys(stream)
    for number, layer in enumerate(layers):
        fresh = _random.fold_in(keys, number)  # (rows, 2)
        kept = layer.keys_of.setdefault(stream, fresh)
        layer.keys = kept.copy_(fresh)
