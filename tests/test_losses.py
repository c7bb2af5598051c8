import math

import pytest
import torch
import torch.nn.functional as F

from dcgan_dist.losses import LOSSES

BCE = LOSSES["bce"]
LN3 = math.log(3)  # sigmoid(ln 3) = 3/4


def test_losses_by_hand():
    logits_real, logits_fake = torch.tensor([0.0, LN3]), torch.tensor([LN3, 0.0])
    # fakes: -ln(1/4), -ln(1/2); reals called real: -ln(1/2), -ln(3/4); reals called fake: -ln(1/2), -ln(1/4)
    fake = (math.log(4) + math.log(2)) / 2
    real_right = (math.log(2) + math.log(4 / 3)) / 2
    real_wrong = (math.log(2) + math.log(4)) / 2
    plain = BCE.discriminator(logits_real, logits_fake, smooth_fake=0.0, smooth_real=1.0)
    smooth = BCE.discriminator(logits_real, logits_fake, smooth_fake=0.2, smooth_real=0.9)
    assert plain.item() == pytest.approx(fake + real_right, rel=1e-6)
    assert smooth.item() == pytest.approx(fake + 0.2 * real_wrong + 0.9 * real_right, rel=1e-6)
    assert BCE.generator(logits_fake).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, rel=1e-6)


def test_losses_are_torchs_binary_cross_entropy():
    logits_real, logits_fake = 5 * torch.randn(2, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bce = F.binary_cross_entropy_with_logits
    zeros, ones = torch.zeros_like(logits_real), torch.ones_like(logits_real)
    torch.testing.assert_close(
        BCE.discriminator(logits_real, logits_fake, smooth_fake=0.1, smooth_real=0.9),
        bce(logits_fake, zeros) + bce(logits_real, 0.9 * ones),
    )
    torch.testing.assert_close(BCE.generator(logits_fake), bce(logits_fake, ones))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_losses_are_computed_in_float32_or_finer(dtype, expected):
    logits = torch.tensor([-1.5, 9.0]).to(dtype)
    for loss in (
        BCE.discriminator(logits, logits, smooth_fake=0.1, smooth_real=0.9),
        BCE.generator(logits),
    ):
        assert loss.dtype == expected
    # softplus(-9) = 0.0001234 is lost beside softplus(1.5) = 1.701 in 16 bits
    exact = (math.log1p(math.exp(1.5)) + math.log1p(math.exp(-9.0))) / 2
    assert BCE.generator(logits).item() == pytest.approx(exact, rel=2e-6)


def test_large_logits_do_not_overflow():
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = BCE.discriminator(logits, logits, smooth_fake=0.1, smooth_real=0.9) + BCE.generator(logits)
    loss.backward()
    # fakes 5000, reals called fake 0.1 * 5000, reals called real 0.9 * 5000, generator 5000
    assert loss.item() == pytest.approx(15000)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
