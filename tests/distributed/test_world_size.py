"""The promise: the number of processes does not change the run, whatever the recipe."""

import functools
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from dcgan_dist.config import LogConfig, TrainConfig, changed, leaves
from dcgan_dist.distributed import collectives
from dcgan_dist.loop import DivergenceError, Training
from dcgan_dist.losses import Loss
from tests import tiny
from tests.distributed.counting import counted
from tests.distributed.ranks import RankError, run_ranks
from tests.shared import RECIPES, recipe

Group = Literal["recipes", "variants", "float32"]

NARROW: dict[str, Any] = {"base_channels": 2, "ema_decay": 0.9}  # an average of the generator changes nothing else
CASES: dict[Group, dict[str, TrainConfig]] = {
    "recipes": {name: tiny.narrow(name, **NARROW) for name in RECIPES},
    "variants": {
        "arch1, all at once": tiny.narrow(
            "flowers17-arch1",
            flip=True,
            dropout=0.2,
            instance_noise_on="fakes",
            memory_format="contiguous",
            ema_decay=0.9,
        ),
        "arch2, flips": tiny.narrow("flowers17-arch2", ema_decay=0.9, base_channels=2, flip=True),
        "dcgan64, noisy fakes": tiny.narrow("flowers-dcgan64", instance_noise=0.1, instance_noise_on="fakes"),
        "arch1, last blocks": tiny.narrow(
            "flowers17-arch1", ema_decay=0.9, init_from="unread", train_only_g=2, train_only_d=2
        ),
        "dcgan64, last blocks": tiny.narrow("flowers-dcgan64", init_from="unread", train_only_g=1, train_only_d=3),
        "pooled, sgd": tiny.narrow("mnist-pooled", optimizer="sgd", smooth_fake=0.1, smooth_real=0.9),
    },
    "float32": {name: tiny.narrow(name, dtype="float32", **NARROW) for name in RECIPES},
}
STEPS: dict[Group, int] = {"recipes": 20, "variants": 3, "float32": 5}
LIMIT_SECONDS = 240.0


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
    """After the last of them."""
    watched: Watched | None = None
    """One step later."""


def trained(config: TrainConfig, steps: int) -> Outcome:
    runtime = tiny.runtime()
    assert runtime.world_size == collectives.world_size()
    training = tiny.training(config, runtime)
    outcome = Outcome()
    for _ in range(steps):
        scalars = training.update()
        means = collectives.all_reduce(torch.stack(list(scalars.values())).double()) / collectives.world_size()
        outcome.scalars.append(dict(zip(scalars, means.tolist(), strict=True)))
    training.check()
    outcome.tensors = tiny.tensors(training.gan)
    outcome.watched = watched(training)
    return outcome


def trained_all(group: Group, world_size: int) -> dict[str, Outcome]:
    """The outcome of each case. Recipes that differ in length, place or batch alone are one run when narrow."""
    assert collectives.world_size() == world_size
    aside: dict[str, Any] = {
        "recipe": "narrow",
        "max_steps": 1,
        "max_epochs": None,
        "data": "",
        **dict(leaves(LogConfig())),
    }
    alike = {name: changed(config, aside) for name, config in CASES[group].items()}
    found = {config: trained(config, STEPS[group]) for config in dict.fromkeys(alike.values())}
    return {name: found[config] for name, config in alike.items()}


@functools.cache
def outcomes(group: Group, world_size: int) -> list[dict[str, Outcome]]:
    """By rank, then by the case's name."""
    return run_ranks(trained_all, world_size, group, world_size, limit_seconds=LIMIT_SECONDS)


def vector(tensors: dict[str, Tensor], network: str) -> Tensor:
    """A network's parameters and running statistics."""
    values = [value for name, value in tensors.items() if name.startswith(network) and value.is_floating_point()]
    return torch.cat([value.flatten() for value in values])


def networks(config: TrainConfig) -> list[str]:
    return ["generator", "discriminator", *(["ema"] if config.optim.ema_decay else [])]


def runs(*groups: Group) -> list[Any]:
    return [
        pytest.param(
            group,
            world_size,
            name,
            id=f"{name}, {group}, {world_size} processes",
            marks=[pytest.mark.slow] if world_size == 4 and group != "variants" else [],
        )
        for group in groups
        for world_size in (2, 4)
        for name in CASES[group]
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_trained_as_it_is_but_for_its_width(name: str) -> None:
    original = dict(leaves(recipe(name)))
    for group in (CASES["recipes"], CASES["float32"]):
        differing = {leaf for leaf, value in leaves(group[name]) if value != original[leaf]}
        assert differing <= {*NARROW, "latent_dim", "batch_size", "threads", "dtype"}


@pytest.mark.parametrize(("group", "world_size", "name"), runs("recipes", "variants", "float32"))
def test_losses_do_not_depend_on_the_number_of_processes(group: Group, world_size: int, name: str) -> None:
    (one,) = outcomes(group, 1)
    tolerance = 1e-3 if group == "float32" else 1e-9
    assert len(one[name].scalars) == STEPS[group]
    for rank in outcomes(group, world_size):
        for found, expected in zip(rank[name].scalars, one[name].scalars, strict=True):
            assert found == pytest.approx(expected, rel=tolerance, abs=0)
    first, last = one[name].scalars[0], one[name].scalars[-1]
    assert first["loss/d"] != pytest.approx(last["loss/d"], rel=1e-4)  # something was trained


@pytest.mark.parametrize(("group", "world_size", "name"), runs("recipes", "variants"))
def test_networks_do_not_depend_on_the_number_of_processes(group: Group, world_size: int, name: str) -> None:
    (one,) = outcomes(group, 1)
    for rank in outcomes(group, world_size):
        assert rank[name].tensors.keys() == one[name].tensors.keys()
        for network in networks(CASES[group][name]):
            found, expected = vector(rank[name].tensors, network), vector(one[name].tensors, network)
            assert expected.dtype == torch.float64
            assert len(expected) > 400
            assert (found - expected).norm() <= 1e-9 * expected.norm()
        for key, expected in one[name].tensors.items():
            assert expected.is_floating_point() or torch.equal(rank[name].tensors[key], expected), key  # counts


@pytest.mark.parametrize(("group", "world_size", "name"), runs("recipes", "variants", "float32"))
def test_ranks_have_the_same_bits(group: Group, world_size: int, name: str) -> None:
    first, *others = outcomes(group, world_size)
    assert len(others) == world_size - 1
    for other in others:
        assert other[name].tensors.keys() == first[name].tensors.keys()
        for key, tensor in first[name].tensors.items():
            assert torch.equal(other[name].tensors[key], tensor), key


def test_the_comparison_would_notice_another_seed() -> None:
    (recipes,) = outcomes("recipes", 1)
    scalars = recipes["mnist28"].scalars[0]
    assert scalars != pytest.approx(recipes["mnist-pooled"].scalars[0], rel=1e-6)
    other = trained(tiny.narrow("mnist28", seed=1, **NARROW), 1)
    assert other.scalars[0] != pytest.approx(scalars, rel=1e-6)


# What ranks tell each other in a step


@pytest.mark.parametrize("name", [name for name in RECIPES if recipe(name).optim.update == "alternating"])
@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_an_update_makes_no_gradient_for_the_other_network(world_size: int, name: str) -> None:
    for rank in outcomes("recipes", world_size):
        step = rank[name].watched
        assert step is not None
        assert step.kept
        assert step.early == 0
        assert step.wrapped == (world_size > 1)


def test_collectives_of_one_step() -> None:
    for rank in outcomes("recipes", 2):
        step = rank["flowers17-arch1"].watched
        assert step is not None
        names = ["all_gather" if name.startswith("all_gather") else name for name in step.names]
        # Batch norm layers: 4 in G, 3 in D, run once and twice. Batch deviations: 4 in D, run twice.
        gathers = 4 + 2 * 3
        forward = 2 * 4
        backward_of_d = 2 * 3 + 2 * 4
        backward_of_g = 3 + 4 + 4  # through D's pass of the fakes, then G
        assert names.count("all_gather") == gathers
        gradients = 2  # one bucket of each network
        assert names.count("all_reduce") == forward + backward_of_d + backward_of_g + gradients
        assert len(names) == 45
    (alone,) = outcomes("recipes", 1)
    assert alone["flowers17-arch1"].watched is not None
    assert alone["flowers17-arch1"].watched.names == []


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
    training = tiny.training(tiny.narrow("mnist28"), tiny.runtime())
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
