import gc
import io
import pickle
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcgan_dist.data.transforms import Target
from tests.data.made import files, noise, opened, png, tar

RGB8 = Target(8, 3, "none", "area")


def shard(path: Path, *seeds: int, **more: bytes) -> Path:
    """Written by webdataset itself."""
    from webdataset.writer import TarWriter

    with path.open("wb") as file, TarWriter(file, encoder=False) as writer:
        for seed in seeds:
            writer.write({"__key__": f"{seed:03d}", "png": png(seed), "cls": str(seed % 3 * 5).encode(), **more})
    return path


def test_somebody_elses_tars(tmp_path: Path, scratch: Path) -> None:
    one, two = shard(tmp_path / "a.tar", 1, 2, json=b"{}"), shard(tmp_path / "b.tar", 1, 3)
    found = opened("webdataset", one, two, scratch=scratch)
    assert found.classes == ("0", "5", "10")
    assert [(r.key, found.classes[r.label]) for r in found.records] == [
        ("a/001", "5"),
        ("a/002", "10"),
        ("b/001", "5"),
        ("b/003", "0"),
    ]
    for record, seed in zip(found.records, (1, 2, 1, 3), strict=True):
        np.testing.assert_array_equal(record.image.pixels(RGB8), noise(seed))
    assert found.notes == (f"ignored 2 other files in {one}",)


def test_shards_of_webdatasets_own_writer(tmp_path: Path, scratch: Path) -> None:
    from webdataset.writer import ShardWriter

    (tmp_path / "in").mkdir()
    with ShardWriter(str(tmp_path / "in" / "set-%03d.tar"), maxcount=3, verbose=0) as writer:
        for seed in range(7):
            writer.write({"__key__": f"{seed:03d}", "png": noise(seed), "cls": seed % 2, "json": {"seed": seed}})
    found = opened("webdataset", tmp_path / "in", scratch=scratch)
    assert found.classes == ("0", "1")
    assert [(r.key, r.label) for r in found.records] == [
        (f"set-{seed // 3:03d}/{seed:03d}", seed % 2) for seed in range(7)
    ]
    np.testing.assert_array_equal([r.image.pixels(RGB8) for r in found.records], [noise(seed) for seed in range(7)])
    assert found.files[0].name == "set-000.tar"


def test_a_folder_of_tars_and_a_lone_tar(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "in").mkdir()
    shard(tmp_path / "in" / "b.tar", 2)
    shard(tmp_path / "in" / "a.tar", 1)
    assert [r.key for r in opened("webdataset", tmp_path / "in", scratch=scratch).records] == ["a/001", "b/002"]
    alone = opened("webdataset", tmp_path / "in" / "a.tar", scratch=scratch)
    assert [r.key for r in alone.records] == ["001"]


def test_our_own_shards_are_read_too(tmp_path: Path, scratch: Path) -> None:
    from dcgan_dist.shard import main

    main(["synthetic", "--out", str(tmp_path / "set"), "--size=8", "--count=40", "--shard-images=16", "--quiet"])
    found = opened("webdataset", tmp_path / "set", scratch=scratch)
    assert len(found.records) == 40
    assert {r.key.split("/")[0] for r in found.records} == {"set-000000", "set-000001", "set-000002"}


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_what_would_run_code_is_told_and_ignored(tmp_path: Path, scratch: Path) -> None:
    evil = pickle.dumps(Evil(tmp_path / "ran"))
    endings = ("pyd", "pickle", "pkl", "pth", "pyd.gz", "npy")
    path = tar(tmp_path / "a.tar", {"1.jpeg": png(1)} | {f"1.{ending}": evil for ending in endings}, mode="w")
    found = opened("webdataset", path, scratch=scratch)
    np.testing.assert_array_equal(found.records[0].image.pixels(RGB8), noise(1))
    assert found.classes == ("all",)
    (note,) = found.notes
    assert note == "ignored 6 files that could run code when decoded: 1.npy, 1.pickle, 1.pkl, 1.pth, 1.pyd, ..."
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.jpg": b"", "1.png": b""}, "a key must have one image, '1' has '1.jpg' and '1.png'"),
        ({"1.png": b"", "1.CLS": b"1", "1.cls": b"2"}, "a key must have one class, '1' has '1.CLS' and '1.cls'"),
        ({"1.png": b"", "2.png": b"", "2.cls": b"1"}, "every image must have a KEY.cls, or none; '1.png' has none"),
        ({"1.png": b"", "1.cls": b"cat"}, "'1.cls' must be the number of a class, got b'cat'"),
        ({"1.png": b"", "1.cls": b"-1"}, "must be the number of a class, got b'-1'"),
        ({"1.png": b"", "1.cls": b"9" * 30}, "must be the number of a class, got b''"),
        ({"1.cls": b"1", "1.seg.png": b""}, "has no image"),
    ],
)
def test_mistakes_are_named(members: dict[str, bytes], message: str, tmp_path: Path, scratch: Path) -> None:
    path = tar(tmp_path / "a.tar", members, mode="w")
    with pytest.raises(ValueError, match=message) as caught:
        opened("webdataset", path, scratch=scratch)
    assert str(path) in str(caught.value)


def test_a_key_twice_and_links_are_refused(tmp_path: Path, scratch: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for _ in range(2):
            info = tarfile.TarInfo("1.png")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    with pytest.raises(ValueError, match=r"a\.tar: '1\.png' is there twice"):
        opened("webdataset", tmp_path / "a.tar", scratch=scratch)
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        info = tarfile.TarInfo("1.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(ValueError, match="is a link"):
        opened("webdataset", tmp_path / "b.tar", scratch=scratch)


def test_pipes_and_addresses_are_no_files(scratch: Path) -> None:
    for name in ("pipe:touch ran", "https://example.com/a.tar"):
        with pytest.raises(ValueError, match="no such file or folder"):
            opened("webdataset", Path(name), scratch=scratch)


def test_webdataset_reads_shards_whose_classes_have_odd_names(tmp_path: Path) -> None:
    import webdataset

    from dcgan_dist.shard import main

    files(tmp_path / "in", {"__x__/1.png": png(1), "a.b/c.d.png": png(2), "c\x1b/1.png": png(3), "c\x1b/1.gif": png(4)})
    main(["folder", str(tmp_path / "in"), "--out", str(tmp_path / "set"), "--size=8", "--workers=1", "--quiet"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the shards open
        samples = list(webdataset.WebDataset(str(tmp_path / "set" / "set-000000.tar"), shardshuffle=False))
        gc.collect()
    assert {sample["__key__"] for sample in samples} == {"x__/1", "a.b/c_d", "c_/1-gif", "c_/1-png"}
    assert all("png" in sample and "cls" in sample for sample in samples)
