import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from dcgan_dist.config import NetworkConfig
from dcgan_dist.distributed.draws import Dropout, key_dropout
from dcgan_dist.models import MODELS, build_networks
from dcgan_dist.models.layers import AppendBatchDeviation
from tests import tiny

DCGAN64 = NetworkConfig()
ARCH1 = NetworkConfig(model="flowers_arch1", image_size=32, base_channels=24, batch_deviation=1.0)
ARCH2 = NetworkConfig(model="flowers_arch2", image_size=28, base_channels=32, value_range=(0, 1))
ARCH2_GRAY = replace(ARCH2, channels=1)
MNIST28 = NetworkConfig(model="mnist28", image_size=28, channels=1)
POOLED_28 = NetworkConfig(model="pooled", image_size=28, channels=1)
POOLED_32 = NetworkConfig(model="pooled", image_size=32)

# pooled, by hand. G at 28: dense 100 * 2304 and its batch norm 4 * 2304; 256 * 128 * 16 and 4 * 128; 128 * 64 * 16 and
# 4 * 64; 64 * 16 + 1. D at 28: 640 + 256; 73,856 + 512; 295,168 + 1,024; 2,304 + 1. At 32 the dense layers have 4,096
# features, and the three colours are 2 * 64 * 16 + 2 more in G's last and 2 * 64 * 9 more in D's first layer.
COUNTS = {
    "dcgan64": (DCGAN64, 3_576_704, 2_765_568),  # parameters alone; the others with running statistics
    "arch1": (ARCH1, 697_227, 396_077),
    "arch2": (ARCH2, 2_395_843, 4_314_753),
    "arch2-gray": (ARCH2_GRAY, 2_394_241, 4_311_553),
    "mnist28": (MNIST28, 2_330_944, 212_865),
    "pooled-28": (POOLED_28, 896_769, 373_761),
    "pooled-32": (POOLED_32, 1_085_187, 376_705),
}
each_config = pytest.mark.parametrize("config", [row[0] for row in COUNTS.values()], ids=COUNTS.keys())


def count(network: nn.Module, *, statistics: bool) -> int:
    tensors: list[torch.Tensor] = list(network.parameters())
    if statistics:
        tensors += [buffer for name, buffer in network.named_buffers() if "running" in name]
    return sum(tensor.numel() for tensor in tensors)


def uniform(*shape: int) -> torch.Tensor:
    """Numbers in [-1, 1), always the same."""
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1


def test_every_model_is_tested():
    assert {config.model for config, _, _ in COUNTS.values()} == set(MODELS)


@pytest.mark.parametrize(("config", "generator_count", "discriminator_count"), COUNTS.values(), ids=COUNTS.keys())
def test_parameter_counts(config, generator_count, discriminator_count):
    generator, discriminator = build_networks(config, seed=0)
    statistics = config.model != "dcgan64"
    assert count(generator, statistics=statistics) == generator_count
    assert count(discriminator, statistics=statistics) == discriminator_count


@each_config
@pytest.mark.parametrize("training", [True, False])
def test_shapes_and_value_range(config, training):
    config = replace(config, latent_dim=7, base_channels=8, dropout=0.0)
    generator, discriminator = (network.train(training) for network in build_networks(config, seed=0))
    z = uniform(3, 7)
    with torch.no_grad():
        for parameter in generator.get_submodule("head").parameters():
            parameter.mul_(1e6)  # the extremes of the output, not its middle
        images = generator(z)
        logits = discriminator(images)
    assert images.shape == (3, config.channels, config.image_size, config.image_size)
    low = 0 if config.model == "flowers_arch2" else -1
    assert images.min() >= low
    assert images.max() <= 1
    assert images.min() < low + 0.1
    assert images.max() > 0.9
    assert logits.shape == (3,)
    assert logits.isfinite().all()


@each_config
def test_settings_reach_the_layers(config):
    dropout = 0.25 if MODELS[config.model].dropout else 0.0
    config = replace(config, base_channels=4, generator_slope=0.125, batch_norm_momentum=0.375, dropout=dropout)
    generator, discriminator = build_networks(config, seed=0)
    layers = [*generator.modules(), *discriminator.modules()]
    assert {layer.momentum for layer in layers if isinstance(layer, nn.BatchNorm2d)} == {0.375}
    assert {layer.probability for layer in layers if isinstance(layer, Dropout)} == ({dropout} if dropout else set())
    assert {layer.negative_slope for layer in generator.modules() if isinstance(layer, nn.LeakyReLU)} == {0.125}


@each_config
def test_weights_depend_on_the_seed_alone(config):
    config = replace(config, base_channels=4)
    states = []
    for torch_seed, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(torch_seed)
        state_before = torch.get_rng_state()
        networks = build_networks(config, seed=seed)
        assert torch.equal(torch.get_rng_state(), state_before)
        states.append([parameter for network in networks for parameter in network.parameters()])
    first, same, other = states
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    drawn = [(a, b) for a, b in zip(first, other, strict=True) if a.ndim > 1]
    assert all(not torch.equal(a, b) for a, b in drawn)
    assert all(parameter.dtype == torch.float32 for parameter in first)


def test_discriminator_weights_do_not_depend_on_the_generator():
    _, discriminator = build_networks(ARCH1, seed=0)
    _, other = build_networks(replace(ARCH1, latent_dim=64), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(discriminator.parameters(), other.parameters(), strict=True))


def test_generator_and_discriminator_draw_different_numbers():
    first, second = (next(network.parameters()).flatten()[:16] for network in build_networks(DCGAN64, seed=0))
    assert not torch.allclose(first, second)


def test_largest_seed_is_accepted():
    build_networks(replace(MNIST28, base_channels=1), seed=2**63 - 1)


@pytest.mark.parametrize(("config", "limit"), [(DCGAN64, None), (MNIST28, math.sqrt(6 / (25 * (1 + 64))))])
def test_each_model_has_its_initial_weights(config, limit):
    _, discriminator = build_networks(config, seed=0)
    first = next(discriminator.parameters())
    if limit is None:
        assert first.std().item() == pytest.approx(0.02, rel=0.1)
    else:
        assert 0.98 * limit < first.abs().max().item() <= limit


def assert_same_function(network: nn.Module, written_out: nn.Module, inputs: torch.Tensor) -> None:
    """In training mode, the weights of ``network`` put into ``written_out`` in their order."""
    written_out.load_state_dict(dict(zip(written_out.state_dict(), network.state_dict().values(), strict=True)))
    with torch.no_grad():
        torch.testing.assert_close(network(inputs), written_out(inputs))


def test_dcgan64_written_out():
    generator, discriminator = build_networks(replace(DCGAN64, base_channels=4), seed=0)
    up, down = partial(nn.ConvTranspose2d, kernel_size=4, bias=False), partial(nn.Conv2d, kernel_size=4, bias=False)
    double, half = partial(up, stride=2, padding=1), partial(down, stride=2, padding=1)
    generator_layers = nn.Sequential(
        *(nn.Unflatten(1, (100, 1, 1)), up(100, 32), nn.BatchNorm2d(32), nn.ReLU()),
        *(double(32, 16), nn.BatchNorm2d(16), nn.ReLU()),
        *(double(16, 8), nn.BatchNorm2d(8), nn.ReLU()),
        *(double(8, 4), nn.BatchNorm2d(4), nn.ReLU()),
        *(double(4, 3), nn.Tanh()),
    )
    discriminator_layers = nn.Sequential(
        *(half(3, 4), nn.LeakyReLU(0.2)),
        *(half(4, 8), nn.BatchNorm2d(8), nn.LeakyReLU(0.2)),
        *(half(8, 16), nn.BatchNorm2d(16), nn.LeakyReLU(0.2)),
        *(half(16, 32), nn.BatchNorm2d(32), nn.LeakyReLU(0.2)),
        *(down(32, 1), nn.Flatten(0)),
    )
    assert_same_function(generator, generator_layers, uniform(5, 100))
    assert_same_function(discriminator, discriminator_layers, uniform(5, 3, 64, 64))


@pytest.mark.parametrize(("config", "small"), [(POOLED_28, 3), (POOLED_32, 4)])
def test_pooled_written_out(config, small):
    generator, discriminator = build_networks(replace(config, base_channels=4), seed=0)
    batch_norm = partial(nn.BatchNorm2d, eps=1e-3)
    features, odd = 16 * small * small, 4 - small
    generator_layers = nn.Sequential(
        *(nn.Linear(100, features, bias=False), nn.BatchNorm1d(features, eps=1e-3), nn.ReLU()),
        nn.Unflatten(1, (16, small, small)),
        *(nn.ConvTranspose2d(16, 8, 4, 2, 1, odd, bias=False), batch_norm(8), nn.ReLU()),
        *(nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False), batch_norm(4), nn.ReLU()),
        *(nn.ConvTranspose2d(4, config.channels, 4, 2, 1), nn.Tanh()),
    )
    discriminator_layers = nn.Sequential(
        *(nn.Conv2d(config.channels, 4, 3, padding=1), nn.LeakyReLU(0.2), nn.AvgPool2d(2), batch_norm(4)),
        *(nn.Conv2d(4, 8, 3, padding=1), nn.LeakyReLU(0.2), nn.AvgPool2d(2), batch_norm(8)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.LeakyReLU(0.2), nn.AvgPool2d(2), batch_norm(16)),
        *(nn.Flatten(), nn.Linear(features, 1), nn.Flatten(0)),
    )
    assert_same_function(generator, generator_layers, uniform(5, 100))
    images = uniform(5, config.channels, config.image_size, config.image_size)
    assert_same_function(discriminator, discriminator_layers, images)


def test_unknown_model_gets_a_suggestion():
    with pytest.raises(
        ValueError, match=r"model must be one of dcgan64, .*, got flower_arch1; did you mean flowers_ar"
    ):
        build_networks(NetworkConfig(model="flower_arch1"), seed=0)
    with pytest.raises(ValueError, match=r"got xyz$"):
        build_networks(NetworkConfig(model="xyz"), seed=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(DCGAN64, image_size=32), "image_size must be 64 for model dcgan64, got 32"),
        (replace(POOLED_28, image_size=64), "image_size must be 28 or 32 for model pooled, got 64"),
        (replace(DCGAN64, dropout=0.4), "dropout must be 0 for model dcgan64, .* got 0.4"),
        (replace(ARCH2, value_range=(-1.0, 1.0)), "value_range must lie in 0 to 1 for model flowers_arch2, got -1 1"),
        (replace(ARCH1, value_range=(-0.5, 1.5)), "value_range must lie in -1 to 1 for model flowers_arch1, got -0.5"),
        (replace(ARCH1, upsampling="strided"), "upsampling must be nearest for model flowers_arch1, .* got strided"),
        (replace(DCGAN64, batch_deviation=1.0), "batch_deviation must be 0 for model dcgan64, .* got 1.0"),
    ],
)
def test_settings_a_model_cannot_honour_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        build_networks(config, seed=0)


def test_batch_deviation_by_hand():
    features = torch.tensor([[1.0, 10.0], [3.0, 20.0]]).view(2, 2, 1, 1)  # means 2 and 15: distances 1 and 5
    for weight in (0.0, 1.0, 2.0):
        found = AppendBatchDeviation(weight)(features)
        assert torch.equal(found[:, :2], features)
        assert found[:, 2].flatten().tolist() == [3 * weight, 3 * weight]


def test_batch_deviation_can_be_turned_off_in_the_same_shapes():
    config = replace(ARCH1, batch_deviation=0.0)
    (_, without), (_, with_deviation) = (build_networks(each, seed=0) for each in (config, ARCH1))
    without.load_state_dict(with_deviation.state_dict())
    images = uniform(4, 3, 32, 32)
    alone = torch.cat([without.eval()(image[None]) for image in images])
    torch.testing.assert_close(without(images), alone)  # nothing of the batch is left in evaluation mode
    assert not torch.allclose(with_deviation.eval()(images), alone)


def test_architecture_2_with_batch_deviation_compares_the_images_of_a_batch():
    _, plain = build_networks(ARCH2, seed=0)
    _, network = build_networks(replace(ARCH2, batch_deviation=1.0), seed=0)
    inputs = [layer.in_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert inputs == [3, 65, 129, 257]
    assert network.state_dict()["head.weight"].shape == (1, (512 + 1) * 4 * 4)
    images = uniform(4, 3, 28, 28)
    for discriminator, differs in ((plain, False), (network, True)):
        alone = torch.cat([discriminator.eval()(image[None]) for image in images])
        assert torch.allclose(discriminator(images), alone, atol=1e-5) != differs


def test_architecture_2_can_double_its_maps_by_strides():
    nearest, strided = (
        build_networks(replace(ARCH2, upsampling=way), seed=0)[0].eval() for way in ("nearest", "strided")
    )
    strides = [layer.stride[0] for layer in strided.modules() if isinstance(layer, nn.ConvTranspose2d)]
    assert strides == [2, 2, 1, 1]  # the last is the output layer
    shapes = [sorted(tuple(weight.shape) for weight in network.parameters()) for network in (nearest, strided)]
    assert shapes[0] == shapes[1]
    z = uniform(2, 100)
    assert strided(z).shape == nearest(z).shape == (2, 3, 28, 28)
    assert not torch.allclose(strided(z), nearest(z))


def test_dropout_drops_in_training_and_not_in_evaluation():
    images = uniform(4, 3, 32, 32)
    (_, plain), (_, dropping) = (build_networks(replace(ARCH1, dropout=p), seed=0) for p in (0.0, 0.4))
    layers = [layer for layer in dropping.modules() if isinstance(layer, Dropout)]
    assert len(layers) == 4  # after each activation
    key_dropout(layers, tiny.step_draws(tiny.narrow("flowers17-arch1", batch_size=4), 0), "dropout_real")
    assert not torch.allclose(dropping(images), plain(images))
    plain, dropping = plain.eval(), dropping.eval()
    dropping.load_state_dict(plain.state_dict())
    torch.testing.assert_close(dropping(images), plain(images))
