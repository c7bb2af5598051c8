"""Random numbers by (seed, stream, step, row): known answers, rows of a rank, distributions, dropout."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from dcgan_dist.distributed.draws import STREAMS, Dropout, StepDraws, key_dropout, run_key, sample_latent


def draws(
    *, seed: int = 7, step: int = 3, batch_size: int = 4, rows: tuple[int, int] | None = None, dtype=torch.float32
) -> StepDraws:
    start, stop = rows or (0, batch_size)
    key = run_key(seed, torch.device("cpu"))
    return StepDraws(key=key, step=step, batch_size=batch_size, start=start, stop=stop, dtype=dtype)


def dropped(features: Tensor, given: StepDraws, *, probability: float = 0.4, layers: int = 1) -> list[Tensor]:
    dropouts = [Dropout(probability) for _ in range(layers)]
    key_dropout(dropouts, given, "dropout_real")
    return [layer(features) for layer in dropouts]


ALL = {
    "normal z": lambda given: given.latent("z", 5, prior="normal"),
    "uniform z": lambda given: given.latent("z_generator", 5, prior="uniform"),
    "noise": lambda given: given.gaussian("instance_noise", (3, 4, 4)),
    "coins": lambda given: given.coins("flip"),
    "dropout": lambda given: torch.stack(
        dropped(torch.ones(given.stop - given.start, 6, 5, 5), given, layers=2),
        dim=1,
    ),
}


# Known answers: whoever has to change one of these numbers changes every run that was ever made. They were written
# down with torch 2.14.1 on x86-64; keys and uniforms are whole numbers inside, normals may differ in the last bit.


def test_known_keys():
    assert draws().keys("z").tolist() == [
        [14961826617619256474, 9413989029469407978],
        [120948394725422982, 3952802453327786246],
        [768913793643849794, 16706455857396492839],
        [17863580468745746356, 5819615161023409592],
    ]


def test_known_normal_numbers():
    z = [[-0.42821625, 2.5427840, -0.90844363], [0.59794563, -1.7820877, -0.34836799]]
    torch.testing.assert_close(draws(rows=(0, 2)).latent("z", 3, prior="normal"), torch.tensor(z), rtol=1e-6, atol=1e-7)
    noise = [[[0.78834653, 1.2727889]], [[0.44000652, 1.6095083]]]
    found = draws(rows=(2, 4)).gaussian("instance_noise", (1, 2))
    torch.testing.assert_close(found, torch.tensor(noise), rtol=1e-6, atol=1e-7)
    large = [[0.32567436, -1.0395361], [0.88537425, 1.9130390]]
    found = draws(seed=2**62 + 1, step=2**31 + 5, batch_size=2).latent("z", 2, prior="normal")
    torch.testing.assert_close(found, torch.tensor(large), rtol=1e-6, atol=1e-7)


def test_known_uniform_numbers():
    assert draws(rows=(0, 1)).latent("z", 3, prior="uniform").tolist() == [
        [-0.5739626884460449, 0.5952646732330322, -0.09257161617279053]
    ]


def test_known_coins():
    assert draws(batch_size=16).coins("flip").int().tolist() == [1, 1, 0, 1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_known_sample_noise():
    normal = [[1.0045614, 0.42829290, 0.44847298], [-0.50283217, -0.22689876, -0.16040626]]
    found = sample_latent(7, [0, 5], latent_dim=3, prior="normal")
    torch.testing.assert_close(found, torch.tensor(normal), rtol=1e-6, atol=1e-7)
    assert sample_latent(7, [5], latent_dim=3, prior="uniform").tolist() == [
        [0.7309297323226929, -0.4586758613586426, 0.7577289342880249]
    ]


def test_known_dropout_masks():
    first, second = dropped(torch.ones(4, 6), draws(), layers=2)
    assert first.ne(0).int().tolist()[:2] == [[0, 1, 0, 1, 1, 0], [0, 1, 0, 0, 1, 0]]
    assert second.ne(0).int().tolist()[:2] == [[0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 0, 0]]


def test_streams_keep_their_numbers():
    assert list(STREAMS.items())[:10] == [
        ("z", 0),
        ("z_generator", 1),
        ("instance_noise", 2),
        ("flip", 3),
        ("sample", 4),
        ("dropout_generator", 5),
        ("dropout_generator_fresh", 6),
        ("dropout_real", 7),
        ("dropout_fake", 8),
        ("dropout_judge", 9),
    ]
    assert len(set(STREAMS.values())) == len(STREAMS)


# Ranks


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("name", ALL)
def test_rows_of_a_rank_are_rows_of_the_whole(name: str, world_size: int):
    whole = ALL[name](draws(batch_size=8))
    assert len(whole) == 8
    for rank in range(world_size):
        start, stop = rank * 8 // world_size, (rank + 1) * 8 // world_size
        part = ALL[name](draws(batch_size=8, rows=(start, stop)))
        torch.testing.assert_close(part, whole[start:stop], rtol=0, atol=0)


def test_a_sample_is_the_same_in_any_company():
    whole = sample_latent(3, range(40), latent_dim=5, prior="normal")
    assert torch.equal(sample_latent(3, [17, 2, 17], latent_dim=5, prior="normal"), whole[[17, 2, 17]])


# Independence


@pytest.mark.parametrize("name", ALL)
def test_other_seeds_and_steps_draw_other_numbers(name: str):
    given = draws(batch_size=64)
    others = [
        draws(seed=seed, step=step, batch_size=64)
        for seed, step in ((8, 3), (7 + 2**32, 3), (7, 4), (7, 3 + 2**32), (3, 7))
    ]
    for one, other in itertools.combinations([ALL[name](d) for d in (given, *others)], 2):
        assert not torch.equal(one, other)


def test_other_streams_and_rows_draw_other_numbers():
    given = draws(batch_size=16)
    rows = torch.cat([given.latent(stream, 4, prior="normal") for stream in STREAMS])
    samples = sample_latent(7, range(16), latent_dim=4, prior="normal")
    assert len(torch.unique(torch.cat([rows, samples]), dim=0)) == 16 * len(STREAMS) + 16


# Distributions. Tolerances are four standard deviations of the estimate over n numbers.


def test_moments_of_normal_numbers():
    x = draws(batch_size=200).gaussian("instance_noise", (500,)).double()
    n = 100_000
    assert x.shape == (200, 500)
    assert x.mean().item() == pytest.approx(0, abs=4 / math.sqrt(n))
    assert x.var().item() == pytest.approx(1, abs=4 * math.sqrt(2 / n))
    assert (x**4).mean().item() == pytest.approx(3, abs=4 * math.sqrt(96 / n))  # var x^4 = 105 - 9
    # no row and no column follows another
    correlation = (x[:, 1:] * x[:, :-1]).mean().item(), (x[1:] * x[:-1]).mean().item()
    assert correlation == pytest.approx((0, 0), abs=4 / math.sqrt(99_000))


def test_moments_of_uniform_numbers():
    x = draws(batch_size=200).latent("z", 500, prior="uniform").double()
    n = 100_000
    assert x.min() >= -1
    assert x.max() < 1
    assert x.mean().item() == pytest.approx(0, abs=4 * math.sqrt(1 / 3 / n))
    assert x.var().item() == pytest.approx(1 / 3, abs=4 * math.sqrt(4 / 45 / n))  # var x^2 = 1/5 - 1/9


def test_coins_are_fair():
    heads = sum(int(draws(step=step, batch_size=100).coins("flip").sum()) for step in range(100))
    assert heads == pytest.approx(5000, abs=4 * 50)  # n p = 10,000 / 2; deviation sqrt(10,000 / 4)


def test_float64_holds_the_float32_numbers():
    narrow, wide = draws(), draws(dtype=torch.float64)
    for prior in ("normal", "uniform"):
        assert wide.latent("z", 9, prior=prior).dtype == torch.float64
        assert torch.equal(wide.latent("z", 9, prior=prior), narrow.latent("z", 9, prior=prior).double())
    assert torch.equal(wide.gaussian("instance_noise", (3, 2)), narrow.gaussian("instance_noise", (3, 2)).double())


# Dropout


@pytest.mark.parametrize("probability", [0.1, 0.4, 0.9])
def test_dropout_keeps_its_share_and_the_mean(probability: float):
    (kept,) = dropped(torch.full((100, 10, 10, 10), 3.0), draws(batch_size=100), probability=probability)
    share = kept.ne(0).float().mean().item()
    assert share == pytest.approx(1 - probability, abs=4 * math.sqrt(probability * (1 - probability) / 100_000))
    values = kept[kept != 0]
    torch.testing.assert_close(values, torch.full_like(values, 3 / (1 - probability)), rtol=1e-6, atol=0)


def test_dropout_gradient_has_the_mask_of_the_forward_pass():
    features = torch.ones(4, 50, dtype=torch.float64, requires_grad=True)
    (kept,) = dropped(features, draws())
    kept.sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad, kept.detach())


def test_dropout_is_the_identity_in_evaluation_mode_and_with_probability_0():
    features = torch.randn(4, 6)
    assert Dropout(0.4).eval()(features) is features  # and needs no keys
    assert Dropout(0.0).train()(features) is features


def test_dropout_does_not_depend_on_the_layout():
    features = torch.randn(4, 3, 5, 5)
    (one,), (other,) = dropped(features, draws()), dropped(features.to(memory_format=torch.channels_last), draws())
    assert torch.equal(one, other)


def test_dropout_without_keys_is_our_own_mistake():
    with pytest.raises(AssertionError, match="key_dropout"):
        Dropout(0.4).train()(torch.ones(2, 2))


def test_nothing_touches_torchs_global_generator():
    before = torch.random.get_rng_state()
    for function in ALL.values():
        function(draws())
    sample_latent(1, [0], latent_dim=2, prior="normal")
    assert torch.equal(torch.random.get_rng_state(), before)
