"""The two orders of one update, as plain maths. Both return tensors that nobody has waited for."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dcgan_dist.distributed.draws import StepDraws
from dcgan_dist.gan import Gan


@dataclass(frozen=True)
class StepResult:
    """What is left of an update."""

    scalars: dict[str, Tensor]
    """Means over this process's rows, by the names they are logged under."""
    fakes: Tensor
    """The fakes that D was trained on, as it saw them."""
    draws: StepDraws


def simultaneous_step(gan: Gan, real: Tensor, *, draws: StepDraws) -> StepResult:
    """Both gradients at the same weights, from one pass each of G(z), D(real) and D(fake); then both networks step.

    Args:
        gan: what is trained.
        real: this process's rows of the batch, (rows, channels, size, size) in the recipe's value range.
        draws: the step's randomness.
    """
    fake = gan.generate(gan.latent(draws, "z"), draws=draws)
    noisy_real = gan.add_instance_noise(real, draws=draws, on="reals")
    noisy_fake = gan.add_instance_noise(fake, draws=draws, on="fakes")
    logits_real = gan.discriminate(noisy_real, draws=draws, dropout="dropout_real")
    logits_fake = gan.discriminate(noisy_fake, draws=draws, dropout="dropout_fake")

    loss_d = gan.discriminator_loss(logits_real, logits_fake)
    loss_g = gan.loss.generator(logits_fake)
    gan.discriminator.backward(loss_d, retain_graph=True)
    gan.generator.backward(loss_g)
    gan.discriminator.step()
    gan.generator.step()
    return StepResult(_scalars(loss_d, loss_g, logits_real, logits_fake), noisy_fake.detach(), draws)


def alternating_step(gan: Gan, real: Tensor, *, draws: StepDraws) -> StepResult:
    """D's update, then G's against the new D, whose parameters enter as constants.

    G's update reuses the fakes that D saw, or draws new noise when the config says ``fresh_z``. Arguments as in
    ``simultaneous_step``.
    """
    fresh = gan.config.optim.fresh_z
    with torch.set_grad_enabled(not fresh):
        fake = gan.generate(gan.latent(draws, "z"), draws=draws)

    # the discriminator's update
    noisy_real = gan.add_instance_noise(real, draws=draws, on="reals")
    noisy_fake = gan.add_instance_noise(fake.detach(), draws=draws, on="fakes")
    logits_real = gan.discriminate(noisy_real, draws=draws, dropout="dropout_real")
    logits_fake = gan.discriminate(noisy_fake, draws=draws, dropout="dropout_fake")
    loss_d = gan.discriminator_loss(logits_real, logits_fake)
    gan.discriminator.backward(loss_d)
    gan.discriminator.step()

    # the generator's update
    if fresh:
        fake = gan.generate(gan.latent(draws, "z_generator"), draws=draws, dropout="dropout_generator_fresh")
    loss_g = gan.loss.generator(gan.judge(gan.add_instance_noise(fake, draws=draws, on="fakes"), draws=draws))
    gan.generator.backward(loss_g)
    gan.generator.step()
    return StepResult(_scalars(loss_d, loss_g, logits_real, logits_fake), noisy_fake, draws)


STEPS = {"simultaneous": simultaneous_step, "alternating": alternating_step}


def _scalars(loss_d: Tensor, loss_g: Tensor, logits_real: Tensor, logits_fake: Tensor) -> dict[str, Tensor]:
    """Means over this process's rows. D's scores are those of its own update."""
    return {
        "loss/d": loss_d.detach(),
        "loss/g": loss_g.detach(),
        "score/real": logits_real.detach().sigmoid().mean(),
        "score/fake": logits_fake.detach().sigmoid().mean(),
    }
