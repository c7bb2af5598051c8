import gzip
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import mnist as reference

from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.sources import mnist
from dcgan_dist.data.transforms import Target
from tests.data.made import files, opened, tar, zipped
from tests.shared import SHARED, needs_shared

MNIST = SHARED / "data/mnist"
GREY = Target(4, 1, "none", "area")


def idx(images: np.ndarray, labels: Sequence[int]) -> tuple[bytes, bytes]:
    """An images file and a labels file."""
    head, label_head = struct.pack(">IIII", 2051, *images.shape), struct.pack(">II", 2049, len(labels))
    return head + images.astype(np.uint8).tobytes(), label_head + bytes(labels)


TRAIN_IMAGES = np.arange(3 * 16).reshape(3, 4, 4)
TEST_IMAGES = 255 - np.arange(2 * 16).reshape(2, 4, 4)
TRAIN, TEST = idx(TRAIN_IMAGES, [5, 0, 9]), idx(TEST_IMAGES, [1, 7])
FOUR = dict(
    zip(
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        (*TRAIN, *TEST),
        strict=True,
    )
)


@pytest.mark.parametrize("layout", ["folder", "gzip", "both", "files", "zip", "tgz", "torchvision"])
@pytest.mark.parametrize(
    ("split", "images", "labels"),
    [
        ("train", TRAIN_IMAGES, [5, 0, 9]),
        ("test", TEST_IMAGES, [1, 7]),
        ("all", [*TRAIN_IMAGES, *TEST_IMAGES], [5, 0, 9, 1, 7]),
    ],
)
def test_every_layout_gives_the_same(
    layout: str, split: str, images: np.ndarray, labels: list[int], tmp_path: Path, scratch: Path
) -> None:
    packed = {f"{name}.gz": gzip.compress(data) for name, data in FOUR.items()}
    if layout == "files":
        inputs = [files(tmp_path, packed) / name for name in reversed(packed)]
    elif layout == "zip":  # as a popular site has them
        inputs = [zipped(tmp_path / "archive.zip", {f"{n}/{n}".replace("-idx", ".idx"): d for n, d in FOUR.items()})]
    elif layout == "tgz":
        inputs = [tar(tmp_path / "mnist.tgz", packed)]
    else:
        content = FOUR if layout == "folder" else packed if layout == "gzip" else FOUR | packed
        prefix = "MNIST/raw/" if layout == "torchvision" else ""
        inputs = [files(tmp_path / "in", {prefix + name: data for name, data in content.items()})]
    found = opened("mnist", *inputs, scratch=scratch, split=split)
    assert [r.label for r in found.records] == labels
    np.testing.assert_array_equal([r.image.pixels(GREY)[:, :, 0] for r in found.records], images)
    assert found.classes == tuple("0123456789")
    assert found.records[0].key == ("test/00000" if split == "test" else "train/00000")
    assert found.files[0].known.startswith("part of it: ")
    assert ("the test images are not used; --split all takes both parts" in found.notes) == (split == "train")


def test_what_is_missing_is_named(tmp_path: Path, scratch: Path) -> None:
    folder = files(tmp_path / "in", {"train-images-idx3-ubyte": TRAIN[0]})
    with pytest.raises(ValueError, match="MNIST needs the train labels; the files are train-images-idx3-ubyte, train-"):
        opened("mnist", folder, scratch=scratch)
    with pytest.raises(ValueError, match="MNIST needs the test images and the test labels"):
        opened("mnist", folder, scratch=scratch, split="test")


IMAGES, LABELS = TRAIN
BAD = {
    "a web page": (b"<html>" * 9, LABELS, "not an idx file of images: it must begin with 2051, got 1013478509"),
    "nothing": (b"", LABELS, "must begin with 2051, got 0"),
    "labels for images": (LABELS + bytes(9), LABELS, "must begin with 2051, got 2049"),
    "cut": (IMAGES[:-1], LABELS, "cut short or changed: by its header 3 x 4 x 4 bytes follow, there are 47"),
    "too long": (IMAGES + b"x", LABELS, "cut short or changed"),
    "a lie": (struct.pack(">IIII", 2051, 2**31, 2**31, 2**31), LABELS, "cut short or changed"),
    "no image": (struct.pack(">IIII", 2051, 0, 28, 28), LABELS, "cut short or changed"),
    "no width": (struct.pack(">IIII", 2051, 3, 28, 0), LABELS, "cut short or changed"),
    "one label": (IMAGES, idx(TRAIN_IMAGES, [1])[1], "must have as many labels as there are images, 3, has 1"),
    "label 10": (IMAGES, idx(TRAIN_IMAGES, [1, 10, 2])[1], "labels must be 0 to 9, got 10"),
}


@pytest.mark.parametrize("name", BAD)
def test_damage_names_the_file(name: str, tmp_path: Path, scratch: Path) -> None:
    images, labels, message = BAD[name]
    folder = files(tmp_path / "in", {"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": labels})
    with pytest.raises(DamagedError, match=rf"in/train-(images|labels)\S+: .*{message}"):
        opened("mnist", folder, scratch=scratch)


def test_millions_of_tiny_images_are_refused(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "MAX_IMAGES", 2)
    with pytest.raises(ValueError, match=r"images-idx3-ubyte: must have at most 2 images, has 3"):
        opened("mnist", files(tmp_path / "in", FOUR), scratch=scratch)


def test_a_cut_gzip_is_damage(tmp_path: Path, scratch: Path) -> None:
    packed = {f"{name}.gz": gzip.compress(data)[:-9] for name, data in FOUR.items()}
    with pytest.raises(DamagedError, match=r"in/train-images-idx3-ubyte\.gz: damaged or cut short"):
        opened("mnist", files(tmp_path / "in", packed), scratch=scratch)


def plain(folder: Path) -> Path:
    folder.mkdir()
    for path in MNIST.glob("*.gz"):
        with gzip.open(path) as packed, (folder / path.stem).open("wb") as out:
            shutil.copyfileobj(packed, out)
    return folder


@needs_shared("data/mnist")
def test_the_real_mnist_is_torchvisions(tmp_path: Path, scratch: Path) -> None:
    folder = plain(tmp_path / "plain")
    found = opened("mnist", MNIST, scratch=scratch, split="all")
    assert [f.known for f in found.files] == [f"complete and original, {f.name} of MNIST" for f in found.files]
    labels = [r.label for r in found.records]
    assert np.bincount(labels[:60_000]).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(labels[60_000:]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    for first, name in ((0, "train"), (60_000, "t10k")):
        expected = reference.read_label_file(str(folder / f"{name}-labels-idx1-ubyte")).numpy()
        assert labels[first : first + len(expected)] == expected.tolist()
        images = reference.read_image_file(str(folder / f"{name}-images-idx3-ubyte")).numpy()
        for place in (0, 1, 5_000, len(images) - 1):
            pixels = found.records[first + place].image.pixels(Target(28, 1, "none", "area"))
            np.testing.assert_array_equal(pixels[:, :, 0], images[place])

    unpacked = opened("mnist", folder, scratch=scratch)
    assert unpacked.files[0].known == "complete and original, train-images-idx3-ubyte of MNIST, packed anew"
    assert [r.key for r in unpacked.records] == [r.key for r in found.records[:60_000]]
