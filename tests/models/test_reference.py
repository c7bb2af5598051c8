"""Our networks against numbers of the originals, made in the authors' own framework (shared/reference/README.md)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcgan_dist.config import TrainConfig
from dcgan_dist.distributed.batch_norm import BatchNorm2d
from dcgan_dist.losses import LOSSES
from dcgan_dist.models import build_networks
from tests.shared import SHARED, needs_shared, recipe

Found = Tensor | NDArray[Any]

REFERENCES = {  # file: the recipe that must build the same networks, channels of what D's dense layer flattens
    "flowers_arch1": ("flowers17-arch1", 0),
    "flowers_arch2": ("flowers17-arch2", 512),
    "flowers_arch2_gray": ("flowers17-arch2-gray", 512),
    "mnist28": ("mnist28", 128),
}
STEM = 256 * 7 * 7
"""Features of the generators' dense layers."""


def hashed(k: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The numbers in [-0.5, 0.5) of array ``k``, by the formula of the reference's README."""
    i = np.arange(np.prod(shape), dtype="float64")
    return ((np.sin(i + 1000.0 * k + 1.0) * 43758.5453) % 1.0 - 0.5).reshape(shape)


def channels_first(vector: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """The last axis, which Keras runs over (H, W, C), in torch's order (C, H, W)."""
    *outer, size = vector.shape
    side = round((size // channels) ** 0.5)
    return np.moveaxis(vector.reshape(*outer, side, side, channels), -1, -3).reshape(vector.shape)


def tensors_in_order(network: nn.Module) -> Iterator[tuple[nn.Module, Tensor]]:
    """Each layer's tensors in Keras's order: weight, bias, running mean, running variance."""
    for module in network.modules():
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(module, name, None)
            if isinstance(tensor, Tensor):
                yield module, tensor


def load(network: nn.Module, rows: Iterable[str], *, dense_channels: int) -> None:
    """Fill ``network`` with the arrays that ``rows`` describe; its dense layer makes or takes ``dense_channels``."""
    for (module, tensor), row in zip(tensors_in_order(network), rows, strict=True):
        number, _, name, shape, offset, scale = row.split()
        sizes = tuple(map(int, shape.split("x")))
        values = (float(offset) + float(scale) * hashed(int(number), sizes)).astype("float32")
        if name == "kernel" and values.ndim == 4:
            values = values.transpose(3, 2, 0, 1)
        elif name == "kernel":  # the generator's (latent_dim, STEM) or the discriminator's (features, 1)
            values = (
                channels_first(values, dense_channels).T if STEM in sizes else channels_first(values.T, dense_channels)
            )
        elif STEM in sizes:
            values = channels_first(values, dense_channels)
        assert tensor.shape == values.shape, (module, row)
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(values.copy()))


def largest_error(found: Found, expected: NDArray[np.float64], *, size: NDArray[np.float64] | None = None) -> float:
    """The largest |a - b| in units of what is allowed: 1e-4 of ``size``, which is |b| if not given, plus 1e-5."""
    a = np.asarray(found.detach() if isinstance(found, Tensor) else found, dtype="float64")
    b = np.asarray(expected, dtype="float64")
    assert a.shape == b.shape
    return float(np.max(np.abs(a - b) / (1e-4 * (np.abs(b) if size is None else size) + 1e-5)))


@dataclass
class Case:
    """A reference and our networks with its weights, in training mode."""

    expected: dict[str, NDArray[np.float64]]
    config: TrainConfig
    generator: nn.Module
    discriminator: nn.Module
    z: Tensor
    real: Tensor

    def training_pass(self) -> dict[str, Tensor]:
        """Everything of one training pass, under the reference's names."""
        loss, settings = LOSSES[self.config.losses.loss], self.config.losses
        fake = self.generator(self.z)
        logits_fake, logits_real = self.discriminator(fake), self.discriminator(self.real)
        return {
            "train/generator(z)": fake.permute(0, 2, 3, 1),
            "train/logits_fake": logits_fake[:, None],
            "train/logits_real": logits_real[:, None],
            "train/loss_d": loss.discriminator(
                logits_real, logits_fake, smooth_fake=settings.smooth_fake, smooth_real=settings.smooth_real
            ),
            "train/loss_g": loss.generator(logits_fake),
        }


@pytest.fixture(params=[pytest.param(name, marks=needs_shared(f"reference/{name}.npz")) for name in REFERENCES])
def case(request: pytest.FixtureRequest) -> Case:
    with np.load(SHARED / "reference" / f"{request.param}.npz") as file:
        expected = dict(file)
    recipe_name, dense_channels = REFERENCES[request.param]
    config = recipe(recipe_name)
    network = replace(config.network, dropout=0.0)
    generator, discriminator = build_networks(network, seed=0)
    load(generator, expected["generator/arrays"], dense_channels=256)
    load(discriminator, expected["discriminator/arrays"], dense_channels=dense_channels)
    low, high = network.value_range
    real = low + (high - low) * (hashed(901, (8, network.image_size, network.image_size, network.channels)) + 0.5)
    return Case(
        expected=expected,
        config=config,
        generator=generator,
        discriminator=discriminator,
        z=torch.from_numpy((2 * hashed(900, (8, network.latent_dim))).astype("float32")),
        real=torch.from_numpy(real.astype("float32")).permute(0, 3, 1, 2).contiguous(),
    )


def assert_close(case: Case, found: Mapping[str, Found]) -> None:
    """Each array is the reference's of the same name."""
    errors = {name: largest_error(array, case.expected[name]) for name, array in found.items()}
    assert {name: error for name, error in errors.items() if error > 1} == {}


def test_evaluation_outputs(case):
    with torch.no_grad():
        images, logits = case.generator.eval()(case.z), case.discriminator.eval()(case.real)
    assert_close(case, {"eval/generator(z)": images.permute(0, 2, 3, 1), "eval/discriminator(x)": logits[:, None]})


def test_training_outputs_and_losses(case):
    assert_close(case, case.training_pass())


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_gradients(case, name):
    network = getattr(case, name)
    parameters = [tensor for _, tensor in tensors_in_order(network) if tensor.requires_grad]
    assert len(parameters) == sum(key.startswith(f"train/grad_{name}") for key in case.expected)
    gradients = torch.autograd.grad(case.training_pass()[f"train/loss_{name[0]}"], parameters)
    for number, gradient in enumerate(gradients):
        wide = gradient.double()
        found = torch.stack([wide.norm(), wide.sum(), wide.abs().sum()])
        expected = case.expected[f"train/grad_{name}/{number:02d}"]
        # The sum of a kernel before batch norm nearly cancels, the rest is rounding (flowers_arch2's differ from a
        # float64 run by up to seven tolerances): it is measured against the sum of absolute values.
        assert largest_error(found, expected, size=expected[[0, 2, 2]]) <= 1, (number, found, expected)


def test_running_statistics_after_one_pass(case):
    sizes: list[int] = []  # values a channel, layer by layer

    def note_size(layer: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        sizes.append(inputs[0].numel() // inputs[0].shape[1])

    layers = [layer for layer in case.generator.modules() if isinstance(layer, BatchNorm2d)]
    for layer in layers:
        layer.register_forward_hook(note_size)
    before = [layer.get_buffer("running_var").clone() for layer in layers]
    case.generator(case.z)

    statistics = []
    for layer, variance, n in zip(layers, before, sizes, strict=True):
        kept = (1 - case.config.network.batch_norm_momentum) * variance
        biased = kept + (layer.get_buffer("running_var") - kept) * (n - 1) / n  # Keras's variance
        for values in (layer.get_buffer("running_mean"), biased):
            array = values.numpy()
            statistics.append(array.reshape(256, 7 * 7).T.ravel() if array.size == STEM else array)
    assert_close(case, {"train/moving_after_one_generator_pass": np.concatenate(statistics)})
