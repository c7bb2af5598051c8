"""On a made-up archive in the original's layout: CelebA's terms forbid to pass it on."""

import io
from pathlib import Path

import pytest
from PIL import Image

from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.sources.base import Digests
from dcgan_dist.data.sources.known import CELEBA, FLOWERS102, verdict
from dcgan_dist.data.transforms import Target
from tests.data.made import files, noise, opened, zipped

NAMES = [f"{n:06d}.jpg" for n in range(1, 7)]
ATTRIBUTES = f"""6
Bald Smiling Male
{NAMES[0]} -1  1 -1
{NAMES[1]} -1 -1  1
{NAMES[2]}  1  1  1
{NAMES[3]} -1 -1 -1
{NAMES[4]} -1  1 -1
{NAMES[5]} -1 -1  1
"""
IDENTITIES = "".join(f"{name} {person}\n" for name, person in zip(NAMES, (2880, 12, 2880, 300, 12, 9), strict=True))
PARTS = "".join(f"{name} {part}\n" for name, part in zip(NAMES, (0, 0, 0, 1, 2, 2), strict=True))
TABLES = {
    "list_attr_celeba.txt": ATTRIBUTES.encode(),
    "identity_CelebA.txt": IDENTITIES.encode(),
    "list_eval_partition.txt": PARTS.encode(),
}


def face(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(seed, height=218, width=178)).save(buffer, "JPEG")
    return buffer.getvalue()


FACES = {f"img_align_celeba/{name}": face(n) for n, name in enumerate(NAMES)}


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    folder = files(tmp_path / "celeba", TABLES)
    zipped(folder / "img_align_celeba.zip", FACES)
    return folder


@pytest.mark.parametrize("layout", ["files", "downloads", "unpacked"])
def test_every_layout_gives_the_same(layout: str, downloads: Path, scratch: Path) -> None:
    inputs = [downloads]
    if layout == "files":
        inputs = [downloads / name for name in ("img_align_celeba.zip", "list_attr_celeba.txt")]
    if layout == "unpacked":
        files(downloads, FACES)
        (downloads / "img_align_celeba.zip").unlink()
    found = opened("celeba", *inputs, scratch=scratch, label="Smiling")
    assert found.classes == ("not Smiling", "Smiling")
    assert [(r.key, r.label) for r in found.records] == [
        (f"img_align_celeba/{n:06d}", label) for n, label in zip(range(1, 7), (1, 0, 1, 0, 1, 0), strict=True)
    ]
    assert found.records[0].image.pixels(Target(8, 3, "center", "area")).shape == (8, 8, 3)
    assert found.files[0].known == "part of it: 6 of the 202,599 images of CelebA"
    assert found.files[1].known.startswith("not what it says: the md5 of CelebA's list_attr_celeba.txt is 75e246fa")


def test_without_lists_all_are_faces(downloads: Path, scratch: Path) -> None:
    found = opened("celeba", downloads / "img_align_celeba.zip", scratch=scratch)
    assert (found.classes, {r.label for r in found.records}) == (("face",), {0})
    told = opened("celeba", downloads, scratch=scratch).notes
    assert set(told) == {
        "identity_CelebA.txt is not used without --label",
        "list_attr_celeba.txt is not used without --label",
        "list_eval_partition.txt is not used without --split",
    }


def test_identities_are_classes_in_their_order(downloads: Path, scratch: Path) -> None:
    found = opened("celeba", downloads, scratch=scratch, label="identity")
    assert found.classes == ("9", "12", "300", "2880")
    assert [found.classes[r.label] for r in found.records] == ["2880", "12", "2880", "300", "12", "9"]


@pytest.mark.parametrize(("split", "numbers"), [("train", [1, 2, 3]), ("valid", [4]), ("test", [5, 6])])
def test_splits(split: str, numbers: list[int], downloads: Path, scratch: Path) -> None:
    found = opened("celeba", downloads, scratch=scratch, split=split, label="Male")
    assert [r.name for r in found.records] == [f"img_align_celeba/{n:06d}.jpg" for n in numbers]
    assert [r.label for r in found.records] == [[0, 1, 1, 0, 0, 1][n - 1] for n in numbers]


def test_what_is_needed_and_what_there_is_are_named(downloads: Path, scratch: Path) -> None:
    archive = downloads / "img_align_celeba.zip"
    for label, name in (("identity", "identity_CelebA"), ("Smiling", "list_attr_celeba")):
        with pytest.raises(
            ValueError, match=rf"--label {label} needs the file {name}\.txt; give it behind the archive"
        ):
            opened("celeba", archive, scratch=scratch, label=label)
    with pytest.raises(ValueError, match=r"--split test needs the file list_eval_partition\.txt"):
        opened("celeba", archive, scratch=scratch, split="test")
    with pytest.raises(ValueError, match="must be none, identity or one of Bald, Smiling, Male; got 'smiling'"):
        opened("celeba", downloads, scratch=scratch, label="smiling")
    with pytest.raises(ValueError, match=r"CelebA needs its images: img_align_celeba\.zip"):
        opened("celeba", downloads / "identity_CelebA.txt", scratch=scratch)


BAD = {
    "few columns": (
        ATTRIBUTES.replace("-1  1 -1", "-1  1", 1),
        "line 3: must be a name and 3 numbers, got '000001.jpg",
    ),
    "other values": (ATTRIBUTES.replace("-1  1 -1", "-1  2 -1", 1), "Smiling must be 1 or -1, got '2'"),
    "a face twice": (ATTRIBUTES + f"{NAMES[0]} 1 1 1\n", "line 9: '000001.jpg' is there twice"),
    "a face without line": (ATTRIBUTES.replace("000004", "100004"), "has no line for 'img_align_celeba/000004.jpg'"),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_lists_are_named(name: str, downloads: Path, scratch: Path) -> None:
    text, message = BAD[name]
    (downloads / "list_attr_celeba.txt").write_text(text)
    with pytest.raises(DamagedError, match=rf"celeba/list_attr_celeba\.txt.*{message}"):
        opened("celeba", downloads, scratch=scratch, label="Smiling")


def test_parts_are_0_1_or_2(downloads: Path, scratch: Path) -> None:
    (downloads / "list_eval_partition.txt").write_text(PARTS.replace("jpg 1", "jpg 3"))
    with pytest.raises(DamagedError, match=r"list_eval_partition\.txt: a part must be 0, 1 or 2, got '3'"):
        opened("celeba", downloads, scratch=scratch, split="train")


def test_a_list_of_millions_of_lines_is_refused(downloads: Path, scratch: Path) -> None:
    (downloads / "identity_CelebA.txt").write_bytes(b"\n" * 1_000_001)
    with pytest.raises(ValueError, match=r"identity_CelebA\.txt: has more than 1,000,000 lines"):
        opened("celeba", downloads, scratch=scratch)


def test_known_checksums_are_told() -> None:
    digests = Digests("", "00d2c5bc6d35e252742224ab0c1e8fcb")
    assert verdict("x.zip", digests, data_set=CELEBA) == "complete and original, img_align_celeba.zip of CelebA"
    assert verdict("x.zip", digests, data_set=FLOWERS102) == "not what it says: it is img_align_celeba.zip of CelebA"
    other = Digests("", "0" * 32)
    for name, told in (
        ("x.zip", "not in the authors' packing, with all 202,599 images of CelebA"),
        ("img_align_celeba.zip", "not what it says: the md5 of CelebA's img_align_celeba.zip is 00d2c5bc"),
    ):
        assert verdict(name, other, data_set=CELEBA, held=202_599, total=202_599).startswith(told)
