"""What counts as a block, and what freezing does to one."""

import pytest
import torch
from torch import nn

from dcgan_dist.config import FineTuningConfig, changed
from dcgan_dist.models import MODELS, build_networks
from dcgan_dist.models.blocks import blocks, freeze
from tests.shared import recipe

DENSE_STEM = ["stem.dense", "stem.batch_norm"]
BLOCKS = {
    "flowers-dcgan64": (
        [*([f"body.{n}.0", f"body.{n}.1"] for n in range(4)), ["head"]],
        [["stem.0"], *([f"body.{n}.0", f"body.{n}.1"] for n in range(3)), ["head"]],
    ),
    "flowers17-arch1": (
        [*([f"body.{n}.0", f"body.{n}.1"] for n in range(4)), ["head"]],
        [["body.0.0"], *([f"body.{n}.0", f"body.{n}.1"] for n in range(1, 4)), ["head"]],
    ),
    "flowers17-arch2": (
        [DENSE_STEM, *([f"body.{n}.0", f"body.{n}.1"] for n in range(3)), ["head"]],
        [*([f"body.{n}.0"] for n in range(4)), ["head"]],
    ),
    "mnist28": (
        [DENSE_STEM, *([f"body.{n}.0", f"body.{n}.1"] for n in range(2)), ["head"]],
        [["body.0"], ["body.3"], ["head"]],
    ),
    "mnist-pooled": (
        [DENSE_STEM, *([f"body.{n}.0", f"body.{n}.1"] for n in range(2)), ["head"]],
        [*([f"body.{n}.0", f"body.{n}.3"] for n in range(3)), ["head"]],
    ),
}
"""Layers with parameters of each block of G and of D, by recipe."""


def networks(name: str) -> tuple[nn.Module, nn.Module]:
    return build_networks(changed(recipe(name), {"base_channels": 2}).network, seed=0)


def last_blocks(generator: int = 0, discriminator: int = 0) -> FineTuningConfig:
    return FineTuningConfig(init_from="a run", train_only_g=generator, train_only_d=discriminator)


def test_every_model_has_its_blocks_here() -> None:
    assert {recipe(name).network.model for name in BLOCKS} == set(MODELS)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_by_hand(name: str) -> None:
    for network, expected in zip(networks(name), BLOCKS[name], strict=True):
        names = {module: key for key, module in network.named_modules()}
        assert [[names[layer] for layer in block] for block in blocks(network)] == expected
        in_blocks = {id(p) for block in blocks(network) for layer in block for p in layer.parameters()}
        assert in_blocks == {id(p) for p in network.parameters()}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_counted_in_the_order_in_which_they_run(name: str) -> None:
    config = recipe(name).network
    inputs = (
        torch.zeros(2, config.latent_dim),
        torch.zeros(2, config.channels, config.image_size, config.image_size),
    )
    for network, given in zip(networks(name), inputs, strict=True):
        ran: list[nn.Module] = []
        layers = [layer for block in blocks(network) for layer in block]
        for layer in layers:
            layer.register_forward_hook(lambda module, *_, ran=ran: ran.append(module))
        network.eval()(given)
        assert [id(layer) for layer in ran] == [id(layer) for layer in layers]


def test_the_last_blocks_are_trained_and_those_before_are_not() -> None:
    generator, discriminator = networks("flowers17-arch1")
    freeze(generator, discriminator, last_blocks(2, 1))
    trained = {key for key, parameter in generator.named_parameters() if parameter.requires_grad}
    assert trained == {f"{layer}.{each}" for layer in ("body.3.0", "body.3.1", "head") for each in ("weight", "bias")}
    trained = {key for key, parameter in discriminator.named_parameters() if parameter.requires_grad}
    assert trained == {"head.weight", "head.bias"}
    assert [block[-1].training for block in blocks(generator)] == [False, False, False, True, True]
    assert generator.training  # dropout and batch deviation work on


@pytest.mark.parametrize("counts", [(0, 0), (5, 5)])
def test_all_blocks_are_trained_with_0_or_their_number(counts: tuple[int, int]) -> None:
    for network, count in zip(networks("flowers17-arch1"), counts, strict=True):
        assert len(blocks(network)) == 5
        freeze(network, network, last_blocks(count, count))
        assert all(parameter.requires_grad for parameter in network.parameters())
        assert all(module.training for module in network.modules())


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((5, 0), "train_only_g must be at most 4, the generator's blocks (see --summary), got 5"),
        ((4, 4), "train_only_d must be at most 3, the discriminator's blocks (see --summary), got 4"),
    ],
)
def test_more_blocks_than_there_are_is_refused(counts: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        freeze(*networks("mnist28"), last_blocks(*counts))
    assert str(raised.value) == message


def test_frozen_batch_norm_normalises_by_its_running_statistics() -> None:
    """By hand: (x - 3) / sqrt(4 + 0.001) * 5 + 7, whatever else is in the batch."""
    generator, discriminator = networks("mnist28")
    freeze(generator, discriminator, last_blocks(1))
    norm = generator.get_submodule("body.0.1")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        for name, value in (("running_mean", 3), ("running_var", 4), ("weight", 5), ("bias", 7)):
            norm.state_dict()[name].fill_(value)
    features = torch.tensor([1.0, 100.0]).view(2, 1, 1, 1).expand(2, 4, 7, 7)
    found = norm(features)
    torch.testing.assert_close(found[0], torch.full((4, 7, 7), (1 - 3) / 4.001**0.5 * 5 + 7))
    assert norm.state_dict()["running_mean"].tolist() == [3] * 4
    assert norm.state_dict()["num_batches_tracked"] == 0


def test_torchs_synchronized_batch_norm_stays_frozen() -> None:
    """What several GPUs put in the place of ours."""
    generator, discriminator = networks("flowers17-arch1")
    freeze(generator, discriminator, last_blocks(2, 1))
    nn.SyncBatchNorm.convert_sync_batchnorm(generator)
    norms = [layer for layer in generator.modules() if isinstance(layer, nn.SyncBatchNorm)]
    assert [layer.training for layer in norms] == [False, False, False, True]
    assert [layer.weight.requires_grad for layer in norms] == [False, False, False, True]
    features = torch.ones(1, 16, 2, 2)
    assert torch.equal(norms[0](features), torch.ones(1, 16, 2, 2) / 1.001**0.5)
