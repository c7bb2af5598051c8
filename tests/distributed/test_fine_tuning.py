"""Fine-tuning on two processes is that on one, and frozen blocks tell other ranks nothing."""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dcgan_dist import checkpoint
from dcgan_dist.config import TrainConfig, changed
from dcgan_dist.distributed import collectives
from dcgan_dist.fine_tuning import find_origin, load_origin
from tests import tiny
from tests.distributed.counting import counted
from tests.distributed.ranks import run_ranks

STEPS = 5
CONFIGS = {
    "simultaneous": tiny.narrow("flowers17-arch1", ema_decay=0.9, dropout=0.2),
    "alternating": tiny.narrow("flowers-dcgan64", ema_decay=0.9),
}


@dataclass
class Outcome:
    """What one rank saw of STEPS steps."""

    scalars: list[dict[str, float]] = field(default_factory=list)
    """Of each step, means over ranks."""
    begin: dict[str, Tensor] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """After the last step."""
    calls: list[str] = field(default_factory=list)
    """Collectives that our Python code started in the last step."""


def fine_tuned(configs: dict[str, TrainConfig]) -> dict[str, Outcome]:
    """A head of G, two blocks of D."""
    found = {}
    for name, config in configs.items():
        training = tiny.training(changed(config, {"train_only_g": 1, "train_only_d": 2}), tiny.runtime())
        origin = collectives.from_main(functools.partial(find_origin, config.fine_tuning.init_from))
        load_origin(origin, training.gan)
        checkpoint.check_loaded(training.gan)
        outcome = found[name] = Outcome(begin=tiny.tensors(training.gan))
        for _ in range(STEPS):
            with counted() as calls:
                scalars = training.update()
            means = collectives.all_reduce(torch.stack(list(scalars.values())).double()) / collectives.world_size()
            outcome.scalars.append(dict(zip(scalars, means.tolist(), strict=True)))
        outcome.tensors, outcome.calls = tiny.tensors(training.gan), calls.names
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Outcome]]]:
    """By the number of processes, by rank, by update; all begin with the networks of runs of three steps."""
    configs = {}
    for name, config in CONFIGS.items():
        directory: Path = tmp_path_factory.mktemp("origin")
        training = tiny.training(changed(config, {"seed": 5}), tiny.runtime())
        for _ in range(3):
            training.update()
        saver = checkpoint.Saver()
        saver.save(directory, training.gan, step=3, state={}, keep=1)
        saver.wait()
        configs[name] = changed(config, {"init_from": str(directory / "step-00000003")})
    return {world_size: run_ranks(fine_tuned, world_size, configs) for world_size in (1, 2)}


def vector(tensors: dict[str, Tensor], network: str) -> Tensor:
    values = [value for name, value in tensors.items() if name.startswith(network) and value.is_floating_point()]
    return torch.cat([value.flatten() for value in values])


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_give_the_run_of_one(outcomes: dict[int, list[dict[str, Outcome]]], name: str) -> None:
    (alone,) = outcomes[1]
    expected = alone[name]
    assert len(outcomes[2]) == 2
    for rank in outcomes[2]:
        found = rank[name]
        assert len(found.scalars) == STEPS
        for scalars, others in zip(found.scalars, expected.scalars, strict=True):
            assert scalars == pytest.approx(others, rel=1e-9, abs=0)
        for network in ("generator", "discriminator", "ema"):
            one, other = vector(found.tensors, network), vector(expected.tensors, network)
            assert (one - other).norm() <= 1e-9 * other.norm()
            moved = (other - vector(expected.begin, network)).norm()
            assert moved >= 1e-6 * other.norm()
        for key, value in outcomes[2][0][name].tensors.items():
            assert torch.equal(value, found.tensors[key]), key


def test_collectives_of_one_step(outcomes: dict[int, list[dict[str, Outcome]]]) -> None:
    for rank in outcomes[2]:
        calls = ["all_gather" if name.startswith("all_gather") else name for name in rank["simultaneous"].calls]
        # G has batch norm in frozen blocks alone. D, whose passes are two, has one in its trained fourth block, and
        # batch deviations in its first four.
        gathers = 2
        forward = 2 * 4
        backward_of_d = 2 * 1 + 2 * 1  # the fourth block's batch norm and batch deviation
        backward_of_g = 1 + 4  # through D's pass of the fakes; G's head has neither
        gradients = 2  # one bucket of each network
        assert calls.count("all_gather") == gathers
        assert calls.count("all_reduce") == forward + backward_of_d + backward_of_g + gradients
        assert len(calls) == 21
