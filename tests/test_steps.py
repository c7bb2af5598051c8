"""One update of both networks against textbook code, and what the loop decides around it."""

import copy
import math
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcgan_dist.config import TrainConfig
from dcgan_dist.loop import DivergenceError, Training
from dcgan_dist.losses import Loss
from tests import tiny

CONFIGS = {
    "arch1, simultaneous": tiny.narrow("flowers17-arch1"),
    "arch1, simultaneous, noise on fakes": tiny.narrow("flowers17-arch1", instance_noise_on="fakes"),
    "mnist28, simultaneous": tiny.narrow("mnist28", dropout=0.0),
    "dcgan64, same z": tiny.narrow("flowers-dcgan64"),
    "pooled, same z, noise on fakes": tiny.narrow(
        "mnist-pooled", dropout=0.0, instance_noise=0.2, instance_noise_on="fakes"
    ),
    "arch2, fresh z": tiny.narrow("flowers17-arch2", dropout=0.0, base_channels=2),
    "arch2 gray, fresh z, noise on fakes": tiny.narrow(
        "flowers17-arch2-gray", dropout=0.0, base_channels=2, instance_noise=0.2, instance_noise_on="fakes"
    ),
    "arch1, alternating": tiny.narrow("flowers17-arch1", update="alternating", optimizer="sgd", lr=0.1),
    "dcgan64, simultaneous": tiny.narrow("flowers-dcgan64", update="simultaneous", optimizer="sgd", lr=0.1),
}


@dataclass
class Textbook:
    """Plain PyTorch: detached fakes, copies of networks, ``backward`` and torch's own optimizers."""

    config: TrainConfig
    generator: nn.Module
    discriminator: nn.Module

    def __post_init__(self) -> None:
        optim = self.config.optim
        self.g_optimizer = self.optimizer(self.generator, optim.lr)
        self.d_optimizer = self.optimizer(self.discriminator, optim.lr * optim.lr_ratio)

    def optimizer(self, network: nn.Module, lr: float) -> torch.optim.Optimizer:
        optim = self.config.optim
        if optim.optimizer == "adam":
            betas = (optim.beta1, optim.beta2)
            return torch.optim.Adam(network.parameters(), lr, betas=betas, eps=optim.epsilon, foreach=False)
        if optim.optimizer == "rmsprop":
            return torch.optim.RMSprop(network.parameters(), lr, alpha=optim.rho, eps=optim.epsilon, foreach=False)
        return torch.optim.SGD(network.parameters(), lr, foreach=False)

    def step(self, real: Tensor, number: int) -> dict[str, float]:
        optim, losses = self.config.optim, self.config.losses
        draws = tiny.step_draws(self.config, number)
        prior, length = self.config.network.prior, self.config.network.latent_dim
        deviation = losses.instance_noise * losses.instance_noise_decay ** (number + 1)
        noise = deviation * draws.gaussian("instance_noise", real.shape[1:])
        on_reals = noise if losses.instance_noise_on == "reals" else 0
        on_fakes = noise if losses.instance_noise_on == "fakes" else 0
        self.schedule(number)

        # the discriminator
        fake = self.generator(draws.latent("z", length, prior=prior))
        before = copy.deepcopy(self.discriminator)
        self.d_optimizer.zero_grad()
        logits_real = self.discriminator(real + on_reals)
        logits_fake = self.discriminator(fake.detach() + on_fakes)
        bce = F.binary_cross_entropy_with_logits
        ones, zeros = torch.ones_like(logits_real), torch.zeros_like(logits_fake)
        loss_d = bce(logits_fake, zeros) + losses.smooth_real * bce(logits_real, ones)
        loss_d = loss_d + losses.smooth_fake * bce(logits_real, zeros)
        loss_d.backward()
        self.d_optimizer.step()

        # the generator, against a copy of the discriminator that is thrown away
        judge = before if optim.update == "simultaneous" else copy.deepcopy(self.discriminator)
        if optim.fresh_z:
            fake = self.generator(draws.latent("z_generator", length, prior=prior))
        self.g_optimizer.zero_grad()
        loss_g = bce(judge(fake + on_fakes), ones)
        loss_g.backward()
        self.g_optimizer.step()
        return {
            "loss/d": loss_d.item(),
            "loss/g": loss_g.item(),
            "score/real": torch.sigmoid(logits_real).mean().item(),
            "score/fake": torch.sigmoid(logits_fake).mean().item(),
        }

    def schedule(self, number: int) -> None:
        optim = self.config.optim
        self.g_optimizer.param_groups[0]["lr"] = optim.lr / (1 + optim.lr_decay_g * number)
        self.d_optimizer.param_groups[0]["lr"] = optim.lr * optim.lr_ratio / (1 + optim.lr_decay_d * number)


def real_images(training: Training, number: int) -> Tensor:
    """The reals of a step, worked out here."""
    low, high = training.gan.config.network.value_range
    return low + (high - low) * training.loader.batch(number).double() / 255


@pytest.mark.parametrize("name", CONFIGS)
def test_steps_are_those_of_the_textbook(name: str) -> None:
    config = CONFIGS[name]
    training = tiny.training(config, tiny.runtime())
    gan = training.gan
    expected = Textbook(config, copy.deepcopy(gan.generator.plain), copy.deepcopy(gan.discriminator.plain))
    start = tiny.tensors(gan)
    for number in range(3):
        scalars = {key: value.item() for key, value in training.update().items()}
        assert scalars == pytest.approx(expected.step(real_images(training, number), number), rel=1e-12, abs=0)
        for player, network in ((gan.generator, expected.generator), (gan.discriminator, expected.discriminator)):
            for ours, theirs in zip(player.plain.parameters(), network.parameters(), strict=True):
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-13)
            # a bias before batch norm has no gradient but rounding, which Adam magnifies: hence 1e-10, not 1e-12
            torch.testing.assert_close(player.plain.state_dict(), network.state_dict(), rtol=1e-12, atol=1e-10)
            whole = [
                torch.cat([value.flatten() for value in net.state_dict().values()]) for net in (player.plain, network)
            ]
            assert (whole[0] - whole[1]).norm() <= 1e-12 * whole[1].norm()
    unmoved = [key for key, tensor in tiny.tensors(gan).items() if torch.equal(tensor, start[key])]
    assert unmoved == []


@pytest.mark.parametrize(
    ("name", "of_generator"),
    [("arch1, simultaneous", 1), ("dcgan64, same z", 1), ("arch2, fresh z", 2), ("pooled, same z, noise on fakes", 1)],
)
def test_running_statistics_are_updated_once_by_each_training_pass(name: str, of_generator: int) -> None:
    training = tiny.training(CONFIGS[name], tiny.runtime())
    training.update()
    training.update()
    counts = {
        player: {int(value) for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
        for player, network in (
            ("generator", training.gan.generator.plain),
            ("discriminator", training.gan.discriminator.plain),
        )
    }
    assert counts["generator"] == {2 * of_generator}
    if counts["discriminator"]:
        assert counts["discriminator"] == {4}  # reals and fakes of two steps, not the pass of G's update


def test_same_z_has_one_generator_pass_a_step() -> None:
    training = tiny.training(CONFIGS["dcgan64, same z"], tiny.runtime())
    seen: list[Tensor] = []
    training.gan.generator.plain.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    training.update()
    (z,) = seen
    assert torch.equal(z, tiny.step_draws(training.gan.config, 0).latent("z", 6, prior="normal"))


def test_the_discriminator_is_constant_when_it_judges() -> None:
    gan = tiny.training(CONFIGS["pooled, same z, noise on fakes"], tiny.runtime()).gan
    fake = torch.rand(8, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    before = tiny.tensors(gan)
    logits = gan.judge(fake, draws=tiny.step_draws(gan.config, 0))
    inputs = [fake, *gan.discriminator.parameters]
    of_fake, *others = torch.autograd.grad(logits.sum(), inputs, allow_unused=True)
    assert of_fake.abs().sum() > 0
    assert others == [None] * len(gan.discriminator.parameters)
    assert all(torch.equal(value, before[name]) for name, value in tiny.tensors(gan).items())


# Learning rates


def rates(training: Training) -> tuple[float, float]:
    generator, discriminator = training.gan.generator.optimizer, training.gan.discriminator.optimizer
    return generator.param_groups[0]["lr"], discriminator.param_groups[0]["lr"]


def test_learning_rates_by_hand() -> None:
    config = tiny.narrow("mnist28", lr=1e-4, lr_ratio=3.0, lr_decay_g=0.5, lr_decay_d=2.0)
    training = tiny.training(config, tiny.runtime())
    found = []
    for _ in range(3):
        training.update()
        found.append(rates(training))
    expected = [(1e-4, 3e-4), (1e-4 / 1.5, 3e-4 / 3), (1e-4 / 2, 3e-4 / 5)]
    assert found == [pytest.approx(pair, rel=1e-15) for pair in expected]


def test_learning_rates_late_in_a_recipe() -> None:
    training = tiny.training(tiny.narrow("flowers17-arch2-gray", base_channels=2), tiny.runtime())
    for player in (training.gan.generator, training.gan.discriminator):
        player.schedule(10_000)
    # 5e-5 / (1 + 3e-8 * 10,000) and 1.5e-4 / (1 + 4e-8 * 10,000)
    assert rates(training) == pytest.approx((5e-5 / 1.0003, 1.5e-4 / 1.0004), rel=1e-15)


# What the discriminator sees


def seen_by_discriminator(training: Training) -> list[Tensor]:
    """Every batch that D will be given; also in the pass of G's update, which calls it as a function."""
    seen: list[Tensor] = []
    training.gan.discriminator.plain.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    return seen


def test_instance_noise_on_reals_has_exactly_its_strength() -> None:
    training = tiny.training(tiny.narrow("flowers17-arch1"), tiny.runtime())
    seen = seen_by_discriminator(training)
    for number in range(3):
        training.update()
        real, fake = seen[-2:]
        draw = tiny.step_draws(training.gan.config, number).gaussian("instance_noise", (3, 32, 32))
        expected = real_images(training, number) + 0.01 * 0.99 ** (number + 1) * draw
        torch.testing.assert_close(real, expected, rtol=0, atol=1e-15)
        assert fake.abs().max() <= 1  # tanh, no noise
    assert len(seen) == 6


def test_instance_noise_on_fakes_is_the_same_in_both_updates() -> None:
    config = tiny.narrow("flowers-dcgan64", instance_noise=0.5, instance_noise_decay=0.9, instance_noise_on="fakes")
    training = tiny.training(config, tiny.runtime())
    seen = seen_by_discriminator(training)
    made: list[Tensor] = []
    training.gan.generator.plain.register_forward_hook(lambda *given: made.append(given[2].detach()))
    training.update()
    training.update()
    draw = tiny.step_draws(config, 1).gaussian("instance_noise", (3, 64, 64))
    real, fake, judged = seen[3:]
    assert torch.equal(real, real_images(training, 1))
    torch.testing.assert_close(fake - made[1], 0.5 * 0.9**2 * draw, rtol=0, atol=1e-14)
    assert torch.equal(judged, fake)


def test_flips_mirror_the_rows_whose_coin_says_so() -> None:
    training = tiny.training(tiny.narrow("flowers-dcgan64", flip=True), tiny.runtime())
    seen = seen_by_discriminator(training)
    flipped = 0
    for number in range(3):
        training.update()
        coins = tiny.step_draws(training.gan.config, number).coins("flip").tolist()
        images = real_images(training, number)
        expected = torch.stack([image.flip(2) if coin else image for image, coin in zip(images, coins, strict=True)])
        assert torch.equal(seen[3 * number], expected)
        flipped += sum(coins)
    assert 0 < flipped < 24


def test_average_follows_the_generator() -> None:
    training = tiny.training(tiny.narrow("mnist28", ema_decay=0.75), tiny.runtime())
    name = "head.weight"
    values = [training.gan.generator.plain.state_dict()[name].clone()]
    for _ in range(2):
        training.update()
        values.append(training.gan.generator.plain.state_dict()[name].clone())
    assert training.gan.average is not None
    found = training.gan.average.module.state_dict()[name]
    first, second, third = values  # it begins as a copy of the initial weights
    torch.testing.assert_close(found, 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third, rtol=0, atol=1e-15)
    assert training.gan.sampled is training.gan.average.module


# Divergence


def test_a_run_in_good_health_passes_the_check() -> None:
    training = tiny.training(tiny.narrow("mnist28"), tiny.runtime())
    training.check()
    training.update()
    training.check()


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_nan_in_weights_is_found_and_stays_found(network: str) -> None:
    training = tiny.training(tiny.narrow("mnist28"), tiny.runtime())
    training.update()
    training.update()
    weight = next(getattr(training.gan, network).plain.parameters())
    with torch.no_grad():
        weight[(0,) * weight.ndim] = math.nan
    for _ in range(2):
        training.update()
        with pytest.raises(DivergenceError, match=rf"^the {network} is not finite since step 3; a lower lr"):
            training.check()


def test_the_network_that_failed_first_is_named() -> None:
    training = tiny.training(tiny.narrow("mnist28"), tiny.runtime())
    training.update()
    gan = training.gan
    gan.loss = Loss(discriminator=gan.loss.discriminator, generator=lambda logits: logits.sum() * math.inf)
    training.update()
    gan.loss = replace(gan.loss, generator=lambda logits: logits.mean())
    training.update()  # G's weights are lost by now, and both losses with them
    with pytest.raises(DivergenceError, match=r"^the generator is not finite since step 2;"):
        training.check()
