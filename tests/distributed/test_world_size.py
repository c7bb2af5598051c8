"""The promise: the number of processes does not change the run."""

import functools
import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from dcgan_dist.config import TrainConfig
from dcgan_dist.distributed import collectives
from dcgan_dist.loop import DivergenceError, Training
from dcgan_dist.losses import Loss
from tests import tiny
from tests.distributed.counting import counted
from tests.distributed.ranks import RankError, run_ranks

STEPS = 5

CONFIGS = {
    "arch1": tiny.narrow("flowers17-arch1", flip=True, ema_decay=0.9, dropout=0.2),
    "arch1 fakes": tiny.narrow("flowers17-arch1", instance_noise_on="fakes", memory_format="channels_last"),
    "arch2": tiny.narrow("flowers17-arch2", ema_decay=0.9, base_channels=2, flip=True),
    "arch2 gray": tiny.narrow("flowers17-arch2-gray", base_channels=2),
    "dcgan64": tiny.narrow("flowers-dcgan64", instance_noise=0.1, instance_noise_on="fakes"),
    "mnist28": tiny.narrow("mnist28"),
    "pooled": tiny.narrow("mnist-pooled"),
    "sgd": tiny.narrow("mnist-pooled", optimizer="sgd", smooth_fake=0.1, smooth_real=0.9),
    "float32": tiny.narrow("flowers17-arch1", dtype="float32"),
}
ON_4 = ("arch1", "arch2", "float32")


@dataclass
class Watched:
    """One more step on one rank."""

    names: list[str]
    """Collectives that our Python code started."""
    kept: bool
    """Whether G's update left each of D's gradients as it was, and the same tensor."""
    early: int
    """Gradients of G that D's update has made."""
    wrapped: bool
    """Whether the networks are in DistributedDataParallel."""


def watched(training: Training) -> Watched:
    """One more step."""
    gan = training.gan
    original = gan.generator.backward
    seen: dict[str, Any] = {"kept": False, "early": 0}

    def backward(loss: Tensor) -> None:
        before = [parameter.grad for parameter in gan.discriminator.parameters]
        values = [grad.clone() for grad in before if grad is not None]
        original(loss)
        after = [parameter.grad for parameter in gan.discriminator.parameters]
        seen["kept"] = (
            len(values) == len(after)
            and all(one is other for one, other in zip(before, after, strict=True))
            and all(torch.equal(one, other) for one, other in zip(values, after, strict=True) if other is not None)
        )

    def discriminators(loss: Tensor, *, retain_graph: bool = False) -> None:
        gan.generator.optimizer.zero_grad(set_to_none=True)
        original_discriminator(loss, retain_graph=retain_graph)
        seen["early"] = sum(parameter.grad is not None for parameter in gan.generator.parameters)

    original_discriminator = gan.discriminator.backward
    gan.generator.backward = backward  # type: ignore[method-assign,assignment]
    gan.discriminator.backward = discriminators  # type: ignore[method-assign]
    with counted() as calls:
        training.update()
    wrapped = gan.generator.network is not gan.generator.plain
    return Watched(calls.names, seen["kept"], seen["early"], wrapped)


@dataclass
class Outcome:
    """What one rank saw of a few steps."""

    scalars: list[dict[str, float]] = field(default_factory=list)
    """Of each step, means over ranks."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """After STEPS."""
    watched: Watched | None = None
    """One step later."""


def trained(config: TrainConfig) -> Outcome:
    runtime = tiny.runtime()
    assert runtime.world_size == collectives.world_size()
    training = tiny.training(config, runtime)
    outcome = Outcome()
    for _ in range(STEPS):
        scalars = training.update()
        means = collectives.all_reduce(torch.stack(list(scalars.values())).double()) / collectives.world_size()
        outcome.scalars.append(dict(zip(scalars, means.tolist(), strict=True)))
    training.check()
    outcome.tensors = tiny.tensors(training.gan)
    outcome.watched = watched(training)
    return outcome


def trained_all(names: list[str], world_size: int) -> dict[str, Outcome]:
    assert collectives.world_size() == world_size
    return {name: trained(CONFIGS[name]) for name in names}


@functools.cache
def outcomes(world_size: int) -> list[dict[str, Outcome]]:
    """By rank, then by name in CONFIGS."""
    return run_ranks(trained_all, world_size, list(ON_4 if world_size == 4 else CONFIGS), world_size)


def vector(tensors: dict[str, Tensor], network: str) -> Tensor:
    return torch.cat([tensor.flatten().double() for name, tensor in tensors.items() if name.startswith(network)])


RUNS = [(2, name) for name in CONFIGS] + [(4, name) for name in ON_4]


@pytest.mark.parametrize(("world_size", "name"), RUNS)
def test_losses_do_not_depend_on_the_number_of_processes(world_size: int, name: str) -> None:
    (one,) = outcomes(1)
    tolerance = 1e-3 if name == "float32" else 1e-9
    for rank in outcomes(world_size):
        for found, expected in zip(rank[name].scalars, one[name].scalars, strict=True):
            assert found == pytest.approx(expected, rel=tolerance, abs=0)
    first, last = one[name].scalars[0], one[name].scalars[-1]
    assert first["loss/d"] != pytest.approx(last["loss/d"], rel=1e-4)  # something was trained


@pytest.mark.parametrize(("world_size", "name"), [run for run in RUNS if run[1] != "float32"])
def test_networks_do_not_depend_on_the_number_of_processes(world_size: int, name: str) -> None:
    (one,) = outcomes(1)
    averaged = ["ema"] if CONFIGS[name].optim.ema_decay else []
    for network, rank in itertools.product(["generator", "discriminator", *averaged], outcomes(world_size)):
        found, expected = vector(rank[name].tensors, network), vector(one[name].tensors, network)
        assert len(expected) > 500
        assert (found - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize(("world_size", "name"), RUNS)
def test_ranks_have_the_same_bits(world_size: int, name: str) -> None:
    first, *others = outcomes(world_size)
    for other in others:
        assert other[name].tensors.keys() == first[name].tensors.keys()
        for key, tensor in first[name].tensors.items():
            assert torch.equal(other[name].tensors[key], tensor), key


def test_the_comparison_would_notice_another_seed() -> None:
    (one,) = outcomes(1)
    assert one["arch1"].scalars[0] != pytest.approx(one["arch1 fakes"].scalars[0], rel=1e-6)
    other = trained(tiny.narrow("mnist28", seed=1))
    assert other.scalars[0] != pytest.approx(one["mnist28"].scalars[0], rel=1e-6)


# What ranks tell each other in a step


@pytest.mark.parametrize("name", ["arch2", "dcgan64", "pooled"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_an_update_makes_no_gradient_for_the_other_network(world_size: int, name: str) -> None:
    for rank in outcomes(world_size):
        step = rank[name].watched
        assert step is not None
        assert step.kept
        assert step.early == 0
        assert step.wrapped == (world_size > 1)


def test_collectives_of_one_step() -> None:
    for rank in outcomes(2):
        step = rank["arch1"].watched
        assert step is not None
        names = ["all_gather" if name.startswith("all_gather") else name for name in step.names]
        # Batch norm layers: 4 in G, 3 in D, run once and twice. Batch deviations: 4 in D, run twice.
        gathers = 4 + 2 * 3
        forward = 2 * 4
        backward_of_d = 2 * 3 + 2 * 4
        backward_of_g = 3 + 4 + 4  # through D's pass of the fakes, then G
        assert names.count("all_gather") == gathers
        assert names.count("all_reduce") == forward + backward_of_d + backward_of_g
        assert len(names) == 43
    (alone,) = outcomes(1)
    assert alone["arch1"].watched is not None
    assert alone["arch1"].watched.names == []


# A batch that cannot be shared


def shared_unevenly(batch_size: int) -> None:
    tiny.runtime().rows(batch_size)


@pytest.mark.parametrize(
    ("world_size", "batch_size", "expected"),
    [
        (2, 7, r"7 / 2 = 3.5 images each; try 6 or 8"),
        (4, 6, r"6 / 4 = 1.5 images each; try 4 or 8"),
        (4, 3, r"3 / 4 = 0.75 images each; try 4$"),
    ],
)
def test_a_batch_must_be_shared_evenly(world_size: int, batch_size: int, expected: str) -> None:
    message = rf"ValueError: batch_size must be a multiple of the number of processes: {expected}"
    with pytest.raises(RankError, match=f"(?m){message}"):
        run_ranks(shared_unevenly, world_size, batch_size)


def rows_of_8() -> tuple[int, int]:
    return tiny.runtime().rows(8)


def test_ranks_have_contiguous_rows() -> None:
    assert run_ranks(rows_of_8, 4) == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert run_ranks(rows_of_8, 1) == [(0, 8)]


# One rank's loss is not a number


def diverged() -> str:
    training = tiny.training(CONFIGS["mnist28"], tiny.runtime())
    training.update()
    if collectives.rank() == 1:
        training.gan.loss = Loss(discriminator=training.gan.loss.discriminator, generator=lambda logits: logits[0] / 0)
    training.update()
    try:
        training.check()
    except DivergenceError as error:
        return str(error)
    return ""


def test_all_ranks_stop_when_one_diverges() -> None:
    messages = run_ranks(diverged, 2)
    assert messages == ["the generator is not finite since step 2; a lower lr may help"] * 2
