"""From shards to batches."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dcgan_dist import shard
from dcgan_dist.config import DataConfig, NetworkConfig
from dcgan_dist.data.loader import Loader, open_loader
from dcgan_dist.data.order import Order
from dcgan_dist.data.shards import read_images, read_index
from tests.data.made import noise, photos

SEED = 4
IMAGES = 40  # 8 x 8 noise, five shards of 8
PIXELS = {noise(seed).tobytes(): seed for seed in range(IMAGES)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("source") / "photos", images=IMAGES)


def convert(source: Path, out: Path, *options: str) -> Path:
    shard.main(["folder", str(source), "--out", str(out), "--size", "8", "--shard_images", "8", *options])
    return out


@pytest.fixture(scope="module")
def colour(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(made, tmp_path_factory.mktemp("shards") / "colour")


@pytest.fixture(scope="module")
def grey(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(made, tmp_path_factory.mktemp("shards") / "grey", "--gray")


def opened(
    path: Path | str,
    *,
    rows: tuple[int, int] = (0, 12),
    channels: int = 3,
    size: int = 8,
    window: int = 2,
    classes: str = "",
    subset_size: int = 0,
    held_out: int = 0,
) -> Loader:
    data = DataConfig(
        data=str(path),
        batch_size=12,
        shuffle_window=window,
        classes=classes,
        subset_size=subset_size,
        held_out=held_out,
    )
    network = NetworkConfig(image_size=size, channels=channels)
    return open_loader(data, network, seed=SEED, rows=rows, device=torch.device("cpu"))


def stored(path: Path, images: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(N, H, W, C): these images, read one by one."""
    return read_images(read_index(path), images.tolist())


def test_a_batch_has_the_images_of_its_step(colour: Path) -> None:
    loader = opened(colour)
    order = Order([8, 8, 8, 8, 8], seed=SEED, shuffle_window=2)
    for step in (0, 1, 3, 7):  # step 3 has the end of one epoch and the begin of the next
        batch = loader.batch(step)
        assert batch.shape == (12, 3, 8, 8)
        assert batch.dtype == torch.uint8
        expected = stored(colour, order.images(step * 12, step * 12 + 12))
        np.testing.assert_array_equal(batch.permute(0, 2, 3, 1).numpy(), expected)


def test_an_epoch_has_every_original_image_once(colour: Path) -> None:
    loader = opened(colour)
    rows = torch.cat([loader.batch(step) for step in range(10)]).permute(0, 2, 3, 1).numpy()
    seeds = [PIXELS[row.tobytes()] for row in rows]  # 120 images: three epochs
    for epoch in range(3):
        assert sorted(seeds[epoch * 40 : epoch * 40 + 40]) == list(range(40))
    assert seeds[:40] != seeds[40:80]


@pytest.mark.parametrize("world_size", [2, 4])
def test_rows_of_ranks_make_up_the_batch(colour: Path, world_size: int) -> None:
    whole, local = opened(colour), 12 // world_size
    ranks = [opened(colour, rows=(rank * local, (rank + 1) * local)) for rank in range(world_size)]
    for step in (0, 3, 11):
        assert torch.equal(torch.cat([rank.batch(step) for rank in ranks]), whole.batch(step))
    assert {rank.digest for rank in ranks} == {whole.digest}
    np.testing.assert_array_equal(ranks[-1].first(20), whole.first(20))  # all ranks show the same reals


def test_colour_becomes_grey_by_itu_r_601_luma(colour: Path) -> None:
    colours, greys = opened(colour).batch(2), opened(colour, channels=1).batch(2)
    assert greys.shape == (12, 1, 8, 8)
    images = colours.permute(0, 2, 3, 1).numpy()
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    np.testing.assert_array_equal(greys[:, 0].numpy(), expected)
    luma = images @ np.array([0.299, 0.587, 0.114])
    assert np.abs(greys[:, 0].numpy() - luma).max() < 1


def test_grey_shards_feed_a_grey_model(grey: Path, colour: Path) -> None:
    batch = opened(grey, channels=1).batch(0)
    assert batch.shape == (12, 1, 8, 8)
    assert torch.equal(batch, opened(colour, channels=1).batch(0))


def test_first_images_are_those_of_the_first_steps(colour: Path) -> None:
    loader = opened(colour)
    images = torch.cat([loader.batch(0), loader.batch(1)]).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(loader.first(20), images[:20])
    assert loader.first(1000).shape == (40, 8, 8, 3)
    assert loader.image_count == 40
    assert opened(colour, channels=1).first(2).shape == (2, 8, 8, 1)


def test_the_window_reaches_the_order(colour: Path) -> None:
    assert not torch.equal(opened(colour, window=1).batch(0), opened(colour, window=5).batch(0))


def test_digest_tells_image_sets_apart(made: Path, colour: Path, grey: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(colour, tmp_path / "elsewhere")
    assert opened(copied).digest == opened(colour).digest
    other = shutil.copytree(made, tmp_path / "other")
    Image.fromarray(noise(99)).save(other / "cat" / "000.png")
    digests = {
        opened(colour).digest,
        opened(grey, channels=1).digest,
        opened(convert(other, tmp_path / "pixels")).digest,
        opened(convert(made, tmp_path / "order", "--shuffle_seed", "5")).digest,
    }
    assert len(digests) == 4


def test_no_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^data must be a directory of shards, got none; make one with dcgan-shard$"):
        opened("")


def test_a_directory_without_index_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match=rf"{path}: not a directory of shards: no index.json"):
            opened(path)


def test_another_size_is_refused(colour: Path) -> None:
    with pytest.raises(ValueError, match=r"8 x 8 pixels, the model makes 32 x 32: convert again .* --size 32$"):
        opened(colour, size=32)


def test_grey_shards_are_refused_for_a_colour_model(grey: Path) -> None:
    with pytest.raises(ValueError, match=r"is grey, the model makes colour: .* --gray or use channels 1$"):
        opened(grey)


def test_a_missing_shard_is_refused(colour: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(colour, tmp_path / "copy")
    missing = sorted(copied.glob("*.tar"))[2]
    missing.unlink()
    with pytest.raises(ValueError, match=f"{missing}: is missing; run the dcgan-shard command again"):
        opened(copied)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_training_subset_is_the_same_at_any_world_size(colour: Path, world_size: int) -> None:
    local = 12 // world_size
    ranks = [
        opened(colour, rows=(rank * local, (rank + 1) * local), classes="dog", subset_size=15)
        for rank in range(world_size)
    ]
    assert {rank.image_count for rank in ranks} == {15}
    batches = torch.cat([torch.cat([rank.batch(step) for rank in ranks]) for step in range(5)])  # 60: four epochs
    seeds = [PIXELS[image.tobytes()] for image in batches.permute(0, 2, 3, 1).numpy()]
    assert all(seed % 2 for seed in seeds)  # dogs
    for epoch in range(4):
        assert len(set(seeds[epoch * 15 : epoch * 15 + 15])) == 15
    index = read_index(colour)
    first = np.flatnonzero(index.labels == 1)[:15]
    assert {PIXELS[image.tobytes()] for image in read_images(index, first.tolist())} == set(seeds)
    assert len(ranks[0].first(100)) == 15


def test_a_smaller_subset_lies_in_a_larger_one(colour: Path) -> None:
    small, large = (set(opened(colour, subset_size=size).positions(0).tolist()) for size in (6, 12))
    assert small < large
    assert large == set(range(12))


def test_an_unknown_class_is_refused(colour: Path) -> None:
    with pytest.raises(ValueError, match="classes: must be names of classes, got 'bird'; there are cat, dog"):
        opened(colour, classes="bird")
