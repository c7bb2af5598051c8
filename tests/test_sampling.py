"""Samples by number: the same bytes in any company, with any threads, on any number of ranks."""

import functools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.draws import sample_latent
from dcgan_dist.models import build_networks
from dcgan_dist.sampling import sample_pixels
from tests import tiny
from tests.distributed.ranks import run_ranks

NETWORK = tiny.narrow("mnist28", base_channels=8, latent_dim=100).network


def generator(*, training: bool = True) -> torch.nn.Module:
    """One whose running statistics are not those of a fresh network."""
    network, _ = build_networks(NETWORK, seed=1)
    random = torch.Generator().manual_seed(2)
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(0.1 + 0.4 * torch.rand(buffer.shape, generator=random))
    return network.train(training)


def samples(indices: range | list[int], *, seed: int = 3) -> NDArray[np.uint8]:
    return sample_pixels(generator(), indices, seed=seed, network=NETWORK)


@functools.cache
def whole() -> NDArray[np.uint8]:
    return samples(range(40))


def test_samples_are_pixels() -> None:
    pixels = whole()
    assert pixels.dtype == np.uint8
    assert pixels.shape == (40, 28, 28, 1)
    assert len({image.tobytes() for image in pixels}) == 40
    assert np.ptp(pixels) > 20


@pytest.mark.parametrize("count", [1, 16, 17])
def test_a_sample_does_not_depend_on_how_many_are_made(count: int) -> None:
    np.testing.assert_array_equal(samples(range(count)), whole()[:count])


def test_a_sample_does_not_depend_on_its_company() -> None:
    chosen = [39, 3, 3, 0, 17]
    np.testing.assert_array_equal(samples(chosen), whole()[chosen])


def test_other_seeds_give_other_samples() -> None:
    assert not np.array_equal(samples(range(4), seed=4), whole()[:4])


def test_a_sample_does_not_depend_on_the_number_of_threads() -> None:
    torch.set_num_threads(2)
    try:
        np.testing.assert_array_equal(samples(range(17)), whole()[:17])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("count", [1, 16, 17, 40])
def test_every_chunk_is_computed_alike(count: int) -> None:
    """Pixels round away most last bits; these are the two things that change them."""
    network, seen = generator(), []
    network.register_forward_pre_hook(lambda _, given: seen.append((len(given[0]), torch.get_num_threads())))
    torch.set_num_threads(2)
    try:
        sample_pixels(network, range(count), seed=3, network=NETWORK)
    finally:
        torch.set_num_threads(1)
    assert seen == [(16, 1)] * -(-count // 16)


def on_rank(world_size: int) -> list[NDArray[np.uint8]]:
    assert collectives.world_size() == world_size
    return [samples(range(count)) for count in (1, 16, 17, 40)]


@pytest.mark.parametrize("world_size", [2, 4])
def test_all_ranks_get_the_samples_of_one_process(world_size: int) -> None:
    for rank in run_ranks(on_rank, world_size, world_size):
        for pixels in rank:
            np.testing.assert_array_equal(pixels, whole()[: len(pixels)])


def test_samples_are_the_generator_in_evaluation_mode() -> None:
    network = generator(training=False)
    z = sample_latent(3, range(16), latent_dim=100, prior="normal")
    with torch.no_grad():
        images = network(z).double().permute(0, 2, 3, 1).numpy()
    # [-1, 1] to 0 ... 255
    np.testing.assert_array_equal(whole()[:16], np.rint((images + 1) * 127.5).astype(np.uint8))


@pytest.mark.parametrize("training", [True, False])
def test_sampling_changes_nothing_in_the_generator(training: bool) -> None:
    network = generator(training=training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    sample_pixels(network, range(17), seed=3, network=NETWORK)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert not value.is_inference()
    assert all(module.training == training for module in network.modules())


def test_sampling_does_not_change_the_run() -> None:
    config = tiny.narrow("flowers17-arch2", base_channels=2)
    one, other = (tiny.training(config, tiny.runtime()) for _ in range(2))
    for _ in range(2):
        one.update()
        other.update()
        sample_pixels(other.gan.sampled, range(5), seed=0, network=config.network)
    expected = tiny.tensors(one.gan)
    for name, value in tiny.tensors(other.gan).items():
        assert torch.equal(value, expected[name]), name
