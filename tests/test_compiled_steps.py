"""--compile: the same losses and gradients, and what CUDA graphs need, as far as it shows without a GPU."""

import copy
import functools
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._dynamo.utils import counters

from dcgan_dist.config import LogConfig, TrainConfig, changed, leaves
from dcgan_dist.gan import Gan
from tests import tiny
from tests.shared import RECIPES

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo looks
UPDATES = ("simultaneous", "alternating")
CONFIGS = {
    "arch1, simultaneous": tiny.narrow("flowers17-arch1", dropout=0.4),
    "arch1, alternating": tiny.narrow("flowers17-arch1", dropout=0.4, update="alternating"),
    "arch2, fresh z": tiny.narrow("flowers17-arch2", base_channels=2),
    "dcgan64, same z": tiny.narrow("flowers-dcgan64", instance_noise=0.1, instance_noise_on="fakes"),
    "mnist28, simultaneous": tiny.narrow("mnist28"),
    "pooled, same z": tiny.narrow("mnist-pooled"),
}


@pytest.fixture(autouse=True)
def _nothing_compiled_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)  # pytest would keep megabytes of it
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compiling_with(monkeypatch: pytest.MonkeyPatch, backend: str | Callable[..., Any]) -> None:
    """Trace as torch.compile does, and leave the generated kernels out."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))


# What CUDA graphs need: what a network keeps is read and written in one place for ever. Where an address changes, the
# graph is recorded anew; where a tensor changes that the network does not own, there is none.


@dataclass
class Addresses:
    """A backend that runs graphs as they are, and writes down where each call finds what it takes for fixed."""

    calls: list[set[tuple[int, ...]]] = field(default_factory=list)
    """Of each graph, the different sets of addresses."""
    passed: list[list[str]] = field(default_factory=list)
    """Of each graph, the inputs that are not fixed."""
    mutated: list[str] = field(default_factory=list)
    """Of those, which some graph has written to."""

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
        fixed = [
            isinstance(value, nn.Parameter) or "_dynamo_static_input_type" in node.meta.get("tensor_dict", {})
            for node, value in zip(nodes, inputs, strict=True)
        ]
        calls: set[tuple[int, ...]] = set()
        self.calls.append(calls)
        self.passed.append([node.name for node, is_fixed in zip(nodes, fixed, strict=True) if not is_fixed])

        def run(*values: Tensor) -> Any:
            calls.add(tuple(value.data_ptr() for value, is_fixed in zip(values, fixed, strict=True) if is_fixed))
            versions = [value._version for value in values]
            found = graph.forward(*values)
            self.mutated += [
                node.name
                for node, value, version, is_fixed in zip(nodes, values, versions, fixed, strict=True)
                if value._version != version and not is_fixed
            ]
            return found

        return run


@pytest.mark.parametrize("name", CONFIGS)
def test_compiled_networks_find_all_they_keep_in_one_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses, config = Addresses(), CONFIGS[name]
    compiling_with(monkeypatch, addresses)
    training = tiny.training(changed(config, {"compile": True}), tiny.runtime())
    for _ in range(2):
        training.update()
    after_two = copy.deepcopy(addresses.calls)
    for _ in range(3):
        training.update()
        with torch.no_grad():  # as the loop does when it logs
            training.gan.judge(training._result.fakes, draws=training._result.draws, dropout="dropout_fake")
    assert addresses.calls == after_two
    # G, D of reals and of fakes; alternating: G, D and D as a constant; with fresh z G without a graph as well
    assert len(addresses.calls) == (4 if config.optim.fresh_z else 3)
    assert {len(names) for names in addresses.passed} == {1}  # z or images
    # where D of reals and D of fakes are one graph, each of them has dropout masks of its own
    places = max(len(calls) for calls in addresses.calls)
    assert places == (2 if config.optim.update == "alternating" and config.network.dropout else 1)
    assert addresses.mutated == []
    assert not counters["graph_break"]


# Gradients of frozen and thawed networks


def constant(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).requires_grad_(requires_grad=False)


def textbook(gan: Gan, real: Tensor, z: Tensor) -> dict[str, list[Tensor]]:
    """Gradients of both networks, each with the other one frozen, by plain PyTorch."""
    generator, discriminator = copy.deepcopy(gan.generator.plain), copy.deepcopy(gan.discriminator.plain)
    of_d = torch.autograd.grad(discriminator(real).square().mean(), list(discriminator.parameters()))
    of_g = torch.autograd.grad(constant(discriminator)(generator(z)).square().mean(), list(generator.parameters()))
    return {"thawed D": list(of_d), "frozen D": list(of_g)}


@pytest.mark.parametrize("order", list(itertools.permutations(("thawed D", "frozen D", "measured"))), ids=str)
@pytest.mark.parametrize("compiles", [False, True])
def test_gradients_are_right_in_any_order(
    compiles: bool, order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling_with(monkeypatch, "aot_eager")
    config = tiny.narrow("mnist-pooled", dropout=0.0, compile=compiles, base_channels=2)
    training = tiny.training(config, tiny.runtime())
    gan, draws = training.gan, tiny.step_draws(config, 0)
    real = torch.rand(8, 1, 28, 28, dtype=torch.float64)
    z = gan.latent(draws, "z")
    expected = textbook(gan, real, z)
    players = {"thawed D": gan.discriminator, "frozen D": gan.generator}
    found: dict[str, list[Tensor | None]] = {}
    for what in order * 2:
        if what == "thawed D":
            gan.discriminator.backward(gan.discriminate(real, draws=draws, dropout="dropout_real").square().mean())
        elif what == "frozen D":
            gan.generator.backward(gan.judge(gan.generate(z, draws=draws), draws=draws).square().mean())
        else:
            with torch.no_grad():
                gan.judge(real, draws=draws)
        if what in players:
            found[what] = [parameter.grad for parameter in players[what].parameters]
        for name in found:  # those of the other network are left as they were
            assert all(
                grad is now for grad, now in zip(found[name], (p.grad for p in players[name].parameters), strict=True)
            )
            torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)


# The same losses


def as_trained(config: TrainConfig) -> TrainConfig:
    """``config`` without what changes nothing in a step: many recipes are one when narrow."""
    aside = {"recipe": "narrow", "max_steps": 1, "max_epochs": None, "data": "", **dict(leaves(LogConfig()))}
    return changed(config, aside)


CASES = {
    as_trained(tiny.narrow(name, dtype="float32", update=update)): f"{name}, {update}"
    for name in RECIPES
    for update in UPDATES
}


def losses(config: TrainConfig) -> list[list[float]]:
    training = tiny.training(config, tiny.runtime())
    return [[value.item() for value in training.update().values()] for _ in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("config", CASES, ids=CASES.values())
def test_compiled_steps_have_the_same_losses(config: TrainConfig) -> None:
    expected = losses(config)
    found = losses(changed(config, {"compile": True}))
    for step, numbers in enumerate(expected):
        assert found[step] == pytest.approx(numbers, rel=1e-4)
    assert counters["stats"]["unique_graphs"] >= 3  # both networks were indeed compiled
    assert not counters["recompile_limit"]
