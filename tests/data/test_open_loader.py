"""Which loader a run gets, on all its processes, and what others make of our shards."""

import contextlib
import gc
import shutil
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from dcgan_dist.config import DataConfig, NetworkConfig
from dcgan_dist.data import loader as loader_module
from dcgan_dist.data.loader import open_loader
from dcgan_dist.data.shards import read_index
from dcgan_dist.distributed import collectives
from tests.data.made import photos
from tests.data.sets import IMAGES, convert
from tests.distributed.ranks import run_ranks

SEED = 4


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of 8 x 8 noise in five shards."""
    root = tmp_path_factory.mktemp("set")
    return convert(photos(root / "photos", images=IMAGES), root / "shards")


def chosen(path: Path, kind: str = "auto") -> str:
    data = DataConfig(data=str(path), batch_size=12, loader=kind)  # type: ignore[arg-type]
    local = 12 // collectives.world_size()
    rows = (collectives.rank() * local, (collectives.rank() + 1) * local)
    with contextlib.closing(
        open_loader(data, NetworkConfig(image_size=8), seed=SEED, rows=rows, device=torch.device("cpu"))
    ) as loader:
        return str(loader.settings["loader"])


NEEDED = IMAGES * 3 * 8 * 8


@pytest.mark.parametrize(
    ("free", "asked", "got"),
    [
        (2 * NEEDED, "auto", "resident"),
        (2 * NEEDED - 1, "auto", "indexed"),
        (NEEDED, "resident", "resident"),
        (10**9, "indexed", "indexed"),
    ],
)
def test_auto_keeps_what_fits_half_of_the_free_memory(
    free: int, asked: str, got: str, colour: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcgan_dist.data.loader.free_memory", lambda: free)
    assert chosen(colour, asked) == got


def test_resident_where_it_does_not_fit_is_refused(colour: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcgan_dist.data.loader.free_memory", lambda: NEEDED - 1)
    with pytest.raises(
        ValueError, match=r"^loader resident needs 0.0 GiB for 40 images, 0.0 GiB .*; use --loader indexed"
    ):
        chosen(colour, "resident")


def choose_with(free: list[int], path: Path) -> str:
    with mock.patch.object(loader_module, "free_memory", return_value=free[collectives.rank()]):
        return chosen(path)


def test_all_ranks_choose_the_same(colour: Path) -> None:
    """Memory is divided by the processes of a node; the tightest decides."""
    assert run_ranks(choose_with, 2, [4 * NEEDED, 4 * NEEDED], colour) == ["resident", "resident"]
    assert run_ranks(choose_with, 2, [4 * NEEDED, 4 * NEEDED - 1], colour) == ["indexed", "indexed"]


def resident_in_common(path: Path) -> tuple[str, bytes, int]:
    data = DataConfig(data=str(path), batch_size=12, loader="resident")
    loader = open_loader(data, NetworkConfig(image_size=8), seed=SEED, rows=(0, 12), device=torch.device("cpu"))
    maps = Path("/proc/self/maps").read_text()
    return loader.description, loader.batch(3).numpy().tobytes(), maps.count("memfd:dcgan_dist")


def test_processes_have_the_images_in_common(colour: Path) -> None:
    alone = resident_in_common(colour)
    assert alone[0] == "resident, 0.0 MiB on cpu"
    for description, batch, maps in run_ranks(resident_in_common, 3, colour):
        assert description == "resident, 0.0 MiB on cpu shared by 3 processes"
        assert batch == alone[1]
        assert maps == 1
    assert alone[2] == 0


def missing_on_a_rank(path: Path, kind: str) -> str:
    try:
        chosen(path, kind)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["resident", "indexed"])
def test_a_damaged_shard_is_told_by_all_ranks(kind: str, colour: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(colour, tmp_path / "copy")
    path = sorted(copied.glob("*.tar"))[1]
    path.write_bytes(path.read_bytes()[:-512])
    for message in run_ranks(missing_on_a_rank, 2, copied, kind):
        assert message.startswith(f"rank 1: {path}: must have")


def test_webdataset_reads_our_shards(colour: Path) -> None:
    """Its own reader and decoder, in the order of the shards: the same images and classes."""
    import webdataset

    index = read_index(colour)
    urls = [str(index.path(shard)) for shard in range(5)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the shards open
        pipeline = webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8", only=["png", "cls"])
        samples = list(pipeline.to_tuple("png", "cls"))
        gc.collect()
    data = DataConfig(data=str(colour), batch_size=12)
    loader = open_loader(data, NetworkConfig(image_size=8), seed=SEED, rows=(0, 12), device=torch.device("cpu"))
    order = np.concatenate([loader.positions(step) for step in range(10)])
    images = torch.cat([loader.batch(step) for step in range(10)]).permute(0, 2, 3, 1).numpy()
    assert len(samples) == IMAGES
    for image, pixels in zip(order, images, strict=True):
        np.testing.assert_array_equal(samples[image][0], pixels)
    assert [label for _, label in samples] == index.labels.tolist()
