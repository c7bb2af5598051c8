import gzip
import io
import lzma
import os
import resource
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dcgan_dist.data import archives, members
from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.transforms import Target
from tests.data.made import noise, opened, photos, png, tar, zipped

RGB8 = Target(8, 3, "none", "area")


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


def tar_twice(path: Path, name: str) -> Path:
    with tarfile.open(path, "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo(name))
    return path


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
    "a name twice": (lambda path: tar_twice(path, "a.png"), "'a.png' is there twice"),
    "a pipe": (lambda path: os.mkfifo(path), "must be a file or a folder, is a pipe or a device"),
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
    with pytest.raises(DamagedError, match="cut short behind member 1"):
        opened("folder", path, scratch=scratch)


def test_bombs_are_refused(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_SPOOL_BYTES", 1_000_000)
    path = tar(tmp_path / "a.tgz", {"a.png": bytes(2_000_000)})
    with pytest.raises(ValueError, match="unpacks to more than 1,000,000 bytes"):
        opened("folder", path, scratch=scratch)
    monkeypatch.setattr(archives, "MAX_SPOOL_RATIO", 10_000)
    assert len(opened("folder", path, scratch=scratch).records) == 1
    monkeypatch.setattr(members, "MAX_MEMBER_BYTES", 1_000_000)
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


def test_damage_and_mistakes_are_told_apart(tmp_path: Path, scratch: Path) -> None:
    damaged = truncated(tar(tmp_path / "a.tgz", random_files()), 0.5)
    with pytest.raises(DamagedError):
        opened("folder", damaged, scratch=scratch)
    with pytest.raises(ValueError) as caught:
        opened("folder", tmp_path / "missing", scratch=scratch)
    assert not isinstance(caught.value, DamagedError)


def test_pipes_and_dead_links_among_images_are_told(tmp_path: Path, scratch: Path) -> None:
    folder = photos(tmp_path / "in", images=2)
    os.mkfifo(folder / "cat" / "pipe.png")
    (folder / "dog" / "dead.png").symlink_to("nowhere.png")
    (folder / "dog" / ".dead.png").symlink_to("nowhere.png")  # hidden: no concern
    found = opened("folder", folder, scratch=scratch)
    assert len(found.records) == 2
    note = f"ignored in {folder}, being a pipe, a device or a link to nowhere: cat/pipe.png, dog/dead.png"
    assert found.notes == (note,)


def test_several_xz_streams_are_one_file(tmp_path: Path, scratch: Path) -> None:
    whole = tar(tmp_path / "a.tar", {"a.png": png(1), "b.png": png(2)}, mode="w").read_bytes()
    parts = [lzma.compress(whole[:700]), bytes(8), lzma.compress(whole[700:]), bytes(4)]
    (tmp_path / "a.txz").write_bytes(b"".join(parts))
    assert len(opened("folder", tmp_path / "a.txz", scratch=scratch).records) == 2


def test_an_xz_that_needs_much_memory_is_refused(tmp_path: Path, scratch: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 2**20}]
    packed = bytearray(lzma.compress(bytes(2000), lzma.FORMAT_XZ, filters=filters))
    place = packed.index(b"\x21\x01", 12)  # LZMA2, one byte of properties: the size of its dictionary
    packed[place + 2] = 40  # 4 GiB - 1
    header = bytes(packed[12 : 12 + (packed[12] + 1) * 4 - 4])
    packed[12 + len(header) : 16 + len(header)] = zlib.crc32(header).to_bytes(4, "little")
    (tmp_path / "a.txz").write_bytes(packed)
    with pytest.raises(DamagedError, match="Memory usage limit exceeded"):
        opened("folder", tmp_path / "a.txz", scratch=scratch)


def tar_header(name: bytes, size: int, kind: bytes, *, magic: bytes = b"ustar\x0000") -> bytes:
    """A header as it stands in a tar."""
    if size < 0:
        field = (256**12 + size).to_bytes(12, "big")
    else:
        field = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    fields = [name.ljust(100, b"\0"), b"0000644\0" + b"0000000\0" * 2, field, b"0" * 11 + b"\0", b" " * 8, kind]
    block = (b"".join(fields) + bytes(100) + magic).ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


PAX = b"x"
LONG_NAME = b"L"
BAD_TARS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a PAX header of gigabytes": (lambda: tar_header(b"x", 3 * 2**30, PAX), "3,221,225,472 bytes of metadata"),
    "a name of gigabytes": (lambda: tar_header(b"x", 3 * 2**30, LONG_NAME), "3,221,225,472 bytes of metadata"),
    "headers without end": (lambda: tar_header(b"x", 0, PAX) * 20_000, "metadata|recursion"),
    "a size beyond the end": (
        lambda: tar_header(b"a.png", 1025, b"0"),
        r"cut short: the member 'a\.png' ends outside of it",
    ),
    "a negative size": (lambda: tar_header(b"a.png", -1024, b"0") + bytes(1024), "not a tar|backwards|damaged"),
    "a negative PAX header": (lambda: tar_header(b"x", -512, PAX) + bytes(1024), "not a tar|backwards|damaged"),
    "a size beyond all files": (lambda: tar_header(b"a.png", 2**62, b"0") + bytes(1024), "damaged|cut short|not a tar"),
}


@pytest.mark.parametrize("name", BAD_TARS)
def test_nonsense_in_a_tar_is_damage_and_costs_nothing(name: str, tmp_path: Path, scratch: Path) -> None:
    make, message = BAD_TARS[name]
    (tmp_path / "a.tar").write_bytes(make() + bytes(1024))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedError, match=message) as caught:
        opened("folder", tmp_path / "a.tar", scratch=scratch)
    assert str(tmp_path / "a.tar") in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_millions_of_members_are_refused(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 100)
    files = {f"{n}.png": b"" for n in range(101)}
    for path in (tar(tmp_path / "a.tgz", files), zipped(tmp_path / "a.zip", files)):
        with pytest.raises(ValueError, match="more than 100 members"):
            opened("folder", path, scratch=scratch)
    del files["0.png"]
    for path in (tar(tmp_path / "b.tgz", files), zipped(tmp_path / "b.zip", files)):
        assert len(opened("folder", path, scratch=scratch).records) == 100


def test_a_zip_directory_that_lies_is_damage(tmp_path: Path, scratch: Path) -> None:
    good = zipped(tmp_path / "a.zip", {"a.png": b"x", "b.png": b"y"}).read_bytes()
    end = good.rindex(b"PK\x05\x06")
    for place, value in ((12, 2**32 - 2), (16, 2**32 - 2), (12, 1)):  # size and offset of the directory
        data = bytearray(good)
        data[end + place : end + place + 4] = value.to_bytes(4, "little")
        (tmp_path / "a.zip").write_bytes(data)
        with pytest.raises(DamagedError, match="damaged"):
            opened("folder", tmp_path / "a.zip", scratch=scratch)


def test_zips_with_numbers_of_64_bits_are_read(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)  # as if all were larger than 4 GB
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    path = zipped(tmp_path / "a.zip", {"a.png": png(1), "b.png": png(2)})
    data = path.read_bytes()
    assert b"PK\x06\x06" in data
    entry = data.index(b"PK\x01\x02")
    assert data[entry + 20 : entry + 28] == b"\xff" * 8
    records = opened("folder", path, scratch=scratch).records
    np.testing.assert_array_equal([record.image.pixels(RGB8) for record in records], [noise(1), noise(2)])


def test_names_in_a_zip_are_utf8_or_of_code_page_437(tmp_path: Path, scratch: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"\u00fc.png": png(1), "aX.png": png(2)})
    data = path.read_bytes().replace(b"aX.png", b"a\x81.png")  # the old code for the same letter
    path.write_bytes(data)
    assert [r.name for r in opened("folder", path, scratch=scratch).records] == ["a\u00fc.png", "\u00fc.png"]
    path.write_bytes(data.replace("\u00fc".encode(), b"\xff\xfe"))
    with pytest.raises(ValueError, match="must be UTF-8"):
        opened("folder", path, scratch=scratch)


def test_a_zip_behind_something_else_is_read(tmp_path: Path, scratch: Path) -> None:
    data = zipped(tmp_path / "a.zip", {"a.png": png(1)}).read_bytes()
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 once more: " + data)
    (record,) = opened("folder", tmp_path / "a.zip", scratch=scratch).records
    np.testing.assert_array_equal(record.image.pixels(RGB8), noise(1))


def test_a_zip_whose_members_are_elsewhere_is_found_on_reading(tmp_path: Path, scratch: Path) -> None:
    data = bytearray(zipped(tmp_path / "a.zip", {"a.png": b"x"}).read_bytes())
    data[data.rindex(b"PK\x05\x06") + 16] -= 1
    (tmp_path / "a.zip").write_bytes(data)
    (record,) = opened("folder", tmp_path / "a.zip", scratch=scratch).records
    with pytest.raises(DamagedError, match="has no local header"):
        record.image.pixels(RGB8)


def test_long_member_names_are_refused(tmp_path: Path, scratch: Path) -> None:
    path = tar(tmp_path / "a.tgz", {"x" * 1025 + ".png": b""})
    with pytest.raises(ValueError, match=r"at most 1,024 characters, 'x{40}'\.\.\. has 1,029"):
        opened("folder", path, scratch=scratch)


def test_errors_of_the_disk_name_the_file(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "a.tar", {"a.png": png(1)}, mode="w")

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched, pytest.raises(OSError) as caught:  # noqa: PT012
        patched.setattr(Path, "open", lambda *_: Failing())
        archives.kind(path)
    assert caught.value.filename == str(path)
