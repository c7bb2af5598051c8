import pytest
import torch
from torch import nn

from dcgan_dist.config import NetworkConfig
from dcgan_dist.models.layers import (
    CoveringConv2d,
    CoveringConvTranspose2d,
    DenseStem,
    SameConv2d,
    SameConvTranspose2d,
    UpsampledConvTranspose2d,
    activation,
    dcgan_initialise,
    keras_initialise,
    same_padding,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "expected"),
    [
        (28, 5, 2, (1, 2)),
        (14, 5, 2, (1, 2)),
        (7, 5, 2, (2, 2)),
        (7, 5, 1, (2, 2)),
        (32, 4, 2, (1, 1)),
        (8, 4, 1, (1, 2)),
        (5, 1, 2, (0, 0)),
    ],
)
def test_padding_is_keras_same(size, kernel_size, stride, expected):
    assert same_padding(size, kernel_size, stride=stride) == expected


def test_convolution_windows_start_one_pixel_before_the_image():
    layer = SameConv2d(1, 1, kernel_size=5, stride=2)
    keras_initialise(layer, seeded())  # bias 0
    with torch.no_grad():
        layer.weight.copy_(torch.arange(25.0).view(1, 1, 5, 5))
    impulse = torch.zeros(1, 1, 28, 28)
    impulse[0, 0, 0, 0] = 1
    found = layer(impulse)
    assert found.shape == (1, 1, 14, 14)
    assert found[0, 0, 0, 0] == 6  # row 1, column 1 of the kernel meets pixel (0, 0)
    assert found.count_nonzero() == 1  # the next window starts at pixel 1


@pytest.mark.parametrize(
    ("kernel_size", "stride", "cropped_before"),
    [(4, 1, 1), (5, 1, 2), (5, 2, 1), (4, 2, 1)],
)
def test_transposed_convolution_crops_the_smaller_half_first(kernel_size, stride, cropped_before):
    layer = SameConvTranspose2d(2, 3, kernel_size=kernel_size, stride=stride)
    full = nn.ConvTranspose2d(2, 3, kernel_size, stride=stride)
    full.load_state_dict(layer.state_dict())
    features = torch.randn(2, 2, 7, 7, generator=seeded())
    found = layer(features)
    kept = slice(cropped_before, cropped_before + 7 * stride)
    torch.testing.assert_close(found, full(features)[:, :, kept, kept])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_upsampled_convolution_is_the_convolution_of_the_larger_map(memory_format):
    layer = UpsampledConvTranspose2d(3, 4).double().to(memory_format=memory_format)
    features = torch.randn(2, 3, 7, 6, generator=seeded(), dtype=torch.float64).to(memory_format=memory_format)
    features.requires_grad_()
    upstream = torch.randn(2, 4, 14, 12, generator=seeded(), dtype=torch.float64)
    larger = nn.functional.interpolate(features, scale_factor=2)
    expected = nn.functional.conv_transpose2d(larger, layer.weight, layer.bias, padding=2)
    found = layer(features)
    inputs = [features, *layer.parameters()]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(expected, inputs, upstream)
    )


def test_upsampled_convolution_adds_its_weights_up_in_float32_under_autocast():
    layer = UpsampledConvTranspose2d(1, 1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weight[0, 0, 0, 0] = 1 + 2**-8  # bfloat16 would make it 1
        layer.weight[0, 0, 1, 0] = 2**-8
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(torch.ones(1, 1, 3, 3))
    assert found[0, 0, 3, 3] == 1 + 2**-7  # both meet the same pixel


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_covering_convolutions_are_convolutions(memory_format, bias):
    down = CoveringConv2d(3, 5, 4, bias=bias).double().to(memory_format=memory_format)
    up = CoveringConvTranspose2d(3, 5, 4, bias=bias).double().to(memory_format=memory_format)
    maps = torch.randn(2, 3, 4, 4, generator=seeded(), dtype=torch.float64).to(memory_format=memory_format)
    torch.testing.assert_close(down(maps), nn.functional.conv2d(maps, down.weight, down.bias))
    pixel = maps[:, :, :1, :1]
    torch.testing.assert_close(up(pixel), nn.functional.conv_transpose2d(pixel, up.weight, up.bias))
    assert down(maps).shape == (2, 5, 1, 1)
    assert up(pixel).shape == (2, 5, 4, 4)


def test_slope_zero_is_relu():
    assert isinstance(activation(0.0), nn.ReLU)
    assert activation(0.25)(torch.tensor(-2.0)) == -0.5


def test_dense_stem_normalises_each_feature_of_each_position():
    config = NetworkConfig(latent_dim=4, generator_slope=1.0)  # slope 1: the activation changes nothing
    stem = DenseStem(config, 2, size=3, epsilon=1e-6, bias=True)
    features = stem(torch.randn(64, 4, generator=seeded()))
    assert features.shape == (64, 2, 3, 3)
    torch.testing.assert_close(features.mean(0), torch.zeros(2, 3, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(features.var(0, correction=0), torch.ones(2, 3, 3), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("layer", "fans"),
    [
        (nn.Conv2d(30, 50, 4), (30 + 50) * 16),
        (nn.ConvTranspose2d(50, 30, 5), (30 + 50) * 25),
        (nn.Linear(100, 300), 400),
    ],
)
def test_keras_weights_are_glorot_uniform(layer, fans):
    keras_initialise(layer, seeded())
    limit = (6 / fans) ** 0.5
    assert 0.99 * limit < layer.weight.abs().max() <= limit
    assert layer.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.02)
    assert abs(layer.weight.mean().item()) < 0.02 * limit
    assert layer.bias.count_nonzero() == 0


def test_dcgan_weights_are_normal():
    config = NetworkConfig(latent_dim=100)
    stem = DenseStem(config, 64, size=8, epsilon=1e-5, bias=True)
    dcgan_initialise(stem, seeded())
    for layer, mean in ((stem.dense, 0.0), (stem.batch_norm, 1.0)):
        assert layer.weight.mean().item() == pytest.approx(mean, abs=1e-3)
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert layer.bias.count_nonzero() == 0
