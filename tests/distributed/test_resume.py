"""A run that is resumed on another number of processes goes on as it would have; on the same number, to the bit."""

import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dcgan_dist import checkpoint
from dcgan_dist.distributed import collectives
from dcgan_dist.gan import Gan
from dcgan_dist.loop import Training
from tests import tiny
from tests.distributed.ranks import run_ranks

STEPS = 4
"""Before the save, and again after it."""
STATE = {"world_size": 1, "threads": 1, "data_digest": "digest of the images", "metrics_bytes": 0}
CONFIGS = {
    "adam": tiny.narrow("flowers17-arch1", ema_decay=0.9, dropout=0.2, flip=True),
    "rmsprop": tiny.narrow("flowers17-arch2", ema_decay=0.9, base_channels=2, lr_decay_g=0.1, lr_decay_d=0.05),
}


@dataclass
class Half:
    """What one rank saw of STEPS steps."""

    scalars: list[dict[str, float]] = field(default_factory=list)
    """Of each step, means over ranks."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Networks, average and optimizers after them."""


def all_tensors(gan: Gan) -> dict[str, Tensor]:
    found = tiny.tensors(gan)
    for name, player in (("optimizer_g", gan.generator), ("optimizer_d", gan.discriminator)):
        for number, entry in player.optimizer.state_dict()["state"].items():
            found |= {f"{name}.{number}.{key}": torch.as_tensor(value).clone() for key, value in entry.items()}
    return found


def half(training: Training) -> Half:
    seen = Half()
    for _ in range(STEPS):
        scalars = training.update()
        means = collectives.all_reduce(torch.stack(list(scalars.values())).double()) / collectives.world_size()
        seen.scalars.append(dict(zip(scalars, means.tolist(), strict=True)))
    seen.tensors = all_tensors(training.gan)
    return seen


def uninterrupted(directory: Path) -> dict[str, tuple[Half, Half]]:
    """Both halves of each run, with a checkpoint between them."""
    found = {}
    for name, config in CONFIGS.items():
        training = tiny.training(config, tiny.runtime())
        first = half(training)
        saver = checkpoint.Saver()
        saver.save(directory / name, training.gan, step=training.step, state=STATE, keep=1)
        found[name] = first, half(training)
        saver.wait()
    return found


def resumed(directory: Path) -> dict[str, Half]:
    """The second half of each run, from the checkpoint alone."""
    found = {}
    for name, config in CONFIGS.items():
        training = tiny.training(config, tiny.runtime())
        newest, _ = collectives.from_main(functools.partial(checkpoint.newest, directory / name))
        assert newest is not None
        checkpoint.load(newest, training.gan)
        training.step = newest.step
        assert training.step == STEPS
        found[name] = half(training)
    return found


class Runs:
    """Runs by their numbers of processes, each made once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._whole: dict[int, list[dict[str, tuple[Half, Half]]]] = {}
        self._resumed: dict[tuple[int, int], list[dict[str, Half]]] = {}

    def whole(self, world_size: int) -> list[dict[str, tuple[Half, Half]]]:
        """By rank, then by name: both halves of a run that nothing interrupts."""
        if world_size not in self._whole:
            self._whole[world_size] = run_ranks(uninterrupted, world_size, self._directory / str(world_size))
        return self._whole[world_size]

    def resumed(self, before: int, after: int) -> list[dict[str, Half]]:
        """By rank, then by name: the second half on ``after`` processes of a run that began on ``before``."""
        if (before, after) not in self._resumed:
            self.whole(before)
            self._resumed[before, after] = run_ranks(resumed, after, self._directory / str(before))
        return self._resumed[before, after]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    with tempfile.TemporaryDirectory() as directory:
        yield Runs(Path(directory))


def vector(tensors: dict[str, Tensor], part: str) -> Tensor:
    values = [value for name, value in tensors.items() if name.startswith(part) and value.is_floating_point()]
    return torch.cat([value.flatten().double() for value in values])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 4), (4, 1)])
def test_a_run_goes_on_at_another_number_of_processes(runs: Runs, before: int, after: int, name: str) -> None:
    first, expected = runs.whole(1)[0][name]
    halves = [rank[name] for rank in runs.resumed(before, after)]
    assert len(halves) == after
    for found in halves:
        for scalars, others in zip(found.scalars, expected.scalars, strict=True):
            assert scalars == pytest.approx(others, rel=1e-9, abs=0)
        assert found.tensors.keys() == expected.tensors.keys()
        for network in ("generator", "discriminator", "ema"):
            one, other = vector(found.tensors, network), vector(expected.tensors, network)
            assert (one - other).norm() <= 1e-9 * other.norm()
            moved = (other - vector(first.tensors, network)).norm()
            assert moved >= 1e-6 * other.norm()  # the second half is no standstill
        for key, value in found.tensors.items():
            assert torch.equal(value, halves[0].tensors[key]), key


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_run_goes_on_to_the_bit_at_the_same_number(runs: Runs, world_size: int, name: str) -> None:
    for whole, found in zip(runs.whole(world_size), runs.resumed(world_size, world_size), strict=True):
        expected = whole[name][1]
        assert found[name].scalars == expected.scalars
        assert found[name].tensors.keys() == expected.tensors.keys()
        assert {key.partition(".")[0] for key in expected.tensors} == {
            *("generator", "discriminator", "ema", "optimizer_g", "optimizer_d")
        }
        for key, value in expected.tensors.items():
            assert torch.equal(found[name].tensors[key], value), key
