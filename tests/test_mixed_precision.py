"""Mixed precision on a CPU, where fp16 is slow but the same: each network has a scaler of its own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dcgan_dist.config import changed
from dcgan_dist.gan import Player
from dcgan_dist.loop import Training
from dcgan_dist.losses import Loss
from tests import tiny

OPTIMIZERS = {
    "adam": tiny.narrow("flowers17-arch1", dtype="float32", precision="fp16", update="alternating"),
    "rmsprop": tiny.narrow("flowers17-arch2", dtype="float32", precision="fp16", base_channels=2),
    "sgd": tiny.narrow("mnist28", dtype="float32", precision="fp16", optimizer="sgd"),
}


def contents(player: Player) -> list[Tensor]:
    """Copies of a network's parameters and of what its optimizer knows of them, but for the number of steps."""
    states = player.optimizer.state_dict()["state"].values()
    known = [value for state in states for name, value in state.items() if name != "step"]
    return [tensor.detach().clone() for tensor in (*player.parameters, *known)]


def overflowing(training: Training, network: str) -> None:
    """Lets each gradient of one network overflow in the steps that follow."""
    loss = training.gan.loss

    def discriminator(logits_real: Tensor, logits_fake: Tensor, **smoothing: float) -> Tensor:
        return loss.discriminator(logits_real, logits_fake, **smoothing) * 1e38

    given: dict[str, Any] = {"discriminator": loss.discriminator, "generator": loss.generator}
    huge = {"discriminator": discriminator, "generator": lambda logits: loss.generator(logits) * 1e38}
    training.gan.loss = Loss(**given | {network: huge[network]})


@pytest.mark.parametrize("network", ["generator", "discriminator"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("steps_before", [0, 2])
def test_an_overflow_in_one_network_leaves_the_other_alone(optimizer: str, network: str, steps_before: int) -> None:
    training = tiny.training(OPTIMIZERS[optimizer], tiny.runtime())
    for _ in range(steps_before):
        training.update()
    overflowing(training, network)
    players = {"generator": training.gan.generator, "discriminator": training.gan.discriminator}
    spoilt = players.pop(network)
    (spared,) = players.values()
    before = contents(spoilt), contents(spared)
    training.update()
    assert (spoilt.scaler.get_scale(), spared.scaler.get_scale()) == (2**15, 2**16)
    after = contents(spoilt), contents(spared)
    if not steps_before:
        parameters = len(spoilt.parameters)
        assert all(not value.any() for value in after[0][parameters:])  # averages that have only begun
        after = after[0][:parameters], after[1][: len(before[1])]
    assert all(torch.equal(new, old) for new, old in zip(after[0], before[0], strict=True))
    assert not any(torch.equal(new, old) for new, old in zip(after[1], before[1], strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_half_precision_follows_the_whole(optimizer: str) -> None:
    config = OPTIMIZERS[optimizer]
    exact = tiny.training(changed(config, {"precision": "no"}), tiny.runtime())
    half = tiny.training(config, tiny.runtime())
    for _ in range(3):
        expected, found = exact.update(), half.update()
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
