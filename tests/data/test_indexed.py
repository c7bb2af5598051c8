"""The loader that decodes as it goes: the same batches as the resident one, and what happens when something breaks."""

import contextlib
import hashlib
import json
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan_dist.config import DataConfig, NetworkConfig
from dcgan_dist.data.indexed import IndexedLoader
from dcgan_dist.data.loader import Loader, open_loader
from dcgan_dist.data.shards import read_index
from dcgan_dist.distributed import collectives
from tests.data.made import file_of, photos, png
from tests.data.sets import IMAGES, convert, many_shards, rewrite_shard
from tests.distributed.ranks import run_ranks

BATCH = 12
STEPS = 10  # of 40 images: three epochs


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of 8 x 8 noise in five shards."""
    root = tmp_path_factory.mktemp("set")
    return convert(photos(root / "photos", images=IMAGES), root / "shards")


@contextlib.contextmanager
def opened(path: Path, kind: str, *, rows: tuple[int, int] = (0, BATCH), **settings: Any) -> Iterator[Loader]:
    network = NetworkConfig(image_size=8, channels=settings.pop("channels", 3))
    data = DataConfig(data=str(path), batch_size=BATCH, loader=kind, **({"shuffle_window": 2} | settings))  # type: ignore[arg-type]
    loader = open_loader(data, network, seed=4, rows=rows, device=torch.device("cpu"))
    with contextlib.closing(loader):
        yield loader


def local_rows() -> tuple[int, int]:
    local = BATCH // collectives.world_size()
    return collectives.rank() * local, (collectives.rank() + 1) * local


def digests(shards: Path, kind: str, workers: int | None, **subset: Any) -> list[str]:
    """Of this rank's part of each batch."""
    with opened(shards, kind, rows=local_rows(), workers=workers, **subset) as loader:
        assert loader.settings["loader"] == kind
        return [hashlib.sha256(loader.batch(step).numpy().tobytes()).hexdigest() for step in range(STEPS)]


SUBSETS: tuple[dict[str, Any], ...] = (
    {},
    {"subset_size": 10},  # three shards have no image of it, and a batch has more than an epoch
    {"classes": "dog", "subset_size": 18},
)


def in_all_ways(shards: Path) -> list[tuple[list[str], ...]]:
    ways = (("resident", None), ("indexed", 0), ("indexed", 2))
    return [tuple(digests(shards, kind, workers, **subset) for kind, workers in ways) for subset in SUBSETS]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_batches_are_those_of_the_resident_loader(shards: Path, world_size: int) -> None:
    for rank in run_ranks(in_all_ways, world_size, shards):
        for resident, here, workers in rank:
            assert resident == here == workers
            assert len(set(resident)) == STEPS
        assert len({tuple(resident) for resident, _, _ in rank}) == len(SUBSETS)


@pytest.mark.parametrize("settings", [{"workers": 0}, {"workers": 1}, {"workers": 2}, {"workers": 2, "channels": 1}])
def test_any_step_can_be_asked_for_at_any_time(shards: Path, settings: dict[str, Any]) -> None:
    channels = settings.get("channels", 3)
    with opened(shards, "resident", channels=channels) as resident, opened(shards, "indexed", **settings) as loader:
        for step in (7, 8, 9, 10, 3, 3, 4, 100, 101, 0, 1, 2):  # a resumed run, one that was rolled back, ...
            assert torch.equal(loader.batch(step), resident.batch(step)), step
        np.testing.assert_array_equal(loader.first(30), resident.first(30))
        np.testing.assert_array_equal(loader.positions(9), resident.positions(9))
        assert loader.digest == resident.digest
        assert loader.image_count == resident.image_count == IMAGES


@pytest.mark.parametrize("window", [1, 3, 5, 99])
def test_a_batch_may_have_images_of_many_windows(shards: Path, window: int) -> None:
    with (
        opened(shards, "resident", shuffle_window=window) as resident,
        opened(shards, "indexed", shuffle_window=window, workers=1) as loader,
    ):
        for step in range(STEPS):
            assert torch.equal(loader.batch(step), resident.batch(step))


def test_a_batch_stays_what_it_was(shards: Path) -> None:
    with opened(shards, "indexed", workers=1) as loader:
        first = loader.batch(0)
        copy = first.clone()
        for step in range(1, 20):
            loader.batch(step)
        assert torch.equal(first, copy)


def test_only_so_much_is_decoded_ahead(shards: Path) -> None:
    with opened(shards, "indexed", workers=2) as loader:
        assert isinstance(loader, IndexedLoader)
        loader.batch(0)
        time.sleep(0.3)
        assert loader._begun == 1 + loader._ahead
        assert loader._decoding is not None
        assert len(loader._decoding.pixels) == loader._ahead * BATCH


def test_the_default_number_of_workers_follows_from_the_cores(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in [(1, 0), (2, 1), (4, 3), (64, 4)]:
        monkeypatch.setattr("dcgan_dist.distributed.node.core_numbers", lambda cores=cores: frozenset(range(cores)))
        with opened(shards, "indexed") as loader:
            assert loader.settings == {"loader": "indexed", "workers": expected}


def read(loader: Loader, *, steps: int = STEPS) -> None:
    for step in range(steps):
        loader.batch(step)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["resident", "indexed"])
def test_batches_on_a_gpu_are_those_on_the_cpu(shards: Path, kind: str) -> None:
    device = torch.device("cuda", 0)
    data = DataConfig(data=str(shards), batch_size=BATCH, shuffle_window=2, loader=kind, workers=2)  # type: ignore[arg-type]
    with (
        contextlib.closing(
            open_loader(data, NetworkConfig(image_size=8), seed=4, rows=(0, BATCH), device=device)
        ) as loader,
        opened(shards, "resident") as expected,
    ):
        batches = [loader.batch(step) for step in range(3 * STEPS)]  # without waiting for the copies
        for step, batch in enumerate(batches):
            assert batch.device == device
            assert torch.equal(batch.cpu(), expected.batch(step))


# What is broken


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shards, tmp_path / "copy")


def worst(path: Path, workers: int) -> str:
    """The message that ends reading three epochs."""
    with opened(path, "indexed", workers=workers) as loader, pytest.raises(OSError) as caught:
        read(loader)
    return str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named(copied: Path, workers: int) -> None:
    """The shard is as the index says, so it is the image that was bad from the start."""
    place = rewrite_shard(copied, 1, {3: b"\x89PNG\r\n\x1a\nthat is not one"})
    message = worst(copied, workers)
    path = read_index(copied).path(1)
    assert message.startswith(f"{path}: image {place.key} (number {place.image}, at byte {place.offset:,}) ")
    assert message.endswith("is not a PNG, JPEG or WEBP image")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_of_another_size_is_named(copied: Path, workers: int) -> None:
    rewrite_shard(copied, 0, {0: file_of(Image.new("RGB", (20_000, 9)))})
    assert worst(copied, workers).endswith("must be 8 x 8 pixels, is 20000 x 9")


def test_a_damaged_image_that_is_never_needed_does_no_harm(copied: Path) -> None:
    """What is decoded ahead must not decide whether a run ends well."""
    with opened(copied, "indexed", workers=0) as loader:
        last = [int(image) for image in loader.positions(2)]
        early = {int(image) for step in (0, 1) for image in loader.positions(step)}
    bad = next(image for image in last if image not in early)
    rewrite_shard(copied, bad // 8, {bad % 8: b"nothing"})
    with opened(copied, "indexed", workers=2) as loader:
        loader.batch(0)
        loader.batch(1)
        time.sleep(0.3)
        with pytest.raises(OSError, match="is not a PNG"):
            loader.batch(2)
        loader.batch(0)  # and the rest can still be read


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_changes_before_it_is_read_is_named(copied: Path, workers: int) -> None:
    index = read_index(copied)
    with opened(copied, "indexed", workers=workers) as loader:
        data = bytearray(index.path(2).read_bytes())
        data[700] ^= 1
        index.path(2).write_bytes(data)
        with pytest.raises(OSError, match=rf"{index.path(2)}: is damaged: its sha256 is not the one in the index"):
            read(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_vanishes_in_mid_run_is_named(tmp_path: Path, workers: int) -> None:
    path = many_shards(tmp_path / "set", shards=40, images=10, size=8)
    gone = path / "set-000002.tar"
    with opened(path, "indexed", workers=workers) as loader:
        read(loader, steps=34)  # an epoch; all shards have been checked
        gone.unlink()
        with pytest.raises(OSError, match=rf"^{gone}: image \(number 2\d, at byte .*\) .*No such file .*{gone.name}"):
            read(loader, steps=68)


@pytest.mark.parametrize("kind", ["resident", "indexed"])
def test_shards_without_an_image_of_the_subset_are_not_looked_at(copied: Path, kind: str) -> None:
    index = read_index(copied)
    os.truncate(index.path(4), 5000)
    index.path(3).unlink()
    with opened(copied, kind, workers=0, subset_size=24) as loader:
        read(loader)
        assert len(loader.first(99)) == 24
    with pytest.raises(ValueError, match=rf"{index.path(3)}: is missing"), opened(copied, kind, subset_size=25):
        pass


def test_missing_and_cut_shards_are_refused_at_once(copied: Path) -> None:
    index = read_index(copied)
    os.truncate(index.path(4), 5000)
    with (
        pytest.raises(ValueError, match=rf"{index.path(4)}: must have [\d,]+ bytes, has 5,000"),
        opened(copied, "indexed"),
    ):
        pass
    index.path(4).unlink()
    with pytest.raises(ValueError, match=rf"{index.path(4)}: is missing"), opened(copied, "indexed"):
        pass


@pytest.mark.parametrize("workers", [0, 1])
def test_a_length_that_lies_takes_no_memory(copied: Path, workers: int) -> None:
    """A shard of 4 GiB that has nothing in it, all of which should be one image."""
    huge = 2**32
    index = json.loads((copied / "index.json").read_bytes())
    path = copied / index["shards"][0]["file"]
    os.truncate(path, huge)
    rewrite_shard(copied, 0, {}, entry={"length": huge - 10**6}, stated={"bytes": huge, "sha256": "0" * 64})
    with opened(copied, "indexed", workers=workers) as loader:
        assert isinstance(loader, IndexedLoader)
        loader._files._whole.add(0)  # type: ignore[attr-defined]  # hashing 4 GiB takes too long for a test
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(OSError, match=r"must have at most [\d,]+ bytes, has 4,29\d,\d+,\d+"):
            read(loader)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_code_in_shards_is_never_run(copied: Path) -> None:
    """Members .pyd, .pickle and .pth beside the images, and in the place of one."""
    touched = copied / "touched"
    attack = f"cos\nsystem\n(S'touch {touched}'\ntR.".encode()
    rewrite_shard(copied, 0, {2: attack}, more={"x.pickle": attack, "x.pyd": attack, "x.pth": attack, "x.pkl": attack})
    for kind in ("resident", "indexed"):
        with (
            pytest.raises((OSError, ValueError), match="is not a PNG, JPEG or WEBP image"),
            opened(copied, kind) as loader,
        ):
            read(loader)
    rewrite_shard(copied, 0, {2: png(77)})
    with opened(copied, "resident") as resident, opened(copied, "indexed", workers=1) as loader:
        for step in range(STEPS):
            assert torch.equal(loader.batch(step), resident.batch(step))
    assert not touched.exists()
