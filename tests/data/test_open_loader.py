"""Which loader a run gets, on all its processes, and what others make of our shards."""

import contextlib
import gc
import hashlib
import importlib.util
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from dcgan_dist.config import DataConfig, NetworkConfig
from dcgan_dist.data import loader as loader_module
from dcgan_dist.data import resident
from dcgan_dist.data.loader import Loader, open_loader
from dcgan_dist.data.shard_files import decode_images
from dcgan_dist.data.shards import read_index
from dcgan_dist.distributed import collectives, node
from tests.data.made import photos
from tests.data.sets import IMAGES, convert, many_shards
from tests.distributed.ranks import run_ranks

SEED = 4


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of 8 x 8 noise in five shards."""
    root = tmp_path_factory.mktemp("set")
    return convert(photos(root / "photos", images=IMAGES), root / "shards")


@contextlib.contextmanager
def opened(path: Path, kind: str, *, rows: tuple[int, int] | None = None, **settings: Any) -> Iterator[Loader]:
    values: dict[str, Any] = {"data": str(path), "batch_size": 12, "loader": kind}
    data = DataConfig(**(values | settings))
    local = 12 // collectives.world_size()
    own = rows or (collectives.rank() * local, (collectives.rank() + 1) * local)
    loader = open_loader(data, NetworkConfig(image_size=8), seed=SEED, rows=own, device=torch.device("cpu"))
    with contextlib.closing(loader):
        yield loader


def chosen(path: Path, kind: str = "auto", **settings: Any) -> str:
    with opened(path, kind, **settings) as loader:
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


def resident_in_common(path: Path, subset_size: int) -> tuple[str, bytes, list[str]]:
    """What the loader says of itself, a batch, and which anonymous files the process has in its memory, by inode."""
    with opened(path, "resident", rows=(0, 12), subset_size=subset_size) as loader:
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        shared = [words[4] for words in maps if "/memfd:dcgan_dist" in words]
        return loader.description, loader.batch(3).numpy().tobytes(), shared


@pytest.mark.parametrize("subset_size", [0, 10])
def test_processes_have_the_images_in_common(subset_size: int, colour: Path) -> None:
    alone = resident_in_common(colour, subset_size)
    assert alone[0] == "resident, 0.0 MiB on cpu"
    assert alone[2] == []
    ranks = run_ranks(resident_in_common, 3, colour, subset_size)
    for description, batch, shared in ranks:
        assert description == "resident, 0.0 MiB on cpu shared by 3 processes"
        assert batch == alone[1]
        assert len(shared) == 1
        assert shared == ranks[0][2]


def missing_on_a_rank(path: Path, kind: str) -> str:
    try:
        chosen(path, kind)
    except ValueError as error:
        return str(error)
    return ""


def odd_rank(main: str, other: str, path: Path) -> str:
    """What is said when ``data`` is not the same."""
    try:
        chosen(path, "indexed", data=main if collectives.rank() == 0 else other)
    except ValueError as error:
        return str(error)
    return ""


def test_ranks_must_agree_where_the_data_are(colour: Path, tmp_path: Path) -> None:
    """Else they would call other collectives. Directories may differ, because disks of machines do."""
    copied = shutil.copytree(colour, tmp_path / "copy")
    assert run_ranks(odd_rank, 2, str(colour), str(copied), colour) == ["", ""]
    message = "processes disagree on data: a directory on rank 0, http://host/set on rank 1"
    assert run_ranks(odd_rank, 2, str(colour), "http://host/set", colour) == [message] * 2
    for said in run_ranks(odd_rank, 2, "pipe:true", str(colour), colour):
        assert said.startswith("data must be a directory, or a URL")


def cache_in(place: str, path: Path) -> str:
    """What is said when the cache cannot be there on one rank."""
    try:
        chosen(path, data="http://127.0.0.1:9/set", cache_dir=f"{place}/{collectives.rank()}")
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="needs aiohttp (extra remote)")
def test_a_cache_that_cannot_be_on_one_rank_is_told_by_all(colour: Path, tmp_path: Path) -> None:
    (tmp_path / "1").touch()
    message = f"rank 1: cache_dir {tmp_path}/1: cannot be used: File exists; name another"
    assert run_ranks(cache_in, 2, str(tmp_path), colour) == [message] * 2


def workers_with(cores: int, path: Path) -> int:
    numbers = frozenset(range(cores))
    with mock.patch.object(node, "core_numbers", return_value=numbers), opened(path, "indexed") as loader:
        return int(loader.settings["workers"])


@pytest.mark.parametrize(("cores", "expected"), [(2, 0), (4, 1), (8, 3), (64, 4)])
def test_processes_of_a_node_divide_its_cores(cores: int, expected: int, colour: Path) -> None:
    assert run_ranks(workers_with, 2, cores, colour) == [expected] * 2


def decoded_slowly(path: Path) -> tuple[str, int]:
    """A rank that has its images at once waits for one that is slow; how often they meet meanwhile."""
    slow = collectives.rank() == 1

    def decode(*args: Any, **options: Any) -> None:
        time.sleep(0.05 * slow)
        decode_images(*args, **options)

    with (
        mock.patch.object(resident, "decode_images", decode),
        mock.patch.object(resident, "ROUND_SECONDS", 0.1),
        mock.patch.object(node, "core_numbers", return_value=frozenset({0})),
        mock.patch.object(node, "identity", return_value=f"machine {collectives.rank()}"),
        mock.patch.object(collectives, "on_all", wraps=collectives.on_all) as met,
        opened(path, "resident") as loader,
    ):
        return hashlib.sha256(loader.batch(0).numpy().tobytes()).hexdigest(), met.call_count


def test_processes_meet_now_and_then_while_they_decode(tmp_path: Path) -> None:
    """Or the quick one would lose patience, when the other downloads for longer than ``timeout``."""
    path = many_shards(tmp_path / "set", shards=40, images=3, size=8)  # ten rounds of four shards
    (one, calls), (other, _) = run_ranks(decoded_slowly, 2, path)
    with opened(path, "resident", rows=(0, 6)) as first, opened(path, "resident", rows=(6, 12)) as second:
        expected = [hashlib.sha256(loader.batch(0).numpy().tobytes()).hexdigest() for loader in (first, second)]
    assert [one, other] == expected
    assert 6 + 3 <= calls <= 6 + 10


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
