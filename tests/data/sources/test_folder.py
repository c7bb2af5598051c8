import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dcgan_dist.data.sources.keys import unique_keys
from dcgan_dist.data.synthetic import MODES, draw_flower
from dcgan_dist.data.transforms import Target
from tests.data.made import files, noise, opened, photos, png, tar, zipped

RGB8 = Target(8, 3, "none", "area")

PACKERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "tar": lambda path, members: tar(path, members, mode="w"),
    "tgz": lambda path, members: tar(path, members, mode="w:gz"),
    "txz": lambda path, members: tar(path, members, mode="w:xz"),
    "tbz": lambda path, members: tar(path, members, mode="w:bz2"),
    "stored zip": lambda path, members: zipped(path, members, method=zipfile.ZIP_STORED),
    "deflated zip": lambda path, members: zipped(path, members),
}


@pytest.mark.parametrize("packer", PACKERS)
def test_folder_reads_every_kind_of_archive(packer: str, tmp_path: Path, scratch: Path) -> None:
    given = {f"top/{'ab'[n % 2]}/{n}.x.png": png(n) for n in range(4)}
    given |= {"top/readme.txt": b"x", "top/a/.hidden.png": b"x", "__MACOSX/top/a/._1.png": b"x"}
    found = opened("folder", PACKERS[packer](tmp_path / "archive.bin", given), scratch=scratch)
    assert found.classes == ("a", "b")
    assert [(r.key, r.label) for r in found.records] == [
        ("top/a/0_x", 0),
        ("top/a/2_x", 0),
        ("top/b/1_x", 1),
        ("top/b/3_x", 1),
    ]
    for record, seed in zip(found.records, (0, 2, 1, 3), strict=True):
        np.testing.assert_array_equal(record.image.pixels(RGB8), noise(seed))
    assert found.notes == (f"ignored 1 other file in {tmp_path / 'archive.bin'}",)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["1.png", "2.png"], ("all",)),
        (["b/1.png", "a/1.png"], ("a", "b")),
        (["b/1.png", "b/2.png"], ("b",)),
        (["t/b/1.png", "t/a/1.png"], ("a", "b")),
        (["a/x/1.png", "a/y/2.png", "b/3.png"], ("a", "b")),
    ],
)
def test_class_is_the_first_folder_not_all_share(names: list[str], classes: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(png(0))
    assert opened("folder", tmp_path / "in", scratch=tmp_path).classes == classes


def test_a_folders_checksum_is_that_of_its_sha256sum_listing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"abc")
    (file,) = opened("folder", tmp_path / "in", scratch=tmp_path).files
    assert (file.name, file.bytes) == ("in", 3)
    # printf abc > a.png; sha256sum a.png | sha256sum
    assert file.sha256 == "e3f783f7698c435543b3ddf52b335d93e1ffb8ec82c640846c33f8ab2be5392b"


def test_synthetic_records_are_the_drawings(tmp_path: Path) -> None:
    found = opened("synthetic", scratch=tmp_path, count=3, seed=5)
    assert [record.key for record in found.records] == ["synthetic-000000", "synthetic-000001", "synthetic-000002"]
    image, label = draw_flower(2, seed=5, size=16)
    assert found.records[2].label == label
    np.testing.assert_array_equal(found.records[2].image.pixels(Target(16, 3, "none", "area")), image)
    assert found.records[2].image.pixels(Target(16, 1, "none", "area")).shape == (16, 16, 1)
    assert found.classes == tuple(mode.name for mode in MODES)
    with pytest.raises(ValueError, match="count must be positive, got 0"):
        opened("synthetic", scratch=tmp_path, count=0, seed=0)


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["a/1.jpg", "a/2.png"], ["a/1", "a/2"]),
        (["a.jpg", "a.png", "b.png"], ["a-jpg", "a-png", "b"]),
        (["a.b.png", "a_b.png"], ["a_b-png", "a_b-png-2"]),
        (["a-png.jpg", "a.jpg", "a.png"], ["a-png", "a-jpg", "a-png-2"]),
        (["__x__/1.png", "x__/1.png"], ["x__/1-png", "x__/1-png-2"]),
        (["____/1.png"], ["x/1"]),
        (["b/__x__/1.png", "__x__.png"], ["b/__x__/1", "__x__"]),
        (["\x1b[31m.png", "a\nb.png", "\u202egnp.png"], ["_[31m", "a_b", "_gnp"]),
    ],
)
def test_keys_are_distinct_and_fit_for_a_webdataset(names: list[str], keys: list[str]) -> None:
    assert unique_keys(names) == keys


def test_images_that_differ_in_their_suffix_alone_are_both_there(tmp_path: Path) -> None:
    files(tmp_path / "in", {"a.png": png(1), "a.bmp": png(2)})
    found = opened("folder", tmp_path / "in", scratch=tmp_path)
    assert [(r.key, r.name) for r in found.records] == [("a-bmp", "a.bmp"), ("a-png", "a.png")]


def test_inputs_with_class_folders_are_joined_by_class(tmp_path: Path, scratch: Path) -> None:
    one = files(tmp_path / "one", {"cat/1.png": png(1), "dog/1.png": png(2)})
    two = tar(tmp_path / "two.tgz", {"two/dog/1.png": png(3), "two/bird/1.png": png(4)})
    found = opened("folder", one, two, scratch=scratch)
    assert found.classes == ("bird", "cat", "dog")
    assert [(r.key, found.classes[r.label]) for r in found.records] == [
        ("one/cat/1", "cat"),
        ("one/dog/1", "dog"),
        ("two/two/bird/1", "bird"),
        ("two/two/dog/1", "dog"),
    ]
    assert [file.name for file in found.files] == ["one", "two.tgz"]
    for record, seed in zip(found.records, (1, 2, 4, 3), strict=True):
        np.testing.assert_array_equal(record.image.pixels(RGB8), noise(seed))


def test_inputs_without_class_folders_are_classes(tmp_path: Path, scratch: Path) -> None:
    one = files(tmp_path / "cats", {"1.png": png(1)})
    two = zipped(tmp_path / "dogs.zip", {"1.png": png(2)})
    found = opened("folder", one, two, scratch=scratch)
    assert [(r.key, r.name, found.classes[r.label]) for r in found.records] == [
        ("cats/1", "cats/1.png", "cats"),
        ("dogs/1", "dogs.zip/1.png", "dogs"),
    ]
    with pytest.raises(ValueError, match="cats: is given twice"):
        opened("folder", one, one, scratch=scratch)


def test_inputs_of_the_same_name_have_distinct_keys(tmp_path: Path, scratch: Path) -> None:
    one, two = (files(tmp_path / name / "photos", {"1.png": png(1)}) for name in ("x", "y"))
    found = opened("folder", one, two, scratch=scratch)
    assert [r.key for r in found.records] == ["photos/1-png", "photos/1-png-2"]


def test_what_macos_leaves_in_zips_is_no_image(tmp_path: Path, scratch: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a/1.png": png(1), "__MACOSX/a/1.png": b"x"})
    assert [r.name for r in opened("folder", path, scratch=scratch).records] == ["a/1.png"]


def test_content_identifies_what_a_record_is_read_from(tmp_path: Path, scratch: Path) -> None:
    folder = photos(tmp_path / "in", images=2)
    first = opened("folder", folder, scratch=scratch).records
    (folder / "cat" / "000.png").write_bytes(png(9))
    second = opened("folder", folder, scratch=scratch).records
    assert [one.content == other.content for one, other in zip(first, second, strict=True)] == [False, True]
    packed = opened("folder", tar(tmp_path / "a.tgz", {"a.png": png(1)}), scratch=scratch)
    assert packed.records[0].content == packed.files[0].sha256
