import gzip
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dcgan_dist.data import archives
from dcgan_dist.data.sources import SOURCES, Request, SourceSet
from dcgan_dist.data.synthetic import MODES, draw_flower
from dcgan_dist.data.transforms import Target
from tests.data.made import noise, photos, png, tar
from tests.shared import SHARED, needs_shared

RGB8 = Target(8, 3, "none", "area")


def opened(name: str, *inputs: Path, scratch: Path, **values: int) -> SourceSet:
    return SOURCES[name].open(Request(inputs, values, scratch))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def zipped(path: Path, members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


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
    files = {f"top/{'ab'[n % 2]}/{n}.x.png": png(n) for n in range(4)}
    files |= {"top/readme.txt": b"x", "top/a/.hidden.png": b"x", "__MACOSX/top/a/._1.png": b"x"}
    found = opened("folder", PACKERS[packer](tmp_path / "archive.bin", files), scratch=scratch)
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


def test_flowers17_classes_follow_the_number(tmp_path: Path, scratch: Path) -> None:
    numbers = (1, 80, 81, 1360)
    files = {f"jpg/image_{n:04d}.jpg": png(n) for n in numbers} | {"jpg/files.txt": b"x"}
    found = opened("flowers17", tar(tmp_path / "f.tgz", files), scratch=scratch)
    assert [found.classes[r.label] for r in found.records] == ["daffodil", "daffodil", "snowdrop", "pansy"]
    assert found.notes[1] == "f.tgz has 4 of the 1,360 images of Flowers-17"


@pytest.mark.parametrize("name", ["jpg/image_0000.jpg", "jpg/image_1361.jpg", "jpg/flower.jpg"])
def test_flowers17_refuses_other_names(name: str, tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(ValueError, match=f"must be image_0001.jpg to image_1360.jpg, got '{name}'"):
        opened("flowers17", tar(tmp_path / "f.tgz", {name: b"x"}), scratch=scratch)


@needs_shared("data/flowers17")
def test_the_real_flowers17_has_80_images_a_class(scratch: Path) -> None:
    found = opened("flowers17", SHARED / "data/flowers17/17flowers.tgz", scratch=scratch)
    assert np.bincount([record.label for record in found.records]).tolist() == [80] * 17
    assert found.files[0].sha256 == "a6bfd8fb833b6d06f4bacc0efdf386ccde63d8076b20715185bb9b038f59d878"
    assert found.notes == ()


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


def tar_of(path: Path, name: str, *, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    return path


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("../a.png", "must not contain '..'"),
        ("a/../../a.png", "must not contain '..'"),
        ("/etc/a.png", "must be relative"),
        ("c:/a.png", "must be relative"),
        ("..\\a.png", "must not contain a backslash"),
    ],
)
def test_unsafe_member_names_are_refused(name: str, rule: str, tmp_path: Path, scratch: Path) -> None:
    for path in (tar_of(tmp_path / "a.tgz", name), zipped(tmp_path / "a.zip", {name: b"x"})):
        with pytest.raises(ValueError) as caught:
            opened("folder", path, scratch=scratch)
        assert str(caught.value) == f"{path}: the member name {name!r} {rule}"


def test_a_nul_in_a_zip_name_is_refused(tmp_path: Path, scratch: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"aXb.png": b"x"})
    path.write_bytes(path.read_bytes().replace(b"aXb.png", b"a\0b.png"))
    with pytest.raises(ValueError, match="must not contain a NUL"):
        opened("folder", path, scratch=scratch)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(ValueError, match=r"the member 'a\.png' is a link, a device or sparse"):
        opened("folder", tar_of(tmp_path / "a.tgz", "a.png", kind=kind), scratch=scratch)


def test_links_in_a_zip_and_encrypted_members_are_refused(tmp_path: Path, scratch: Path) -> None:
    info = zipfile.ZipInfo("a.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match=r"the member 'a\.png' is a link"):
        opened("folder", tmp_path / "a.zip", scratch=scratch)
    data = bytearray(zipped(tmp_path / "b.zip", {"a.png": b"x"}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"the member 'a\.png' is encrypted"):
        opened("folder", tmp_path / "b.zip", scratch=scratch)


def test_links_to_folders_are_refused_and_links_to_files_read(tmp_path: Path) -> None:
    photos(tmp_path / "in", images=2)
    (tmp_path / "in" / "cat" / "again.png").symlink_to(tmp_path / "in" / "dog" / "001.png")
    assert len(opened("folder", tmp_path / "in", scratch=tmp_path).records) == 3
    (tmp_path / "in" / "bird").symlink_to(tmp_path / "in" / "dog")
    with pytest.raises(ValueError, match="bird: links to folders are not followed"):
        opened("folder", tmp_path / "in", scratch=tmp_path)


def truncated(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def random_files() -> dict[str, bytes]:
    return {f"{n}.png": png(n) for n in range(40)}


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file or folder"),
    "a web page": (lambda path: path.write_text("<html>" * 100), "must be a folder, a zip, a tar or"),
    "no bytes": (lambda path: path.touch(), "must be a folder, a zip, a tar or"),
    "cut tgz": (lambda path: truncated(tar(path, random_files()), 0.5), "damaged or cut short"),
    "cut txz": (lambda path: truncated(tar(path, random_files(), mode="w:xz"), 0.5), "damaged or cut short"),
    "cut tar": (lambda path: truncated(tar(path, random_files(), mode="w"), 0.5), "cut short"),
    "cut zip": (lambda path: truncated(zipped(path, random_files()), 0.5), "damaged or cut short"),
    "gzip of no tar": (lambda path: path.write_bytes(gzip.compress(b"x" * 2000)), "not a tar"),
    "empty tar": (lambda path: tar(path, {}), "is empty"),
    "empty zip": (lambda path: zipped(path, {}), "is empty"),
    "empty folder": (lambda path: path.mkdir(), "is empty"),
    "no image": (lambda path: tar(path, {"a.txt": b"x"}), "has no image"),
    "same key": (lambda path: tar(path, {"a.png": b"x", "a.jpg": b"x"}), "'a.jpg' and 'a.png' have the same key 'a'"),
    "image beside folders": (lambda path: tar(path, {"a.png": b"x", "b/c.png": b"x"}), "'a.png' is beside folders"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_inputs_are_one_clear_error(name: str, tmp_path: Path, scratch: Path) -> None:
    make, message = BROKEN[name]
    path = tmp_path / "input"
    make(path)
    with pytest.raises(ValueError, match=message) as caught:
        opened("folder", path, scratch=scratch)
    assert str(path) in str(caught.value)


def test_a_damaged_header_in_the_middle_of_a_tar_is_not_its_end(tmp_path: Path, scratch: Path) -> None:
    path = tar(tmp_path / "a.tar", {"1.png": bytes(512), "2.png": bytes(512)}, mode="w")
    data = bytearray(path.read_bytes())
    data[1024 + 148] ^= 1  # the checksum of the second header
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cut short behind member 1"):
        opened("folder", path, scratch=scratch)


def test_bombs_are_refused(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_SPOOL_BYTES", 1_000_000)
    path = tar(tmp_path / "a.tgz", {"a.png": bytes(2_000_000)})
    with pytest.raises(ValueError, match="unpacks to more than 1,000,000 bytes"):
        opened("folder", path, scratch=scratch)
    monkeypatch.setattr(archives, "MAX_SPOOL_RATIO", 10_000)
    assert len(opened("folder", path, scratch=scratch).records) == 1
    monkeypatch.setattr("dcgan_dist.data.sources.MAX_MEMBER_BYTES", 1_000_000)
    with pytest.raises(ValueError, match=r"'a\.png' has 2,000,000 bytes, more than 1,000,000"):
        opened("folder", path, scratch=scratch)


def test_a_zip_that_lies_about_sizes_or_is_damaged_is_found_on_reading(tmp_path: Path, scratch: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.png": bytes(100_000)})
    good = path.read_bytes()
    central = good.index(b"PK\x01\x02")
    for offset, message in ((24, "declares"), (16, "checksum")):
        data = bytearray(good)
        data[central + offset] ^= 1  # of the declared size, of the checksum
        path.write_bytes(data)
        (record,) = opened("folder", path, scratch=scratch).records
        with pytest.raises(ValueError, match=message):
            record.image.pixels(RGB8)


def test_a_file_that_became_shorter_is_found_on_reading(tmp_path: Path) -> None:
    photos(tmp_path / "in", images=1)
    (record,) = opened("folder", tmp_path / "in", scratch=tmp_path).records
    truncated(tmp_path / "in" / "cat" / "000.png", 0.5)
    with pytest.raises(ValueError, match="bytes, has"):
        record.image.pixels(RGB8)
