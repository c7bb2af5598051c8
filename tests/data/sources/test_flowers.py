import io
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat
from torchvision.datasets import Flowers102

from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.sources.flower_names import FLOWERS102_CLASSES
from dcgan_dist.data.sources.mats import read_mat
from dcgan_dist.data.transforms import Target
from tests.data.made import files, opened, png, tar
from tests.shared import SHARED, needs_shared

FLOWERS17 = SHARED / "data/flowers17/17flowers.tgz"
FLOWERS102 = SHARED / "data/flowers102"
PART102 = FLOWERS102 / "102flowers-short96-part.tgz"


def mat(**variables: Any) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, variables, do_compression=True)
    return buffer.getvalue()


def archive17(path: Path, *numbers: int) -> Path:
    return tar(path, {f"jpg/image_{n:04d}.jpg": png(n) for n in numbers} | {"jpg/files.txt": b"x"})


def set102(folder: Path, **tables: bytes) -> Path:
    """Four images of the classes 77, 3, 3 and 102, as downloaded."""
    folder.mkdir()
    tar(folder / "102flowers.tgz", {f"jpg/image_{n:05d}.jpg": png(n) for n in (1, 2, 3, 4)})
    labels = mat(labels=np.array([[77, 3, 3, 102]], np.uint8))
    splits = mat(trnid=np.array([[4]]), valid=np.array([[2]]), tstid=np.array([[1, 3]]))
    return files(folder, {"imagelabels.mat": labels, "setid.mat": splits} | {f"{n}.mat": t for n, t in tables.items()})


def test_classes_of_flowers17_follow_the_number(tmp_path: Path, scratch: Path) -> None:
    found = opened("flowers17", archive17(tmp_path / "f.tgz", 1, 80, 81, 1360), scratch=scratch)
    assert [found.classes[r.label] for r in found.records] == ["daffodil", "daffodil", "snowdrop", "pansy"]
    assert found.files[0].known == "part of it: 4 of the 1,360 images of Oxford Flowers-17"
    assert found.notes == (f"ignored 1 other file in {tmp_path / 'f.tgz'}",)


def test_parts_of_flowers17_are_joined(tmp_path: Path, scratch: Path) -> None:
    parts = [archive17(tmp_path / "b.tgz", 1360, 5), archive17(tmp_path / "a.tgz", 81)]
    found = opened("flowers17", *parts, scratch=scratch)
    assert [r.key for r in found.records] == ["jpg/image_0005", "jpg/image_0081", "jpg/image_1360"]
    again = archive17(tmp_path / "c.tgz", 81)
    with pytest.raises(ValueError, match=r"c\.tgz: 'jpg/image_0081\.jpg' is in .*a\.tgz too"):
        opened("flowers17", *parts, again, scratch=scratch)


@pytest.mark.parametrize("name", ["jpg/image_0000.jpg", "jpg/image_1361.jpg", "jpg/flower.jpg", "jpg/image_00001.jpg"])
def test_flowers17_refuses_other_names(name: str, tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(ValueError, match=f"must be image_0001.jpg to image_1360.jpg, got '{name}'"):
        opened("flowers17", tar(tmp_path / "f.tgz", {name: b"x"}), scratch=scratch)


def test_classes_of_flowers102_come_from_the_labels(tmp_path: Path, scratch: Path) -> None:
    folder = set102(tmp_path / "in")
    found = opened("flowers102", folder / "102flowers.tgz", folder / "imagelabels.mat", scratch=scratch)
    assert [found.classes[r.label] for r in found.records] == [
        "passion flower",
        "canterbury bells",
        "canterbury bells",
        "blackberry lily",
    ]
    assert [file.name for file in found.files] == ["102flowers.tgz", "imagelabels.mat"]
    assert found.files[1].known.startswith("not what it says: the md5 of Oxford Flowers-102's imagelabels.mat is e0620")
    with pytest.raises(
        ValueError, match=r"needs the file imagelabels\.mat for its classes; give it behind the archive"
    ):
        opened("flowers102", folder / "102flowers.tgz", scratch=scratch)
    with pytest.raises(ValueError, match="needs its images"):
        opened("flowers102", folder / "imagelabels.mat", scratch=scratch)


@pytest.mark.parametrize(
    ("split", "numbers"), [("train", [4]), ("valid", [2]), ("test", [1, 3]), ("all", [1, 2, 3, 4])]
)
def test_splits_of_flowers102(split: str, numbers: list[int], tmp_path: Path, scratch: Path) -> None:
    found = opened("flowers102", set102(tmp_path / "in"), scratch=scratch, split=split)
    assert [r.name for r in found.records] == [f"jpg/image_{n:05d}.jpg" for n in numbers]
    assert ("setid.mat is not used without --split" in found.notes) == (split == "all")
    (tmp_path / "in" / "setid.mat").unlink()
    if split != "all":
        with pytest.raises(ValueError, match=rf"--split {split} needs the file setid\.mat"):
            opened("flowers102", tmp_path / "in", scratch=scratch, split=split)


def test_an_unpacked_folder_is_read_as_the_archive(tmp_path: Path, scratch: Path) -> None:
    packed = opened("flowers102", set102(tmp_path / "in"), scratch=scratch)
    files(tmp_path / "in", {f"jpg/image_{n:05d}.jpg": png(n) for n in (1, 2, 3, 4)})
    loose = opened("flowers102", tmp_path / "in", scratch=scratch)
    assert [(r.key, r.label) for r in loose.records] == [(r.key, r.label) for r in packed.records]
    assert "ignored 1 other file" in loose.notes[0]  # the archive


def test_both_sets_of_flowers_are_one(tmp_path: Path, scratch: Path) -> None:
    folder = set102(tmp_path / "in")
    archive17(folder / "17flowers.tgz", 1, 1360)
    found = opened("flowers", folder, scratch=scratch)
    assert [(r.key, found.classes[r.label]) for r in found.records] == [
        ("17/jpg/image_0001", "17/daffodil"),
        ("17/jpg/image_1360", "17/pansy"),
        ("102/jpg/image_00001", "102/passion flower"),
        ("102/jpg/image_00002", "102/canterbury bells"),
        ("102/jpg/image_00003", "102/canterbury bells"),
        ("102/jpg/image_00004", "102/blackberry lily"),
    ]
    assert len(found.classes) == len(set(found.classes)) == 119
    with pytest.raises(ValueError, match=r"there are none of Flowers-17 \(17flowers\.tgz\)"):
        opened("flowers", folder / "102flowers.tgz", folder / "imagelabels.mat", scratch=scratch)


def bomb() -> bytes:
    """A MATLAB file of 60 kB that unpacks to 60 MB."""
    return mat(labels=np.zeros((1, 60_000_000), np.uint8))


def element(kind: int, content: bytes) -> bytes:
    """A piece of a MATLAB file."""
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def twice() -> bytes:
    """A good vector of labels behind 20,000 cells in cells of the same name, which end a process that makes them."""
    good = io.BytesIO()
    savemat(good, {"labels": np.array([[1]], np.uint8)})
    cell = element(6, struct.pack("<II", 1, 0)) + element(5, struct.pack("<ii", 1, 1))  # flags and shape
    heads, size = [], 0
    for depth in range(20_000):
        name = element(1, b"labels") if depth == 19_999 else element(1, b"")
        heads.append(struct.pack("<II", 14, len(cell + name) + size) + cell + name)
        size += len(heads[-1])
    nested = zlib.compress(b"".join(reversed(heads)), 9)
    return good.getvalue()[:128] + struct.pack("<II", 15, len(nested)) + nested + good.getvalue()[128:]


BAD_MATS = {
    "a number with no integer": mat(labels=np.array([[1e300]])),
    "complex and whole": mat(labels=np.array([[1 + 0j]])),
    "text": b"hello",
    "nothing": b"",
    "no such variable": mat(other=np.array([[1]])),
    "a cell": mat(labels=np.array([{}, {}], object)),
    "text inside": mat(labels="abc"),
    "a structure": mat(labels={"a": 1}),
    "complex": mat(labels=np.array([[1j]])),
    "halves": mat(labels=np.array([[1.5]])),
    "not a number": mat(labels=np.array([[np.nan]])),
    "empty": mat(labels=np.zeros((1, 0))),
    "three sides": mat(labels=np.ones((2, 2, 2))),
    "cut": mat(labels=np.ones((1, 999)))[:-9],
    "HDF5": b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + b"\x89HDF\r\n\x1a\n" * 9,
}


@pytest.mark.parametrize("name", BAD_MATS)
def test_other_mats_are_damage(name: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=r"l\.mat: not the MATLAB 5 file it should be: "):
        read_mat(BAD_MATS[name], ["labels"], where=tmp_path / "l.mat")


def test_a_mat_with_a_name_twice_is_refused_by_its_headers(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="labels must be there once, is there 2 times"):
        read_mat(twice(), ["labels"], where=tmp_path)


def test_a_mat_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    data = bomb()
    tracemalloc.start()
    with pytest.raises(DamagedError, match="a variable has more than 8,388,608 bytes"):
        read_mat(data, ["labels"], where=tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    with pytest.raises(ValueError, match="must have at most 65,536 bytes"):
        read_mat(bytes(65_537), ["labels"], where=tmp_path)


def test_labels_out_of_range_are_damage(tmp_path: Path, scratch: Path) -> None:
    folder = set102(tmp_path / "in")
    (folder / "imagelabels.mat").write_bytes(mat(labels=np.array([[1, 2, 103, 4]])))
    with pytest.raises(DamagedError, match=r"imagelabels\.mat: labels must be 1 to 102, got 1 to 103"):
        opened("flowers102", folder, scratch=scratch)


@pytest.fixture(scope="module")
def real102(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real set, unpacked as far as names go: the images are empty."""
    folder = tmp_path_factory.mktemp("flowers102")
    with tarfile.open(PART102) as archive:
        files(folder, {member.name: b"" for member in archive if member.isreg()})
    return files(folder, {name: (FLOWERS102 / name).read_bytes() for name in ("imagelabels.mat", "setid.mat")})


def test_class_names_are_those_of_torchvision() -> None:
    assert list(FLOWERS102_CLASSES) == Flowers102.classes


@needs_shared("data/flowers17")
def test_the_real_flowers17_has_80_images_a_class(scratch: Path) -> None:
    found = opened("flowers17", FLOWERS17, scratch=scratch)
    assert np.bincount([record.label for record in found.records]).tolist() == [80] * 17
    assert found.files[0].sha256 == "a6bfd8fb833b6d06f4bacc0efdf386ccde63d8076b20715185bb9b038f59d878"
    assert found.files[0].known == "complete and original, all images of Oxford Flowers-17, packed anew"
    assert found.notes == ()


@needs_shared("data/flowers102")
def test_the_real_flowers102(scratch: Path) -> None:
    found = opened("flowers102", FLOWERS102, scratch=scratch)
    assert [file.known for file in found.files] == [
        "part of it: 5,090 of the 8,189 images of Oxford Flowers-102",
        "complete and original, imagelabels.mat of Oxford Flowers-102",
    ]
    labels = loadmat(FLOWERS102 / "imagelabels.mat")["labels"].ravel()
    with tarfile.open(PART102) as archive:
        numbers = sorted(int(name[-9:-4]) for name in archive.getnames())
        image = Image.open(io.BytesIO(archive.extractfile(f"jpg/image_{numbers[7]:05d}.jpg").read()))  # type: ignore[union-attr]
    counts = np.bincount([labels[number - 1] for number in numbers], minlength=103)[1:]
    assert np.bincount([r.label for r in found.records]).tolist() == counts.tolist()
    assert (min(counts), max(counts), len(counts)) == (27, 60, 102)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS))
    pixels = found.records[7].image.pixels(Target(32, 3, "none", "lanczos"))
    assert np.abs(pixels.astype(int) - expected).mean() < 2  # decoded at a reduced scale
    assert found.classes[found.records[0].label] == "passion flower"  # of image 1; class 77


@needs_shared("data/flowers102")
@pytest.mark.parametrize(("split", "count"), [("train", 829), ("valid", 812), ("test", 3449)])
def test_splits_of_the_real_flowers102(split: str, count: int, real102: Path, scratch: Path) -> None:
    found = opened("flowers102", real102, scratch=scratch, split=split)
    assert len(found.records) == count
    splits = loadmat(FLOWERS102 / "setid.mat")[{"train": "trnid", "valid": "valid", "test": "tstid"}[split]].ravel()
    assert {int(r.name[-9:-4]) for r in found.records} <= set(splits.tolist())


@needs_shared("data/flowers102")
def test_the_real_flowers_are_both(scratch: Path) -> None:
    found = opened("flowers", FLOWERS17, PART102, FLOWERS102 / "imagelabels.mat", scratch=scratch)
    counts = np.bincount([r.label for r in found.records], minlength=119)
    assert counts[:17].tolist() == [80] * 17
    assert counts[17:].sum() == 5090


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_numbers_of_every_type_are_read(kind: str, compressed: bool, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    savemat(buffer, {"a": "text", "labels": np.array([[1, 2], [3, 100]], kind)}, do_compression=compressed)
    assert read_mat(buffer.getvalue(), ["labels"], where=tmp_path)["labels"].tolist() == [1, 3, 2, 100]


def test_a_mat_of_a_big_endian_machine_is_read(tmp_path: Path) -> None:
    def piece(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    flags, shape = piece(6, struct.pack(">II", 11, 0)), piece(5, struct.pack(">ii", 1, 3))
    values = piece(4, struct.pack(">3H", 5, 6, 258))
    name = struct.pack(">HH", 3, 1) + b"abc\0"  # a short element
    data = b"MATLAB 5.0".ljust(124) + b"\1\0MI" + piece(14, flags + shape + name + values)
    assert read_mat(data, ["abc"], where=tmp_path)["abc"].tolist() == [5, 6, 258]


@needs_shared("data/flowers102")
def test_the_real_mats_are_read_as_by_scipy() -> None:
    for file, names in (("imagelabels.mat", ["labels"]), ("setid.mat", ["trnid", "valid", "tstid"])):
        path = FLOWERS102 / file
        expected = loadmat(path)
        for name, values in read_mat(path.read_bytes(), names, where=path).items():
            assert values.tolist() == expected[name].ravel().tolist()
