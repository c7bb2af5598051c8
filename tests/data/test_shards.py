import dataclasses
import gc
import hashlib
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcgan_dist.data.shards import ENTRY, Index, read_images, read_index, verify
from dcgan_dist.data.sources import SOURCES, Request
from dcgan_dist.data.transforms import encode
from tests.data.made import converted, noise, photos


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """20 images of noise in shards of 8, 8 and 4."""
    source = SOURCES["folder"].open(Request((photos(tmp_path / "in", images=20),), {}, tmp_path))
    found, _ = converted(source, tmp_path / "set")
    return found


def test_pixels_come_back_in_the_order_of_the_labels(index: Index) -> None:
    pixels = read_images(index)
    assert pixels.shape == index.shape == (20, 8, 8, 3)
    seeds = {noise(seed).tobytes(): seed for seed in range(20)}
    found = [seeds[image.tobytes()] for image in pixels]
    assert sorted(found) == list(range(20))
    assert [seed % 2 for seed in found] == index.labels.tolist()
    np.testing.assert_array_equal(read_images(index, [19, 0, 9]), pixels[[19, 0, 9]])


def test_webdataset_reads_the_same(index: Index) -> None:
    import webdataset

    urls = [str(index.path(shard)) for shard in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the shards open
        samples = list(webdataset.WebDataset(urls, shardshuffle=False))
        gc.collect()
    pixels = read_images(index)
    assert all([name for name in sample if name[0] != "_"] == ["png", "cls"] for sample in samples)
    assert [int(sample["cls"]) for sample in samples] == index.labels.tolist()
    assert [sample["png"] for sample in samples] == [encode(image, "png") for image in pixels]
    assert {sample["__key__"] for sample in samples} == {f"{('cat', 'dog')[n % 2]}/{n:03d}" for n in range(20)}


def test_a_whole_directory_verifies(index: Index) -> None:
    counts: list[int] = []
    assert verify(index, report=counts.append) == []
    assert counts == [8, 8, 4]


def test_a_directory_without_index_is_not_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a directory of shards: no index\.json \(a conversion that did not fin"):
        read_index(tmp_path)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (lambda data: data.pop("images"), "the field 'images' is missing"),
    "type": (lambda data: data.update(images="20"), "images: must be of type int, got '20'"),
    "version": (lambda data: data["settings"].update(format=2), "format: must be 1, got 2"),
    "channels": (lambda data: data["settings"]["target"].update(channels=2), "target.channels: must be 1 or 3, got 2"),
    "path": (lambda data: data["shards"][0].update(file="../x.tar"), "shards: files must lie in the same directory"),
    "hidden": (lambda data: data["shards"][0].update(file=".x.tar"), "shards: files must lie in the same directory"),
    "twice": (lambda data: data["shards"][0].update(file="set-000001.tar"), "shards: files must have different names"),
    "sum": (lambda data: data["shards"][0].update(images=9), "images: must be the sum over shards"),
    "counts": (lambda data: data.update(class_counts=[10, 9]), "class_counts: must sum to images, 20, got 19"),
    "classes": (lambda data: data["settings"]["classes"].pop(), "class_counts: must have one number for each class"),
    "labels": (lambda data: data.update(class_counts=[11, 9]), "label: must count as class_counts"),
    "entries": (lambda data: data.update(entries_sha256="0"), r"index\.npy: is damaged"),
    "bytes": (lambda data: data["shards"][0].update(bytes=100), "offset and length: must end inside the shard"),
    "split": (
        lambda data: (data["shards"][0].update(images=7), data["shards"][1].update(images=9)),
        "shard: must count up",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_index_is_refused(name: str, index: Index) -> None:
    change, message = CHANGES[name]
    path = index.directory / "index.json"
    data = json.loads(path.read_bytes())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message) as caught:
        read_index(index.directory)
    assert str(index.directory) in str(caught.value)


def replace_entries(index: Index, array: np.ndarray[Any, Any], *, allow_pickle: bool = False) -> None:
    """Write another index.npy, with the checksum that belongs to it."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    (index.directory / "index.npy").write_bytes(buffer.getvalue())
    contents = dataclasses.asdict(index.contents) | {"entries_sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
    (index.directory / "index.json").write_text(json.dumps(contents))


def test_entries_are_checked_and_never_unpickled(index: Index) -> None:
    far = index.entries.copy()
    far["offset"][3] = 2**64 - 1  # the end wraps to a small number
    replace_entries(index, far)
    with pytest.raises(ValueError, match="must end inside the shard"):
        read_index(index.directory)
    replace_entries(index, index.entries[:-1])
    with pytest.raises(ValueError, match="must be 20 of"):
        read_index(index.directory)
    replace_entries(index, np.array([{}] * 20, object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"is .* of object"):
        read_index(index.directory)
    (index.directory / "index.npy").unlink()
    with pytest.raises(ValueError, match=r"index\.npy: is missing"):
        read_index(index.directory)


def test_json_that_is_none_is_refused(index: Index) -> None:
    (index.directory / "index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json: not JSON"):
        read_index(index.directory)


def test_reading_and_verifying_notice_damaged_shards(index: Index) -> None:
    first, second, third = (index.path(shard) for shard in range(3))
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"set-000000\.tar: must have .* bytes, has"):
        read_images(index)
    second.unlink()
    with pytest.raises(ValueError, match=r"set-000001\.tar: is missing"):
        read_images(index, [8])
    data = bytearray(third.read_bytes())
    data[int(index.entries["offset"][16]) + 1] ^= 1
    third.write_bytes(data)
    with pytest.raises(ValueError, match=r"set-000002\.tar: is damaged: its sha256"):
        read_images(index, [16])
    assert verify(index, report=lambda count: None) == [
        f"{first}: is damaged: its size or sha256 is not the one in the index",
        f"{second}: is missing",
        f"{third}: is damaged: its size or sha256 is not the one in the index",
    ]


def test_verify_compares_each_image_with_the_index(index: Index) -> None:
    entries = index.entries.copy()
    entries["label"][0], entries["offset"][1] = 1 - entries["label"][0], entries["offset"][2]
    assert entries.dtype == ENTRY
    problems = verify(dataclasses.replace(index, entries=entries), report=lambda count: None)
    assert [problem.split(".tar: ")[1].split(" ", 1)[1] for problem in problems] == [
        f"is not the class in index.npy, {entries['label'][0]}",
        "is not where index.npy says",
    ]


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (lambda data: data["settings"]["target"].update(size=100_000), "target.size: squared must be 1 to"),
        (lambda data: data["shards"][0].update(bytes=2**70), "shards: bytes must be positive"),
        (lambda data: data["shards"][0].update(file=""), "shards: files must have names"),
    ],
)
def test_an_index_that_lies_is_refused_before_memory_is_taken(index: Index, lie, message: str) -> None:
    path = index.directory / "index.json"
    data = json.loads(path.read_bytes())
    lie(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message):
        read_index(index.directory)


def test_an_array_of_a_trillion_images_is_refused_before_memory_is_taken(index: Index) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": ENTRY.descr, "fortran_order": False, "shape": (10**12,)})
    (index.directory / "index.npy").write_bytes(header.getvalue())
    path = index.directory / "index.json"
    data = json.loads(path.read_bytes())
    data["entries_sha256"] = hashlib.sha256(header.getvalue()).hexdigest()
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="must be 20 of"):
        read_index(index.directory)


def test_json_nested_without_end_is_a_message(index: Index) -> None:
    (index.directory / "index.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="not JSON"):
        read_index(index.directory)
